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

"""Plays a bag to the node, with the bag's clock.

    ros2 launch multihmr2_ros replay.launch.py bag:=FOLDER checkpoint:=FILE

Also accepts all arguments of perception.launch.py. Ends with the bag, unless RViz is open or the bag is looped.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetLaunchConfiguration,
    Shutdown,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.ros_adapters import get_ros_node
from launch_ros.utilities import make_namespace_absolute, prefix_namespace

NODE = "perception_node"
LOOK_AGAIN_S = 0.2
IMAGE = "/camera/image_raw"  # default of perception.launch.py
IMAGE_TYPES = {"raw": "sensor_msgs/msg/Image", "compressed": "sensor_msgs/msg/CompressedImage"}
SUFFIX = "/compressed"  # of topics of compressed images
LAST_IMAGE_S = 2.0  # time for the node to process the bag's last image


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument("bag", description="The bag to play."),
            DeclareLaunchArgument("rate", default_value="1.0", description="Speed: 0.5 is half of the recorded one."),
            DeclareLaunchArgument(
                "loop",
                default_value="false",
                choices=["true", "false"],
                description="Whether to begin again at the end.",
            ),
            DeclareLaunchArgument(
                "record",
                default_value="",
                description="Name of a new bag. Records people, TF, markers, overlay images and diagnostics.",
            ),
            OpaqueFunction(function=check),
            OpaqueFunction(function=check_bag),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(Path(__file__).with_name("perception.launch.py"))),
                launch_arguments={"use_sim_time": "true"}.items(),
            ),
            OpaqueFunction(function=recorder),
            OpaqueFunction(function=play_when_the_node_listens),
        ]
    )


def check(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Check the arguments before anything is started. Raises RuntimeError, which ends the launch with its text."""
    bag, rate, record = (LaunchConfiguration(name).perform(context) for name in ("bag", "rate", "record"))
    if not Path(bag).exists():
        raise RuntimeError(f"bag:={bag} does not exist: give a rosbag2 folder, or an .mcap or .db3 file")
    try:
        is_speed = 0.0 < float(rate) < float("inf")
    except ValueError:
        is_speed = False
    if not is_speed:
        raise RuntimeError(f"rate:={rate} must be a number above 0")
    if cameras := LaunchConfiguration("cameras", default="").perform(context):
        raise RuntimeError(f"cameras:={cameras} cannot be replayed together: replay the bag for one camera at a time")
    if record and os.path.lexists(record):
        raise RuntimeError(f"record:={record} already exists: give another name, or remove it")
    if record and not Path(record).parent.is_dir():
        raise RuntimeError(f"record:={record}: the folder {Path(record).parent} does not exist: create it first")
    if LaunchConfiguration("use_sim_time", default="").perform(context).lower() == "false":
        return [LogInfo(msg="use_sim_time:=false has no effect: a replay uses the bag's clock")]
    return []


def check_bag(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Check that the bag can be played and contains the images, before the node loads its weights.

    If only compressed images are recorded, selects them, unless the transport is given. Raises RuntimeError, as above.
    """
    bag, given = (LaunchConfiguration(name, default="").perform(context) for name in ("bag", "transport"))
    image = in_namespace(LaunchConfiguration("image", default=IMAGE).perform(context), context).removesuffix(SUFFIX)
    types = read_topic_types(bag)
    if types is None:
        return []
    recorded = [transport for transport in IMAGE_TYPES if is_recorded(types, image, transport)]
    if not recorded:
        others = {name.removesuffix(SUFFIX) for name, kind in types.items() if kind in IMAGE_TYPES.values()}
        others = sorted(name for name in others if "depth" not in name)
        remedy = f"; it has images on {', '.join(others)}: image:={others[0]}" if others else " or any other topic"
        raise RuntimeError(f"bag:={bag} has no images on {image}{remedy}")
    if given in IMAGE_TYPES and given not in recorded:
        raise RuntimeError(f"bag:={bag} has only {recorded[0]} images on {image}: omit transport:={given}")
    return [SetLaunchConfiguration("transport", recorded[0])] if not given and recorded == ["compressed"] else []


def is_recorded(types: dict[str, str], image: str, transport: str) -> bool:
    return types.get(image if transport == "raw" else image + SUFFIX) == IMAGE_TYPES[transport]


def read_topic_types(bag: str) -> dict[str, str] | None:
    """Return the types of the bag's topics with messages, by name; None if this Python has no reader of bags.

    Raises RuntimeError, as above, if the bag cannot be read.
    """
    try:
        from multihmr2_ros.bags.reading import BagReader
        from multihmr2_ros.errors import UserError
    except ImportError:  # ros2 uses the system's Python, the node perhaps a virtual environment
        return None
    try:
        with BagReader(bag) as reader:
            reader.require_ros2()
            # A damaged file does not contain the numbers of messages.
            return {name: topic.type_name for name, topic in reader.topics.items() if topic.count or reader.damage}
    except UserError as error:
        raise RuntimeError(str(error)) from error


def play_when_the_node_listens(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Play the bag once the node has subscribed, after loading its weights; earlier messages would be lost.

    Everything is read now: later, a launch file that includes this one in a group has taken it back.
    """
    bag, rate, loop, rviz = (LaunchConfiguration(name).perform(context) for name in ("bag", "rate", "loop", "rviz"))
    program, clock = ["ros2", "bag", "play"], ["--clock", "100"]
    if not has_ros2_bag():
        program, clock = [sys.executable, "-m", "multihmr2_ros.ros.play"], ["--stamps", "recorded"]
    command = [*program, bag, *clock, "--rate", rate, *(["--loop"] if loop == "true" else [])]
    player = ExecuteProcess(cmd=command, name="play", env=dict(context.environment), output="screen")
    actions: list[LaunchDescriptionEntity] = [player]
    if rviz != "true":
        actions.append(RegisterEventHandler(OnProcessExit(target_action=player, on_exit=end_after_last_image)))
    image = in_namespace(LaunchConfiguration("image").perform(context), context)
    return when_subscribed(context, [image, f"{image}/compressed"], actions)


def when_subscribed(
    context: LaunchContext, topics: list[str], actions: list[LaunchDescriptionEntity]
) -> list[LaunchDescriptionEntity]:
    """Return the actions once the node has subscribed to one of the topics."""
    graph = get_ros_node(context)
    if any(info.node_name == NODE for topic in topics for info in graph.get_subscriptions_info_by_topic(topic)):
        return actions
    again = OpaqueFunction(function=when_subscribed, args=[topics, actions])
    return [TimerAction(period=LOOK_AGAIN_S, actions=[again])]


def end_after_last_image(event: ProcessExited, context: LaunchContext) -> TimerAction | None:
    """Raises RuntimeError, which ends the launch with exit status 1, if the player failed."""
    if not ends_by_itself(event, context):
        return None
    return TimerAction(period=LAST_IMAGE_S, actions=[Shutdown(reason="the bag has ended")])


def end_without_recorder(event: ProcessExited, context: LaunchContext) -> Shutdown | None:
    """Replaying the rest of the bag is useless. Raises RuntimeError, as above, if the recorder failed."""
    return Shutdown(reason="the recorder has ended") if ends_by_itself(event, context) else None


def ends_by_itself(event: ProcessExited, context: LaunchContext) -> bool:
    """Return whether the launch was not yet ending: launch fails if it is shut down twice.

    Raises RuntimeError if the process failed by itself.
    """
    if context.is_shutdown:
        return False
    if event.returncode != 0:
        raise RuntimeError(f"{event.process_name} has failed: the reason is in its messages above")
    return True


def recorder(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    record = LaunchConfiguration("record").perform(context)
    if not record:
        return []
    topics = [
        in_namespace("humans", context),
        in_namespace(f"{NODE}/markers", context),
        in_namespace(f"{NODE}/overlay/compressed", context),
        "/tf",
        "/tf_static",
        "/diagnostics",
    ]
    command = ["ros2", "bag", "record", "--use-sim-time", "--output", record, *topics]
    if not has_ros2_bag():
        command = [sys.executable, "-m", "multihmr2_ros.ros.record", record, "--topics", *topics]
    return [ExecuteProcess(cmd=command, name="record", on_exit=end_without_recorder, output="screen")]


def in_namespace(name: str, context: LaunchContext) -> str:
    """Return the full name of a topic of the node."""
    if name.startswith("/"):
        return name
    pushed = context.launch_configurations.get("ros_namespace")  # by a launch file that includes this one
    namespace = prefix_namespace(pushed, LaunchConfiguration("namespace", default="").perform(context))
    return f"{make_namespace_absolute(namespace).rstrip('/')}/{name}"


def has_ros2_bag() -> bool:
    try:
        get_package_prefix("ros2bag")
    except PackageNotFoundError:
        return False
    return True
