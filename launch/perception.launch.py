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

"""Starts the node: `ros2 launch multihmr2_ros perception.launch.py image:=/camera/image_raw checkpoint:=FILE`.

If an argument is omitted, the parameter has the value of params_file.
"""

from __future__ import annotations

import os
import sys
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.conditions import IfCondition
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare
from launch_ros.utilities import prefix_namespace

# Relative name in the node → usual topic of camera drivers.
INPUTS = {"image": "/camera/image_raw", "camera_info": "/camera/camera_info", "depth": "/camera/depth/image_raw"}
# Argument → parameter of the node and its type. "" is the value of an omitted argument.
PARAMETERS: dict[str, tuple[str, type]] = {
    "checkpoint": ("checkpoint", str),
    "device": ("device", str),
    "precision": ("precision", str),
    "transport": ("image_transport", str),
    "body_prefix": ("body_prefix", str),
    "fixed_frame": ("fixed_frame", str),
    "ground_frame": ("ground_frame", str),
    "target_frame": ("target_frame", str),
    "autostart": ("autostart", bool),
    "use_sim_time": ("use_sim_time", bool),
}
DESCRIPTIONS = {
    "image": "Topic of the camera's images; compressed images are expected at the same name plus /compressed.",
    "camera_info": "Topic of the CameraInfo of these images.",
    "depth": "Topic of depth images, registered to the color images.",
    "checkpoint": "Weights: a file, or a name from `multihmr2 weights list`.",
    "device": "Device of the network: auto, cpu, cuda or cuda:N.",
    "precision": "Number format of the network: auto, fp32, bf16 or fp16.",
    "transport": "auto, raw or compressed images.",
    "body_prefix": "Prefix of the names of people's TF frames; each camera of a robot needs its own prefix.",
    "fixed_frame": "Fixed TF frame, such as odom; velocities are then over the ground.",
    "ground_frame": "TF frame whose plane z = 0 is the ground, such as base_footprint; the ground refines distances.",
    "target_frame": "TF frame of the published people, such as base_link or map; default: the frame of the images.",
    "autostart": "Whether the node configures and activates itself: true or false.",
    "use_sim_time": "Whether time comes from /clock: true or false.",
}
# Our launch files, with their arguments besides those of this one.
FILES: dict[str, tuple[str, ...]] = {"perception.launch.py": (), "replay.launch.py": ("bag", "rate", "loop", "record")}
# Arguments that launch itself reads.
OF_LAUNCH = ("launch-prefix", "launch-prefix-filter", "emulate_tty", "sigterm_timeout", "sigkill_timeout")
WRONG_CONFIGURATION_STATUS = 2  # exit status of a node that cannot be configured
PROFILES = "FASTDDS_DEFAULT_PROFILES_FILE"
PROFILES_BEFORE_FASTDDS_3 = "FASTRTPS_DEFAULT_PROFILES_FILE"  # the name that Humble and Jazzy read


def generate_launch_description() -> LaunchDescription:
    in_config = [FindPackageShare("multihmr2_ros"), "config"]
    return LaunchDescription(
        [
            DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node."),
            DeclareLaunchArgument(
                "cameras",
                default_value="",
                description="Names of cameras, such as 'front rear', in one process: a node in each of these "
                "namespaces, with images on /front/image_raw and so on. Inputs are then relative names. body_prefix is "
                "the camera's name and _.",
            ),
            *[
                DeclareLaunchArgument(name, default_value=INPUTS[name], description=DESCRIPTIONS[name])
                for name in INPUTS
            ],
            *[
                DeclareLaunchArgument(
                    name, default_value="", description=f"{DESCRIPTIONS[name]} If omitted: the value in params_file."
                )
                for name in PARAMETERS
            ],
            DeclareLaunchArgument(
                "params_file",
                default_value=PathJoinSubstitution([*in_config, "perception.yaml"]),
                description="Parameters of the node; other arguments that are given override it.",
            ),
            DeclareLaunchArgument(
                "respawn",
                default_value="false",
                choices=["true", "false"],
                description="Whether a node that has ended is started again after 2 s, as on a robot. Not after a "
                "mistake in its configuration.",
            ),
            DeclareLaunchArgument(
                "log_level",
                default_value="info",
                choices=["debug", "info", "warn", "error", "fatal"],
                description="What the node logs.",
            ),
            DeclareLaunchArgument(
                "rviz",
                default_value="false",
                choices=["true", "false"],
                description="Whether RViz is started, too; closing it ends everything.",
            ),
            DeclareLaunchArgument(
                "rviz_frame",
                default_value="camera_optical_frame",
                description="Fixed frame of RViz: header.frame_id of the images, or a frame that tf connects with it.",
            ),
            OpaqueFunction(function=check),
            *image_sized_shared_memory(PathJoinSubstitution([*in_config, "fastdds.xml"])),
            OpaqueFunction(function=perception_node),
            OpaqueFunction(function=rviz, condition=IfCondition(LaunchConfiguration("rviz"))),
        ]
    )


def check(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Check the arguments before anything is started. Raises RuntimeError, which ends the launch with its text."""
    check_names(context)
    if LaunchConfiguration("rviz").perform(context) == "true":
        try:
            get_package_prefix("rviz2")
        except PackageNotFoundError as error:
            distribution = os.environ.get("ROS_DISTRO", "jazzy")
            raise RuntimeError(f"rviz:=true needs RViz: sudo apt install ros-{distribution}-rviz2") from error
    params_file = LaunchConfiguration("params_file").perform(context)
    if not os.path.isfile(params_file):
        problem = "is not a file" if os.path.exists(params_file) else "does not exist"
        raise RuntimeError(f"params_file:={params_file} {problem}: give a YAML file of parameters, or omit it")
    if LaunchConfiguration("cameras").perform(context):
        for name, usual in (("rviz", "false"), ("body_prefix", "")):
            if (value := LaunchConfiguration(name).perform(context)) != usual:
                raise RuntimeError(
                    f"{name}:={value} cannot be used with cameras:=: omit it, or start each camera with its own launch"
                )
    for name, (_, kind) in PARAMETERS.items():
        value = LaunchConfiguration(name).perform(context)
        if kind is bool and value.lower() not in ("", "true", "false"):
            raise RuntimeError(f"{name}:={value} must be true or false")
    return []


def check_names(context: LaunchContext) -> None:
    """Refuse arguments that do not exist: launch ignores them. Not if another launch file, with its own, includes ours.

    Raises RuntimeError.
    """
    here = Path(__file__).resolve().parent
    ours = [
        Path(word).name
        for before, word in pairwise(sys.argv)
        if before == "multihmr2_ros" or Path(word).resolve().parent == here
    ]
    file = next((name for name in ours if name in FILES), None)
    if file is None:
        return
    known = [argument.name for argument in generate_launch_description().get_launch_arguments()] + [*FILES[file]]
    for argument in context.argv:
        name = argument.split(":=")[0]
        if name not in known and name not in OF_LAUNCH:
            near = get_close_matches(name, known, n=1)
            remedy = f"did you mean {near[0]}:=?" if near else "--show-args lists all arguments"
            raise RuntimeError(f"{argument}: there is no argument {name}; {remedy}")


def end_everything(event: ProcessExited, context: LaunchContext) -> Shutdown | None:
    """End the launch with the process; with exit status 1 if the process failed, so that systemd and Docker see it.

    Raises RuntimeError, which ends the launch with its text.
    """
    if context.is_shutdown:  # launch fails if it is shut down twice
        return None
    if event.returncode != 0:
        raise RuntimeError(f"{event.process_name} has failed: the reason is in its messages above")
    return Shutdown(reason=f"{event.process_name} has ended")


def end_unless_respawned(event: ProcessExited, context: LaunchContext) -> Shutdown | None:
    """Let launch start the node again, except after a mistake in its configuration, with which it would always end.

    Raises RuntimeError for such a mistake, which ends the launch with its text.
    """
    if context.is_shutdown or event.returncode != WRONG_CONFIGURATION_STATUS:
        return None
    raise RuntimeError(
        f"{event.process_name} cannot be configured: the reason is in its messages above; it is not started again"
    )


def perception_node(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    overrides = {
        parameter: ParameterValue(LaunchConfiguration(name), value_type=kind)
        for name, (parameter, kind) in PARAMETERS.items()
        if LaunchConfiguration(name).perform(context)
    }
    respawn = LaunchConfiguration("respawn").perform(context) == "true"
    inputs = {name: LaunchConfiguration(name).perform(context) for name in INPUTS}
    program: dict[str, Any] = {}
    if cameras := LaunchConfiguration("cameras").perform(context).split():
        # Relative names, which each node resolves in the namespace of its camera.
        inputs = {name: value.removeprefix("/camera/") for name, value in inputs.items()}
        # Node adds the namespace that an including launch file has pushed only to its own, not to these.
        pushed = context.launch_configurations.get("ros_namespace")
        namespace = prefix_namespace(pushed, LaunchConfiguration("namespace").perform(context))
        program["executable"] = "perception_cameras"
        program["arguments"] = [f"{namespace}/{camera}".strip("/") for camera in cameras]
    else:
        program = {"executable": "perception_node", "name": "perception_node"}
        program["namespace"] = LaunchConfiguration("namespace")
    return [
        Node(
            **program,
            package="multihmr2_ros",
            parameters=[LaunchConfiguration("params_file"), *([overrides] if overrides else [])],
            remappings=list(inputs.items()),
            ros_arguments=["--log-level", LaunchConfiguration("log_level")],
            respawn=respawn,
            respawn_delay=2.0,
            on_exit=end_unless_respawned if respawn else end_everything,
            output="screen",
        )
    ]


def rviz(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Return RViz, with its displays set to the topics of this node and this camera."""
    topics = [(f"/perception_node/{name}", f"perception_node/{name}") for name in ("markers", "overlay", "points")]
    cameras = [(INPUTS[name], LaunchConfiguration(name)) for name in ("image", "camera_info")]
    use_sim_time = LaunchConfiguration("use_sim_time").perform(context).lower() == "true"
    return [
        Node(
            package="rviz2",
            executable="rviz2",
            name="rviz",
            namespace=LaunchConfiguration("namespace"),
            parameters=[{"use_sim_time": use_sim_time}],
            remappings=topics + cameras,
            arguments=[
                "--display-config",
                PathJoinSubstitution([FindPackageShare("multihmr2_ros"), "config", "perception.rviz"]),
                "--fixed-frame",
                LaunchConfiguration("rviz_frame"),
            ],
            on_exit=end_everything,
            output="screen",
        )
    ]


def image_sized_shared_memory(profiles: PathJoinSubstitution) -> list[LaunchDescriptionEntity]:
    """Make Fast DDS use the profiles, unless the user has set other profiles."""
    if os.environ.get(PROFILES) or os.environ.get(PROFILES_BEFORE_FASTDDS_3):
        return []
    names = [PROFILES]
    if os.environ.get("ROS_DISTRO", "jazzy") in ("humble", "iron", "jazzy"):  # later versions warn about the old name
        names.append(PROFILES_BEFORE_FASTDDS_3)
    return [SetEnvironmentVariable(name, profiles) for name in names]
