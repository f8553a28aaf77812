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

"""Command lines of ROS programs: help and start of the node, warnings about arguments without effect, and tools."""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from multihmr2_ros import caches
from multihmr2_ros.errors import UserError, suggest_name
from multihmr2_ros.terminal import ArgumentParser, discard_output

from .parameters import DEFAULTS, RULES

# Names that remapping rules may have on their left side. ROS adds more services.
TOPICS = {
    "image": "sensor_msgs/Image", "image/compressed": "sensor_msgs/CompressedImage; follows image",
    "camera_info": "sensor_msgs/CameraInfo", "depth": "sensor_msgs/Image, registered to image",
    "/tf": "in and out", "/tf_static": "in", "/clock": "in, with use_sim_time",
    "humans": "multihmr2_ros/HumanArray", "~/markers": "visualization_msgs/MarkerArray",
    "~/points": "sensor_msgs/PointCloud2", "~/summary": "std_msgs/String", "~/overlay": "sensor_msgs/Image",
    "~/overlay/compressed": "sensor_msgs/CompressedImage; follows ~/overlay", "~/body_model": "multihmr2_ros/BodyModel",
    "/diagnostics": "diagnostic_msgs/DiagnosticArray", "/people": "people_msgs/People",
    "~/detections": "vision_msgs/Detection3DArray", "/humans/bodies/tracked": "hri_msgs/IdsList",
}  # fmt: skip
SERVICES = {"~/enable": "std_srvs/SetBool", "~/reset": "std_srvs/Trigger"}
ROS_SERVICES = ("/rosout", "/parameter_events", "~/transition_event")
DESCRIPTION = "Detects and tracks people in the images of a camera, with their 3D positions. A managed ROS 2 node."
EXAMPLE = """example:
  perception_node --ros-args -r image:=/camera/image_raw -r camera_info:=/camera/camera_info -p checkpoint:=nano
as a launch file: ros2 launch multihmr2_ros perception.launch.py --show-args"""


def check_arguments(arguments: Sequence[str]) -> None:
    """Print help and exit if requested. Raises UserError for arguments that are not ROS arguments.

    arguments: as sys.argv, with the program's name.
    """
    parser = ArgumentParser(
        "perception_node",
        usage="perception_node [-h] [--ros-args [-r NAME:=TOPIC ...] [-p PARAMETER:=VALUE ...] [--params-file FILE]]",
        description=DESCRIPTION, epilog=_format_help(), allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    _, unknown = parser.parse_known_args(_remove_ros_args(arguments, "perception_node"))
    # Before --ros-args, ROS interprets NAME:=VALUE as a remapping rule.
    unknown += [rule for rule in _list_remaps(arguments, old_style_only=True) if rule.partition(":=")[0] in DEFAULTS]
    if unknown:
        name = unknown[0].strip("-_").partition("=")[0].rstrip(":").replace("-", "_")
        parameter = name if name in DEFAULTS else "NAME"
        raise UserError(
            f"expected ROS arguments only, got {' '.join(unknown)!r:.200}; parameters are given as --ros-args -p "
            f"{parameter}:=VALUE; see perception_node --help"
        )


def start_rclpy(arguments: Sequence[str]) -> None:
    """Initialize rclpy. SIGINT and SIGTERM raise KeyboardInterrupt from then on.

    Raises UserError for invalid arguments (see `check_arguments`), and if ROS rejects them.
    """
    check_arguments(arguments)
    _initialize_rclpy(arguments, "perception_node")
    interrupt_on_stop_signals()


def interrupt_on_stop_signals() -> None:
    """From now on, the first SIGINT or SIGTERM raises KeyboardInterrupt. Later ones are ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)


def _remove_ros_args(arguments: Sequence[str], program: str) -> list[str]:
    """Return the arguments after the first that are not for ROS. Raises UserError for invalid ones."""
    try:
        return list(remove_ros_args(list(arguments))[1:])
    except Exception as error:  # rclpy has several types
        raise UserError(_to_one_line(error, program)) from error


def _initialize_rclpy(arguments: Sequence[str], program: str) -> None:
    """Initialize rclpy without its signal handlers. Raises UserError if ROS rejects the arguments."""
    _choose_log_folder()
    try:
        # rclpy's own handlers shut the context down at once, before the last, empty messages are published.
        rclpy.init(args=list(arguments), signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:  # rclpy has several types
        raise UserError(_to_one_line(error, program)) from error


def _choose_log_folder() -> None:
    """Choose a writable log folder, because ROS does not start without one (default: ~/.ros/log)."""
    home = caches.find_home_folder()
    if any(os.environ.get(name) for name in ("ROS_LOG_DIR", "ROS_HOME")):
        return
    if home is None or not caches.is_writable(home / ".ros" / "log"):
        os.environ["ROS_LOG_DIR"] = str(caches.make_temporary_cache() / "ros_log")


def _interrupt(*_: Any) -> None:
    _ignore_stop_signals()
    raise KeyboardInterrupt


def _ignore_stop_signals() -> None:
    """Ignore SIGINT and SIGTERM: a launch file and the terminal both send one, and the second would end the process
    with an error while it ends.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def run_tool(
    name: str, parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int], args: Sequence[str] | None
) -> int:
    """Run a tool within rclpy, and return its status: that of `run`; 0 if SIGINT or SIGTERM interrupts it; 2 for a
    UserError, which is printed; 141 for a closed pipe.

    args: arguments, also of ROS; None: those of the process
    """
    arguments = list(sys.argv[1:] if args is None else args)
    interrupt_on_stop_signals()  # a shell's background jobs begin with SIGINT ignored
    try:
        options = parser.parse_args(_remove_ros_args([name, *arguments], parser.prog))
        _initialize_rclpy(arguments, parser.prog)
        return run(options)
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:  # such as `| head`
        discard_output()
        return 141  # as of a process that SIGPIPE ends
    finally:
        rclpy.try_shutdown()


def resolve_topic(node: Any, name: str) -> str:
    """Return the full name of a topic. Raises UserError if ROS does not allow the name."""
    try:
        return str(node.resolve_topic_name(name))
    except Exception as error:  # rclpy has several types
        reason = _remove_position(error).rpartition("failed to resolve name: ")[2]
        raise UserError(f"expected a topic name such as /camera/image_raw, got {name!r}: {reason}") from error


def collect_stop_signals() -> list[int]:
    """Return a list to which the first SIGINT or SIGTERM is appended from now on. Later ones are ignored."""
    received: list[int] = []

    def collect(number: int, _: Any) -> None:
        _ignore_stop_signals()
        received.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, collect)
    return received


def find_unused_remaps(arguments: Sequence[str], *nodes: Any) -> list[str]:
    """Return a warning for each remapping rule whose name none of the nodes uses."""
    first, *others = (_find_unused_remaps(arguments, node) for node in nodes)
    return [problem for problem in first if all(problem in problems for problems in others)]


def _find_unused_remaps(arguments: Sequence[str], node: Any) -> list[str]:
    known = [*TOPICS, *SERVICES, *ROS_SERVICES]
    of_services = [service.srv_name for service in node.services]
    full = {node.resolve_topic_name(name, only_expand=True) for name in [*known, *of_services]}
    sentences = []
    for rule in _list_remaps(arguments):
        name = rule.partition(":=")[0].removeprefix("rostopic://").removeprefix("rosservice://")
        of_node, colon, rest = name.partition(":")
        if colon:
            if of_node != node.get_name():
                continue
            name = rest
        if name.startswith("__") or "*" in name:  # __node, __ns; patterns
            continue
        if _expand_name(name, node) not in full and not name.startswith("/humans/bodies/"):
            sentences.append(f"the remapping {rule} has no effect: the node has no {name!r}{suggest_name(name, known)}")
    return sentences


def _list_remaps(arguments: Sequence[str], *, old_style_only: bool = False) -> list[str]:
    """Return the remapping rules between --ros-args and --, and the old-style rules outside, which have no -r."""
    rules, is_ros = list[str](), False
    for before, argument in itertools.pairwise(arguments):
        is_ros = argument == "--ros-args" or (is_ros and argument != "--")
        if (before in ("-r", "--remap") and not old_style_only) if is_ros else ":=" in argument:
            rules.append(argument)
    return rules


def _expand_name(name: str, node: Any) -> str:
    try:
        return str(node.resolve_topic_name(name, only_expand=True))
    except Exception:  # rclpy has several types for invalid names
        return name


def _format_help() -> str:
    lines = [
        "names that can be remapped (-r):",
        *(f"  {name:24}{kind}" for name, kind in {**TOPICS, **SERVICES}.items()),
    ]
    lines += ["", "parameters (-p), with their defaults:"]
    for name, default in DEFAULTS.items():
        value = str(default).lower() if isinstance(default, bool) else default if default != "" else '""'
        lines.append(f"  {name + ':=' + str(value):32}{RULES[name].description}")
    return "\n".join([*lines, "", EXAMPLE])


def _to_one_line(error: Exception, program: str) -> str:
    """Return the error's text in one line, and how to get help."""
    text = _remove_position(error)
    if type(error).__name__ == "UnknownROSArgsError":  # its text is only the list of the arguments; not public in rclpy
        text = f"expected -r NAME:=TOPIC or -p PARAMETER:=VALUE, each with its own -r or -p, got {text}"
    return f"{text}; see {program} --help"


def _remove_position(error: Exception) -> str:
    """Return the error's text in one line, without the position in rcl's source code."""
    return " ".join(str(error).split()).partition(", at ./")[0].partition(", at /")[0]
