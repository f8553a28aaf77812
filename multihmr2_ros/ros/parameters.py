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

"""All parameters of the node in one typed table: default, description, range, and when changes take effect."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.parameter import Parameter

from multihmr2_ros.errors import UserError, suggest_name

# Not "on" and "off", because YAML reads these as true and false.
WHEN = ("auto", "always", "never")
QOS_OVERRIDES = "qos_overrides."  # followed by TOPIC.subscription.KIND or TOPIC.publisher.KIND
# Topics whose QoS the parameters may change: the node's inputs, and those of rclpy.
OVERRIDABLE_TOPICS = (
    "image", "image/compressed", "camera_info", "depth", "/tf", "/tf_static", "/clock", "/parameter_events", "/rosout",
)  # fmt: skip
FRAME_NAME = {"pattern": r"([^/\s]\S*)?", "form": "empty, or a frame name without a leading slash and without spaces"}


@dataclass(frozen=True)
class ParameterRule:
    """Rules of one parameter.

    description  one sentence for users
    low, high    allowed range, including both limits
    choices      allowed texts
    pattern      regular expression that a text must match
    form         the same in words
    live         changes take effect with the next image
    fixed        cannot be changed after the node has started
    """

    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    pattern: str = ""
    form: str = ""
    live: bool = False
    fixed: bool = False


def define_parameter(default: Any, description: str, **rule: Any) -> Any:
    """Create an entry of the table. rule: the fields of ParameterRule after the description."""
    return dataclasses.field(default=default, metadata={"rule": ParameterRule(description, **rule)})


@dataclass(frozen=True)
class NodeParameters:
    """The table of parameters. Those that are neither live nor fixed are read when the node is configured."""

    autostart: bool = define_parameter(
        True, "Whether the node configures and activates itself when it starts.", fixed=True
    )
    checkpoint: str = define_parameter("nano", "Weights: a file, or a name from `multihmr2 weights list`.")
    device: str = define_parameter("auto", "Device of the network: auto, cpu, cuda or cuda:N.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = define_parameter(
        "auto", "Number format of the network; auto: the fastest.", choices=("auto", "fp32", "bf16", "fp16")
    )
    threads: int = define_parameter(
        0, "CPU threads of the network. 0: OMP_NUM_THREADS if set, else half of the cores, at most 8.", low=0, high=256
    )
    input_size: int = define_parameter(
        0,
        "Longest side of the network's input (px). Smaller is faster, but misses small people. 0: the network's own.",
        low=0,
        high=4096,
    )
    mesh: Literal["low", "full"] = define_parameter(
        "low",
        "Mesh resolution of markers, points and vertices. The first image after a change takes about 1 s longer.",
        choices=("low", "full"),
        live=True,
    )
    max_people: int = define_parameter(
        20,
        "Maximum number of people in an image; at most the number of the network's queries (nano 24, large network "
        "100). On a GPU, the time of an image depends on this value, not on the number of people, and the first image "
        "after a change takes about 1 s longer.",
        low=1,
        high=200,
        live=True,
    )
    body_prefix: str = define_parameter(
        "body_",
        "Prefix of the names of people's TF frames, followed by the id. Each camera of a robot needs its own prefix.",
        pattern="[A-Za-z][A-Za-z0-9_]*",
        form="letters, digits and _, the first a letter",
    )
    image_transport: str = define_parameter(
        "auto",
        "raw: Image on `image`; compressed: CompressedImage on the topic of `image` plus /compressed; auto: the one "
        "that is published, raw if both are.",
        choices=("auto", "raw", "compressed"),
        live=True,
    )
    diagnostics_period_s: float = define_parameter(
        1.0, "Period of the diagnostics (s).", low=0.1, high=60.0, fixed=True
    )
    image_rectified: bool = define_parameter(
        False, "Whether the images are rectified. If so, CameraInfo.p is used instead of k.", live=True
    )
    vertical_fov_rad: float = define_parameter(
        0.0, "Vertical field of view (rad), used instead of camera_info. 0: not set.", low=0.0, high=3.1, live=True
    )
    score_threshold: float = define_parameter(
        0.4,
        "People with a score at or below this are dropped. Confirmed people are kept down to half of it.",
        low=0.0,
        high=1.0,
        live=True,
    )
    nms_distance_m: float = define_parameter(
        0.25,
        "Non-maximum suppression: of people whose pelvises are nearer than this (m), the best is kept. 0 disables it.",
        low=0.0,
        high=10.0,
        live=True,
    )
    smoothing: Literal["auto", "always", "never"] = define_parameter(
        "auto",
        "Whether poses and distances of people are smoothed over time; auto: with nano, whose errors this reduces.",
        choices=WHEN,
    )
    max_age_s: float = define_parameter(
        0.0,
        "Maximum age of an image (s) when its processing begins; older images are dropped. 0 disables it.",
        low=0.0,
        high=3600.0,
        live=True,
    )
    watchdog_s: float = define_parameter(
        10.0,
        "Per-image time limit (s). Exceeding it is reported in the diagnostics; three times the limit ends the process "
        "with status 3, so that a launch file can start a new one. 0 disables it.",
        low=0.0,
        high=3600.0,
        live=True,
    )
    publish_vertices: bool = define_parameter(False, "Whether HumanArray contains the vertices of the mesh.", live=True)
    fixed_frame: str = define_parameter(
        "",
        "Frame that does not move, such as odom. Velocities are relative to it (TF needed). Empty: velocities are "
        "relative to the camera.",
        **FRAME_NAME,
        live=True,
    )
    ground_frame: str = define_parameter(
        "",
        "Frame whose plane z = 0 is the floor, such as base_footprint. The floor corrects distances (TF needed). "
        "Empty: no floor.",
        **FRAME_NAME,
        live=True,
    )
    target_frame: str = define_parameter(
        "",
        "Frame in which people are published, such as base_link or map (TF needed). Empty: the frame of the image.",
        **FRAME_NAME,
        live=True,
    )
    transform_timeout_s: float = define_parameter(
        0.1,
        "Maximum time that an image waits for its transforms (s). After that it is processed without them; without the "
        "transform to target_frame its people are not published.",
        low=0.0,
        high=10.0,
        live=True,
    )
    use_depth: bool = define_parameter(
        True, "Whether depth images on `depth`, if published, correct distances.", live=True
    )
    depth_max_delay_s: float = define_parameter(
        0.03,
        "Maximum difference between the stamps of an image and its depth image, and maximum time that an image waits "
        "for its depth image (s).",
        low=0.0,
        high=1.0,
        live=True,
    )
    publish_people: Literal["auto", "always", "never"] = define_parameter(
        "auto", "Whether /people is published. auto: if people_msgs is installed.", choices=WHEN
    )
    publish_bodies: Literal["auto", "always", "never"] = define_parameter(
        "auto", "Whether /humans/bodies/* (REP-155) are published. auto: if hri_msgs is installed.", choices=WHEN
    )
    publish_detections: Literal["auto", "always", "never"] = define_parameter(
        "auto", "Whether ~/detections is published. auto: if vision_msgs is installed.", choices=WHEN
    )


RULES: dict[str, ParameterRule] = {field.name: field.metadata["rule"] for field in dataclasses.fields(NodeParameters)}
DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(NodeParameters)}


def declare(node: Any) -> NodeParameters:
    """Declare all parameters on the node and return their values, including overrides.

    Raises UserError for an invalid value.
    """
    values = {}
    for name, default in DEFAULTS.items():
        try:
            values[name] = node.declare_parameter(name, default, _make_descriptor(name)).value
        except Exception as error:  # rclpy has several types for values of a wrong type or out of range
            given = getattr(node, "_parameter_overrides", {}).get(name)  # not public in rclpy
            if isinstance(default, float) and given is not None and type(given.value) is int:
                raise UserError(
                    f"parameter {name} must have a decimal point: expected {float(given.value)}, got {given.value}"
                ) from error
            raise UserError(f"parameter {name}: {' '.join(str(error).split())}") from error
        if refusal := explain_refusal(name, values[name]):
            raise UserError(refusal)
    return NodeParameters(**values)


def find_unknown_parameters(node: Any) -> list[str]:
    """Return a sentence for each overridden parameter, or QoS of a topic, that the node does not have."""
    given = getattr(node, "_parameter_overrides", {})  # not public in rclpy
    topics = [node.resolve_topic_name(topic) for topic in OVERRIDABLE_TOPICS]
    return [
        f"unknown parameter {name!r} is ignored{suggest_name(name, DEFAULTS)}"
        for name in sorted(given)
        if not node.has_parameter(name) and not name.startswith(QOS_OVERRIDES)
    ] + [
        f"parameter {name!r} is ignored: the node has no such topic{suggest_name(topic, topics)}"
        for name, topic in sorted((name, name.removeprefix(QOS_OVERRIDES).split(".")[0]) for name in given)
        if name.startswith(QOS_OVERRIDES) and topic not in topics
    ]


def apply_changes(current: NodeParameters, changes: Sequence[Parameter], *, is_configured: bool) -> NodeParameters:
    """Return the parameters after the changes. Parameters that are not in the table are ignored.

    Raises UserError with the reason if a change is invalid.
    """
    ours = {change.name: change.value for change in changes if change.name in RULES}
    for name, value in ours.items():
        if refusal := explain_refusal(name, value):
            raise UserError(refusal)
        if is_configured and not RULES[name].live and value != getattr(current, name):
            raise UserError(f"parameter {name} can only be changed while the node is unconfigured; call cleanup first")
    return dataclasses.replace(current, **ours)


def explain_refusal(name: str, value: Any) -> str:
    """Return why the value is invalid for the parameter, in one line; "" if it is valid."""
    rule, wanted = RULES[name], type(DEFAULTS[name])
    if type(value) is not wanted:
        return f"parameter {name} must be of type {wanted.__name__}, got {value!r}"
    if rule.choices and value not in rule.choices:
        return f"parameter {name} must be one of {', '.join(rule.choices)}, got {value!r}"
    if rule.pattern and not re.fullmatch(rule.pattern, value):
        return f"parameter {name} must be {rule.form}, got {value!r}"
    if rule.low is not None and rule.high is not None and not rule.low <= value <= rule.high:  # also refuses NaN
        return f"parameter {name} must lie between {rule.low} and {rule.high}, got {value}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"parameter {name} must be finite, got {value}"
    return ""


def _make_descriptor(name: str) -> ParameterDescriptor:
    rule, default = RULES[name], DEFAULTS[name]
    descriptor = ParameterDescriptor(
        name=name,
        description=rule.description + ("" if rule.live or rule.fixed else " Read when the node is configured."),
        read_only=rule.fixed,
        additional_constraints=f"one of {', '.join(rule.choices)}" if rule.choices else rule.form,
    )
    if rule.low is not None and rule.high is not None:
        if isinstance(default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=rule.low, to_value=rule.high)]
        else:
            descriptor.integer_range = [IntegerRange(from_value=int(rule.low), to_value=int(rule.high), step=1)]
    return descriptor
