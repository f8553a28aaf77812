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

"""Every parameter of the node, in one typed table: default, description, range, and whether it may change live."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.parameter import Parameter

from multihmr2_ros.errors import UserError

# Of what needs a message package that may not be installed. Not "on" and "off", which YAML takes for true and false.
WHEN = ("auto", "always", "never")
FRAME_NAME = r"([^/\s]\S*)?"  # or none


@dataclass(frozen=True)
class Rule:
    """What is said about a parameter. low and high are both allowed; pattern: the regular expression of a text; live:
    changes take effect with the next image; fixed: nothing changes it once the node has started."""

    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    pattern: str = ""
    live: bool = False
    fixed: bool = False


def parameter(default: Any, description: str, **rule: Any) -> Any:
    """An entry of the table; rule: what Rule has beside the description."""
    return dataclasses.field(default=default, metadata={"rule": Rule(description, **rule)})


@dataclass(frozen=True)
class NodeParameters:
    """The table. Those that are neither live nor fixed are read when the node is configured."""

    autostart: bool = parameter(True, "Whether the node configures and activates itself when it starts.", fixed=True)
    checkpoint: str = parameter("nano", "Weights: a file, or a name that `multihmr2 weights list` shows.")
    device: str = parameter("auto", "Where the network runs: auto, cpu, cuda or cuda:N.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = parameter(
        "auto", "Number format of the network; auto: the fastest.", choices=("auto", "fp32", "bf16", "fp16")
    )
    threads: int = parameter(
        0, "Threads of the CPU for the network; 0: OMP_NUM_THREADS, else half of the cores, at most 8.", low=0, high=256
    )
    mesh: Literal["low", "full"] = parameter(
        "low",
        "Resolution of markers, points and vertices; the first image after a change takes a second longer.",
        choices=("low", "full"),
        live=True,
    )
    max_people: int = parameter(
        20,
        "The most people in an image; the work is the same for fewer. On a GPU the first image after a change takes a "
        "second longer.",
        low=1,
        high=200,
        live=True,
    )
    body_prefix: str = parameter(
        "body_",
        "What the names of people's TF frames begin with, before the id; cameras of one robot need different ones.",
        pattern="[A-Za-z][A-Za-z0-9_]*",
    )
    image_transport: str = parameter(
        "auto",
        "raw: Image on `image`; compressed: CompressedImage on the topic of `image` with /compressed behind it; auto: "
        "whichever is published, raw where both are.",
        choices=("auto", "raw", "compressed"),
        live=True,
    )
    diagnostics_period_s: float = parameter(1.0, "Time between two diagnostics (s).", low=0.1, high=60.0, fixed=True)
    image_rectified: bool = parameter(
        False, "Whether the images are rectified: CameraInfo.p holds for them instead of k.", live=True
    )
    vertical_fov_rad: float = parameter(
        0.0, "Vertical field of view (rad), used instead of camera_info; 0: not given.", low=0.0, high=3.1, live=True
    )
    score_threshold: float = parameter(0.4, "Score that a person must exceed.", low=0.0, high=1.0, live=True)
    nms_distance_m: float = parameter(
        0.25, "Of people whose pelvises are nearer (m), the best stays; 0: all stay.", low=0.0, high=10.0, live=True
    )
    max_age_s: float = parameter(
        0.0, "Images older than this (s) when their turn comes are dropped; 0: none.", low=0.0, high=3600.0, live=True
    )
    watchdog_s: float = parameter(
        10.0,
        "The longest that one image may take (s) before the diagnostics say so; after three times as long the process "
        "ends with status 3, for a new one; 0: any time.",
        low=0.0,
        high=3600.0,
        live=True,
    )
    publish_vertices: bool = parameter(False, "Whether HumanArray carries the vertices of the mesh.", live=True)
    fixed_frame: str = parameter(
        "",
        "Frame that does not move, such as odom: velocities are over the ground, through TF; empty: relative to the "
        "camera.",
        pattern=FRAME_NAME,
        live=True,
    )
    ground_frame: str = parameter(
        "",
        "Frame whose plane z = 0 is the floor, such as base_footprint: through TF, it corrects distances; empty: none.",
        pattern=FRAME_NAME,
        live=True,
    )
    target_frame: str = parameter(
        "",
        "Frame that people are published in, such as base_link or map, through TF; empty: the image's.",
        pattern=FRAME_NAME,
        live=True,
    )
    transform_timeout_s: float = parameter(
        0.1,
        "The longest that an image waits for its transforms (s); then it does without them, or, for target_frame, is "
        "not published.",
        low=0.0,
        high=10.0,
        live=True,
    )
    use_depth: bool = parameter(
        True, "Whether depth images on `depth` correct distances, where some are published.", live=True
    )
    depth_max_delay_s: float = parameter(
        0.03,
        "The most that the stamps of an image and its depth image differ by, and that an image waits for it (s).",
        low=0.0,
        high=1.0,
        live=True,
    )
    publish_people: Literal["auto", "always", "never"] = parameter(
        "auto", "Whether /people is published; auto: where people_msgs is installed.", choices=WHEN
    )
    publish_bodies: Literal["auto", "always", "never"] = parameter(
        "auto", "Whether /humans/bodies/* (REP-155) are published; auto: where hri_msgs is installed.", choices=WHEN
    )
    publish_detections: Literal["auto", "always", "never"] = parameter(
        "auto", "Whether ~/detections is published; auto: where vision_msgs is installed.", choices=WHEN
    )


RULES: dict[str, Rule] = {field.name: field.metadata["rule"] for field in dataclasses.fields(NodeParameters)}
DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(NodeParameters)}


def declare(node: Any) -> NodeParameters:
    """Declare all parameters on the node; the values with what the user overrode.

    Raises UserError for a value that is refused.
    """
    values = {}
    for name, default in DEFAULTS.items():
        try:
            values[name] = node.declare_parameter(name, default, _descriptor(name)).value
        except Exception as error:  # rclpy has several types for values of a wrong type or out of range
            raise UserError(f"parameter {name}: {' '.join(str(error).split())}") from error
        if refusal := refusal_of(name, values[name]):
            raise UserError(refusal)
    return NodeParameters(**values)


def unknown_parameters(node: Any) -> list[str]:
    """A sentence about each value that the user gave to a parameter that the node does not have."""
    given = getattr(node, "_parameter_overrides", {})  # rclpy has no public name for them
    return [
        f"unknown parameter {name!r} is ignored{did_you_mean(name, DEFAULTS)}"
        for name in sorted(given)
        if not node.has_parameter(name) and not name.startswith("qos_overrides.")
    ]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest known name as a question, to be put behind a sentence; "" where none is near."""
    nearest = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def changed(current: NodeParameters, changes: Sequence[Parameter], *, is_configured: bool) -> NodeParameters:
    """The parameters after changes, some of which may be of names that are not ours.

    Raises UserError with the reason where one of them is refused.
    """
    ours = {change.name: change.value for change in changes if change.name in RULES}
    for name, value in ours.items():
        if refusal := refusal_of(name, value):
            raise UserError(refusal)
        if is_configured and not RULES[name].live and value != getattr(current, name):
            raise UserError(f"parameter {name} can only change while the node is not configured; clean it up first")
    return dataclasses.replace(current, **ours)


def refusal_of(name: str, value: Any) -> str:
    """Why the value cannot be the parameter's, in one line; "" where it can."""
    rule, wanted = RULES[name], type(DEFAULTS[name])
    if type(value) is not wanted:
        return f"parameter {name} must be of type {wanted.__name__}, got {value!r}"
    if rule.choices and value not in rule.choices:
        return f"parameter {name} must be one of {', '.join(rule.choices)}, got {value!r}"
    if rule.pattern and not re.fullmatch(rule.pattern, value):
        return f"parameter {name} must be of the form {rule.pattern}, got {value!r}"
    if rule.low is not None and rule.high is not None and not rule.low <= value <= rule.high:  # also refuses NaN
        return f"parameter {name} must lie between {rule.low} and {rule.high}, got {value}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"parameter {name} must be finite, got {value}"
    return ""


def _descriptor(name: str) -> ParameterDescriptor:
    rule, default = RULES[name], DEFAULTS[name]
    descriptor = ParameterDescriptor(
        name=name,
        description=rule.description + ("" if rule.live or rule.fixed else " Read when the node is configured."),
        read_only=rule.fixed,
        additional_constraints=f"one of {', '.join(rule.choices)}" if rule.choices else rule.pattern,
    )
    if rule.low is not None and rule.high is not None:
        if isinstance(default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=rule.low, to_value=rule.high)]
        else:
            descriptor.integer_range = [IntegerRange(from_value=int(rule.low), to_value=int(rule.high), step=1)]
    return descriptor
