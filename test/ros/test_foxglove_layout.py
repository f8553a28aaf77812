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

"""config/foxglove_layout.json against the node's topic names and message fields."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from test import paths

rclpy = pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

from multihmr2_ros.cli.simulated_outputs import CAMERA_FRAME
from multihmr2_ros.ros.node import PerceptionNode
from test.helpers.ros_domain import DOMAIN_ID
from test.helpers.stand_in_estimator import StandInEstimator

LAYOUT = json.loads((paths.ROOT / "config" / "foxglove_layout.json").read_text(encoding="utf-8"))
PANELS: dict[str, Any] = LAYOUT["configById"]
# For each kind of panel: the key of its topic and the types that it displays.
IMAGES = {"sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"}
SHOWN_IN_3D = {"visualization_msgs/msg/MarkerArray", "sensor_msgs/msg/PointCloud2"}


@pytest.fixture(scope="module")
def published() -> Iterator[dict[str, type]]:
    """Return the message class of each topic that a node with default parameters publishes."""
    rclpy.init(domain_id=DOMAIN_ID)
    try:
        node = PerceptionNode(StandInEstimator)
        yield {publisher.topic_name: publisher.msg_type for publisher in node.publishers}
        node.close()
        node.destroy_node()
    finally:
        rclpy.try_shutdown()


def type_name(message: type) -> str:
    return f"{message.__module__.split('.')[0]}/msg/{message.__name__}"


def panels(kind: str) -> list[dict[str, Any]]:
    return [panel for name, panel in PANELS.items() if name.startswith(f"{kind}!")]


def panels_of(layout: Any) -> list[str]:
    return [layout] if isinstance(layout, str) else panels_of(layout["first"]) + panels_of(layout["second"])


def strings(value: Any) -> Iterator[str]:
    """Yield every string and key in the value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)


def test_every_panel_has_a_place() -> None:
    assert sorted(panels_of(LAYOUT["layout"])) == sorted(PANELS)
    assert {name.partition("!")[0] for name in PANELS} == {"3D", "Image", "DiagnosticSummary", "Plot"}


def test_every_topic_is_published(published: dict[str, type]) -> None:
    topics = {re.split(r"[.\[]", text)[0] for text in strings(PANELS) if text.startswith("/")}
    assert topics == {
        "/humans", "/diagnostics", "/perception_node/markers", "/perception_node/points",
        "/perception_node/overlay/compressed",
    }  # fmt: skip
    assert topics <= set(published)


def test_panels_show_the_types_of_their_topics(published: dict[str, type]) -> None:
    for panel in panels("3D"):
        assert {type_name(published[topic]) for topic in panel["topics"]} <= SHOWN_IN_3D
    for panel in panels("Image"):
        assert type_name(published[panel["imageMode"]["imageTopic"]]) in IMAGES
    for panel in panels("DiagnosticSummary"):
        assert type_name(published[panel["topicToRender"]]) == "diagnostic_msgs/msg/DiagnosticArray"


def test_plotted_paths_lead_to_numbers(published: dict[str, type]) -> None:
    paths = [path for panel in panels("Plot") for path in panel["paths"]]
    assert len(paths) == 3
    for path in paths:
        topic, *fields = path["value"].split(".")
        message: Any = published[topic]
        for field in fields:
            name, index = re.fullmatch(r"(\w+)(\[:\])?", field).groups()  # type: ignore[union-attr]
            kind = message.get_fields_and_field_types()[name]
            assert bool(index) == kind.startswith("sequence<"), path
            message = of_kind(kind.removeprefix("sequence<").removesuffix(">"))
        assert message is float, path
        assert path["timestampMethod"] != "headerStamp" or hasattr(published[topic](), "header")


def of_kind(kind: str) -> Any:
    """Return the class of a field's type: a message, or float."""
    if kind in ("double", "float"):
        return float
    package, _, name = kind.partition("/")
    return getattr(__import__(f"{package}.msg", fromlist=[name]), name)


def test_the_frame_is_that_of_simulated_images() -> None:
    (panel,) = panels("3D")
    assert panel["followTf"] == CAMERA_FRAME
