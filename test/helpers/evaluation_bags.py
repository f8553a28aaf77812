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

"""Bags of posed bodies with ground truth, and an estimator that returns the truth with known errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from multihmr2_ros.bags.humans import HUMAN_ARRAY, HUMANS_TOPIC, TRUTH_TOPIC, human_array_to_cdr
from multihmr2_ros.bags.writing import BagWriter
from multihmr2_ros.body import Body
from multihmr2_ros.camera import project
from multihmr2_ros.frame import Frame
from multihmr2_ros.messages.content import HeaderContent
from multihmr2_ros.messages.human_array import Timing, people_to_content
from multihmr2_ros.people import IntrinsicsSource, People
from multihmr2_ros.ros.standing_people import make_standing_people
from test.helpers.bag_factory import START_NS, TYPES, camera_info, header, make, raw_image, serialized

WIDTH, HEIGHT, FOCAL, STEP_NS = 320, 240, 250.0, 100_000_000
K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])


@cache
def body() -> Body:
    return Body("low")


@cache
def standing(count: int) -> People:
    return make_standing_people(body(), count, (HEIGHT, WIDTH))


def at(people: People, pelvis: np.ndarray) -> People:
    """Return the same bodies with their pelvises moved, seen by the camera K."""
    shift = (np.asarray(pelvis, np.float64) - people.pelvis)[:, None]
    joints = people.joints + shift
    return dataclasses.replace(
        people,
        pelvis=joints[:, 0].astype(np.float32),
        joints=joints.astype(np.float32),
        joints_2d=project(joints.astype(np.float64), K).astype(np.float32),
        vertices=(people.vertices + shift).astype(np.float32),
        k=K,
        vertical_fov=2 * float(np.arctan(HEIGHT / (2 * FOCAL))),
        predicted_vertical_fov=2 * float(np.arctan(HEIGHT / (2 * FOCAL))),
        intrinsics_source=IntrinsicsSource.K,
        image_size=(HEIGHT, WIDTH),
    )


def scene(index: int, count: int = 3) -> People:
    """Return the true people of a frame: side by side, walking slowly along x, all fully visible."""
    people = standing(count)
    pelvis = np.stack([np.linspace(-1.5, 1.5, count) + 0.01 * index, np.zeros(count), 4.0 + np.arange(count)], axis=1)
    return dataclasses.replace(at(people, pelvis), score=np.ones(count, np.float32))


def humans(people: People, stamp_ns: int, frame_id: str = "camera", timing: Timing | None = None) -> bytes:
    header = HeaderContent(*divmod(stamp_ns, 10**9), frame_id)
    content = people_to_content(people, header, timing or Timing(), with_vertices=True)
    return human_array_to_cdr(content)


def image(index: int) -> np.ndarray:
    """Return an image (HEIGHT, WIDTH, 3) uint8 RGB whose first pixels encode the index."""
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    image[0, 0] = index >> 16, index >> 8 & 255, index & 255
    return image


def png(index: int, stamp_ns: int) -> Any:
    """Return the same image as a lossless sensor_msgs/CompressedImage of some hundred bytes."""
    _, data = cv2.imencode(".png", image(index)[..., ::-1])
    return make(TYPES["compressed"], header=header(stamp_ns), format="png", data=data.ravel())


def index_of(image: np.ndarray) -> int:
    high, middle, low = (int(value) for value in image[0, 0])
    return high << 16 | middle << 8 | low


def stamp_of(index: int) -> int:
    return START_NS + index * STEP_NS


def info(stamp_ns: int) -> Any:
    message = camera_info(stamp_ns, focal=FOCAL, width=WIDTH)
    message.height = HEIGHT
    message.k = K.ravel()
    return message


def write_scene(
    path: Path,
    frames: int = 20,
    *,
    truth: Callable[[int], People | None] = scene,
    images: bool = True,
    recorded: Callable[[int], People | None] | None = None,
    frame_id: str = "camera",
    recorded_frame: str = "camera",
    extra: list[tuple[str, int, Any]] | None = None,
    stamp: Callable[[int], int] = stamp_of,
    compressed: bool = False,
) -> Path:
    """Write a bag of a camera with its calibration and the ground truth.

    `truth` and `recorded` return None for frames without a message; frame_id and recorded_frame are their TF frames.
    """
    with BagWriter(path) as writer:
        for topic, time_ns, message in extra or []:
            writer.write(topic, message.__msgtype__, serialized(message), time_ns)
        for index in range(frames):
            time_ns, stamp_ns = stamp_of(index), stamp(index)
            if images:
                message = info(stamp_ns)
                writer.write("/camera/camera_info", message.__msgtype__, serialized(message), time_ns)
                message = png(index, stamp_ns) if compressed else raw_image(image(index), "rgb8", stamp_ns)
                topic = "/camera/image_raw" + ("/compressed" if compressed else "")
                writer.write(topic, message.__msgtype__, serialized(message), time_ns)
            true = truth(index)
            if true is not None:
                writer.write(TRUTH_TOPIC, HUMAN_ARRAY, humans(true, stamp_ns, frame_id), time_ns)
            found = recorded(index) if recorded is not None else None
            if found is not None:
                timing = Timing(0.01, 0.02, 0.05 + 0.001 * index, dropped_frames=index // 5)
                writer.write(
                    HUMANS_TOPIC, HUMAN_ARRAY, humans(found, stamp_ns, recorded_frame, timing), time_ns + 50_000_000
                )
    return path


class TruthfulEstimator:
    """Estimator that returns the true people of each `image`, modified by `change`.

    With predicted intrinsics it assumes a field of view of 60 degrees, and so places people of the same size elsewhere.
    """

    def __init__(self, change: Callable[[int, People], People] = lambda index, people: people) -> None:
        self.body = body()
        self.faces = self.body.faces
        self.change = change
        self.seen: list[int] = []

    def step(self, frame: Frame, /) -> People:
        k, intrinsics_source = frame.k, frame.intrinsics_source
        index = index_of(frame.image)
        self.seen.append(index)
        people = self.change(index, scene(index))
        if k is None:
            focal = HEIGHT / 2 / np.tan(np.radians(30))
            people = at(people, people.pelvis * [1, 1, focal / FOCAL])
            k = np.array([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]])
            intrinsics_source = IntrinsicsSource.PREDICTED
        fov = np.radians(60)
        return dataclasses.replace(people, k=k, predicted_vertical_fov=fov, intrinsics_source=intrinsics_source)

    def reset(self) -> None:
        self.seen.clear()
