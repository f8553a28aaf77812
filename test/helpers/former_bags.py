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

"""Bags in the format of the previous version: joints as Point32[], joint_rotations as Quaternion[], no image size."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from multihmr2_ros.bags.reading import BagReader

HUMAN_ARRAY = "multihmr2_ros/msg/HumanArray"
HUMAN_TEXT = """
# One person in one image.
uint32 NO_TRACK=4294967295   # track_id of a person without an identity
uint8 UNTRACKED=0            # no identity
uint8 TENTATIVE=1            # seen too few times to be trusted: it may be a false detection
uint8 CONFIRMED=2            # seen often enough; only confirmed people have a TF frame
uint32 track_id
string frame_id
uint8 state
float64 age
float32 score
geometry_msgs/PoseWithCovariance pelvis
geometry_msgs/Vector3 velocity
float64[9] velocity_covariance
string velocity_frame
float32 stature
float32[6] phenotype
sensor_msgs/RegionOfInterest box
# Heads of the bones in header.frame_id (m), in the order of BodyModel.bone_labels. joints[0] is the pelvis.
geometry_msgs/Point32[] joints
float32[] joints_2d
geometry_msgs/Quaternion[] joint_rotations
float32[] vertices
"""
HUMAN_ARRAY_TEXT = """
# All people of one image.
uint8 INTRINSICS_PREDICTED=0
uint8 INTRINSICS_K=1
uint8 INTRINSICS_P=2
uint8 INTRINSICS_PARAMETER=3
std_msgs/Header header
float64[9] k
uint8 intrinsics_source
float64 vertical_fov
float64 age_at_receipt
float64 inference_time
float64 total_latency
uint32 dropped_frames
Human[] humans
"""


def former_typestore() -> Any:
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg(HUMAN_TEXT, "multihmr2_ros/msg/Human"))
    store.register(get_types_from_msg(HUMAN_ARRAY_TEXT, HUMAN_ARRAY))
    return store


def write_former_bag(source: Path, target: Path, storage: StoragePlugin = StoragePlugin.MCAP) -> Path:
    """Copy a bag into a folder, with its HumanArrays converted to the previous format."""
    store = former_typestore()
    with BagReader(source) as bag, Writer(target, version=8, storage_plugin=storage) as writer:
        connections = {
            name: writer.add_connection(name, topic.type_name, typestore=store) for name, topic in bag.topics.items()
        }
        for message in bag.messages():
            data = message.data
            if message.type_name == HUMAN_ARRAY:
                data = bytes(store.serialize_cdr(_former(bag.decode(message), store.types), HUMAN_ARRAY))
            writer.write(connections[message.topic], message.time_ns, data)
    return target


def remove_definitions(bag: Path) -> None:
    """Remove the message definitions from a .db3, as in bags recorded with Humble's `ros2 bag record`."""
    (file,) = bag.glob("*.db3")
    with sqlite3.connect(file) as database:
        database.execute("DELETE FROM message_definitions")


def _former(message: Any, types: Any) -> Any:
    point, quaternion = types["geometry_msgs/msg/Point32"], types["geometry_msgs/msg/Quaternion"]
    humans = []
    for human in message.humans:
        fields = dict(vars(human))
        fields["joints"] = [point(*map(float, each)) for each in human.joints.reshape(-1, 3)]
        fields["joint_rotations"] = [quaternion(*map(float, each)) for each in human.joint_rotations.reshape(-1, 4)]
        humans.append(types["multihmr2_ros/msg/Human"](**fields))
    fields = {name: value for name, value in vars(message).items() if name not in ("width", "height")}
    return types[HUMAN_ARRAY](**(fields | {"humans": humans}))
