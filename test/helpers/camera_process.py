# Copyright 2026 multihmr2_ros maintainers
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Camera process: gray 640 × 480 images at 30 Hz until it is killed, and camera_info with the same stamps.

    python -m test.helpers.camera_process [--info-after SECONDS] [--info-width PX] [--jump-every SECONDS]

With --jump-every, the stamps alternately jump back and forward by 10 s.
"""

from __future__ import annotations

import argparse
import math
import time

import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

WIDTH, HEIGHT, RATE_HZ, FOCAL_PX = 640, 480, 30.0, 500.0
FRAME = "camera_optical"
JUMP_S = 10
SENSOR_DATA = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)


def camera_info(width: int) -> CameraInfo:
    message = CameraInfo(width=width, height=HEIGHT)
    message.k = [FOCAL_PX, 0.0, WIDTH / 2, 0.0, FOCAL_PX, HEIGHT / 2, 0.0, 0.0, 1.0]
    message.header.frame_id = FRAME
    return message


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--info-after", type=float, default=0.0)
    parser.add_argument("--info-width", type=int, default=WIDTH)
    parser.add_argument("--jump-every", type=float, default=math.inf)
    options = parser.parse_args()
    rclpy.init()
    node = rclpy.create_node("camera")
    images = node.create_publisher(Image, "image", SENSOR_DATA)
    infos = node.create_publisher(CameraInfo, "camera_info", 10)  # reliable
    image, info = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH), camera_info(options.info_width)
    image.data.frombytes(bytes([90]) * (3 * WIDTH * HEIGHT))
    image.header.frame_id = FRAME
    start_s = time.monotonic()

    def publish() -> None:
        stamp = node.get_clock().now().to_msg()
        stamp.sec -= JUMP_S * int((time.monotonic() - start_s) / options.jump_every % 2)
        image.header.stamp = info.header.stamp = stamp
        if time.monotonic() - start_s >= options.info_after:
            infos.publish(info)
        images.publish(image)

    node.create_timer(1.0 / RATE_HZ, publish)
    rclpy.spin(node)


if __name__ == "__main__":
    main()
