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

"""config/nav2_people.yaml and docs/navigation.md against the node, ROS's parameter parser and Nav2's documentation."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import yaml

from test.paths import ROOT

CONFIG = ROOT / "config" / "nav2_people.yaml"
PAGE = (ROOT / "docs" / "navigation.md").read_text(encoding="utf-8")
TREE = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))

# The parameters of Nav2 with their defaults, from the code of its Jazzy branch (nav2_costmap_2d, opennav_following,
# opennav_docking's controller; August 2026), and those of the social layer from its README.
COSTMAP = {
    "global_frame": "map", "rolling_window": False, "width": 5, "height": 5, "resolution": 0.1, "plugins": [],
}  # fmt: skip
LAYERS: dict[str, dict[str, Any]] = {
    "nav2_costmap_2d::StaticLayer": {
        "enabled": True, "map_subscribe_transient_local": True, "map_topic": "", "subscribe_to_updates": False,
    },
    "nav2_costmap_2d::InflationLayer": {
        "enabled": True, "inflation_radius": 0.55, "cost_scaling_factor": 10.0, "inflate_unknown": False,
        "inflate_around_unknown": False,
    },
    "nav2_costmap_2d::ObstacleLayer": {
        "enabled": True, "footprint_clearing_enabled": True, "min_obstacle_height": 0.0, "max_obstacle_height": 2.0,
        "combination_method": 1, "observation_sources": "",
    },
    "nav2_social_costmap_plugin::SocialLayer": {
        "enabled": True, "cutoff": 5.0, "amplitude": 255.0, "covariance_front_height": 0.25,
        "covariance_front_width": 0.25, "covariance_rear_height": 0.25, "covariance_rear_width": 0.25,
        "covariance_when_still": 0.25, "use_vel_factor": True, "speed_factor_multiplier": 5.0, "use_passing": True,
        "covariance_right_height": 0.25, "covariance_right_width": 0.25, "publish_occgrid": False,
    },
}  # fmt: skip
SOURCE = {
    "topic": "", "sensor_frame": "", "observation_persistence": 0.0, "expected_update_rate": 0.0,
    "data_type": "LaserScan", "min_obstacle_height": 0.0, "max_obstacle_height": 0.0, "inf_is_valid": False,
    "marking": True, "clearing": False, "obstacle_max_range": 2.5, "obstacle_min_range": 0.0,
    "raytrace_max_range": 3.0, "raytrace_min_range": 0.0,
}  # fmt: skip
FOLLOWING = {
    "controller_frequency": 50.0, "detection_timeout": 2.0, "rotate_to_object_timeout": 10.0,
    "static_object_timeout": -1.0, "linear_tolerance": 0.15, "angular_tolerance": 0.15, "max_retries": 3,
    "base_frame": "base_link", "fixed_frame": "odom", "filter_coef": 0.1, "desired_distance": 1.0,
    "skip_orientation": True, "search_by_rotating": False, "search_angle": 1.57, "odom_topic": "odom",
    "odom_duration": 0.3, "transform_tolerance": 0.1, "controller": {},
}  # fmt: skip
CONTROLLER = {
    "k_phi": 3.0, "k_delta": 2.0, "beta": 0.4, "lambda": 2.0, "v_linear_min": 0.1, "v_linear_max": 0.25,
    "v_angular_max": 0.75, "slowdown_radius": 0.25, "use_collision_detection": False, "transform_tolerance": 0.1,
}  # fmt: skip


def costmap(name: str) -> dict[str, Any]:
    return dict(TREE[name][name]["ros__parameters"])


@pytest.mark.parametrize("name", ["local_costmap", "global_costmap"])
def test_every_layer_is_listed_and_has_only_parameters_that_it_knows(name: str) -> None:
    parameters = costmap(name)
    layers = {key: value for key, value in parameters.items() if isinstance(value, dict)}
    assert sorted(parameters["plugins"]) == sorted(layers)
    assert parameters["plugins"][-1] == "social_layer", "the inflation must not spread it"
    for layer in layers.values():
        sources = layer.get("observation_sources", "").split()
        assert set(layer) - {"plugin"} - set(sources) <= set(LAYERS[layer["plugin"]])
        for source in sources:
            assert set(layer[source]) <= set(SOURCE)


def test_the_following_server_has_only_parameters_that_it_knows() -> None:
    parameters = TREE["following_server"]["ros__parameters"]
    assert set(parameters) <= set(FOLLOWING)
    assert set(parameters["controller"]) <= set(CONTROLLER)


# --- with Nav2's defaults: parameters missing from the sample also have values


def obstacle_layer() -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the obstacle layer of the local costmap and its sources by name, with Nav2's defaults if unset."""
    layer = LAYERS["nav2_costmap_2d::ObstacleLayer"] | costmap("local_costmap")["obstacle_layer"]
    return layer, {name: SOURCE | layer[name] for name in layer["observation_sources"].split()}


def test_every_source_lets_points_through() -> None:
    layer, sources = obstacle_layer()
    assert set(sources) == {"scan", "people"}
    for source in sources.values():
        # observation_buffer.cpp drops points outside of the source's heights; the layer's own limits apply in addition.
        assert source["min_obstacle_height"] < 0.2 < 1.8 < source["max_obstacle_height"]
        assert source["max_obstacle_height"] <= layer["max_obstacle_height"]
        assert source["marking"]
    assert sources["scan"]["data_type"] == "LaserScan"
    assert sources["people"]["data_type"] == "PointCloud2"
    assert sources["people"]["min_obstacle_height"] > 0, "feet may reach into the floor"
    assert sources["people"]["observation_persistence"] == 0


def test_people_are_cleared_wherever_they_are_marked() -> None:
    _, sources = obstacle_layer()
    assert not sources["people"]["clearing"]
    clearing = [source for source in sources.values() if source["clearing"]]
    assert clearing, "nothing would ever be cleared"
    for source in clearing:
        assert source["raytrace_min_range"] == 0
        assert source["raytrace_max_range"] >= sources["people"]["obstacle_max_range"] + 0.5, "the camera is elsewhere"
        assert source["inf_is_valid"], "a ray that hits nothing would clear nothing"
        # With inf_is_valid such a ray becomes a point at range_max, which must not be marked: 3.5 m for small lidars.
        assert source["obstacle_max_range"] < 3.5


def test_people_are_marked_in_the_whole_window_around_the_robot() -> None:
    window, (_, sources) = COSTMAP | costmap("local_costmap"), obstacle_layer()
    assert window["rolling_window"]
    assert window["global_frame"] == TREE["/**/perception_node"]["ros__parameters"]["fixed_frame"]
    assert type(window["width"]) is type(window["height"]) is int, "Nav2 declares them as integers"
    assert sources["people"]["obstacle_max_range"] >= math.hypot(window["width"], window["height"]) / 2


def lines_of_values() -> list[tuple[str, Any, str, dict[str, Any]]]:
    """Return each parameter of the sample: name, value, the comment on its line, and the defaults of its parent."""
    found, path = [], list[tuple[int, str]]()
    for line in CONFIG.read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r'( *)([\w*/]+):(?: ("[^"]*"|\[.*?\]|[^#"\[]+?))??(?: # ?(.*))?', line)
        if match is None:
            continue
        spaces, name, value, comment = match.groups(default="")
        path = [*(entry for entry in path if entry[0] < len(spaces)), (len(spaces), name)]
        if value:
            node: Any = TREE
            for _, key in path[:-1]:
                node = node[key]
            found.append((name, node[name], comment, defaults_of([key for _, key in path], node)))
    return found


def defaults_of(path: list[str], node: dict[str, Any]) -> dict[str, Any]:
    if "perception_node" in path[0]:
        return {}
    if path[0] == "following_server":
        return CONTROLLER if "controller" in path[:-1] else FOLLOWING
    return LAYERS[node["plugin"]] if "plugin" in node else SOURCE if "topic" in node else COSTMAP


def test_every_value_is_justified_and_what_comments_say_of_defaults_is_so() -> None:
    lines = lines_of_values()
    assert len(lines) == len(flat(TREE))
    for name, value, comment, defaults in lines:
        if name in ("plugin", "topic", "data_type") or name.startswith("covariance_"):
            continue
        assert comment, f"{name} has no comment"
        default = re.search(r"\((?:Nav2's|its) default: ([\w.']+)[,)]", comment)
        if default is not None:
            assert yaml.safe_load(default[1]) == defaults[name], f"{name}: {comment}"
            assert value != defaults[name], f"{name}: {comment}"
        elif re.match(r"(Nav2's|its) default\b", comment):
            assert value == defaults[name], f"{name}: {comment}"
        else:
            assert name not in defaults or name in ("plugins", "observation_sources"), f"{name}: {comment}"


def test_costs_of_personal_space_are_the_same_in_both_costmaps_and_can_be_crossed() -> None:
    local, world = (costmap(name)["social_layer"] for name in ("local_costmap", "global_costmap"))
    assert local == world
    assert local["cutoff"] < local["amplitude"] < 253  # nav2_costmap_2d's INSCRIBED_INFLATED_OBSTACLE


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target


# --- against the node and ROS


def test_the_parameters_of_the_node_are_its_own() -> None:
    pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
    from multihmr2_ros.ros.parameters import DEFAULTS, explain_refusal

    ours = TREE["/**/perception_node"]["ros__parameters"]
    assert set(ours) <= set(DEFAULTS)
    assert not [refusal for name, value in ours.items() if (refusal := explain_refusal(name, value))]
    for name in ("people", "bodies", "detections"):
        assert f"`publish_{name}`" in PAGE
        assert DEFAULTS[f"publish_{name}"] == "auto"


def test_the_topics_are_the_nodes() -> None:
    pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
    pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")
    from sensor_msgs.msg import PointCloud2

    from multihmr2_ros.ros.interfaces import bodies, detections, people
    from multihmr2_ros.ros.node import PerceptionNode
    from test.helpers.ros_wire import ros_context
    from test.helpers.stand_in_estimator import StandInEstimator

    topic = costmap("local_costmap")["obstacle_layer"]["people"]["topic"]
    with ros_context():
        node = PerceptionNode(StandInEstimator)
        kinds = {each.topic_name: each.msg_type for each in node.publishers}
        assert kinds[topic] is PointCloud2
        assert node.close()
        node.destroy_node()
    rows = re.findall(r"^\| `([~/][^`]*)` \| `\w+/\w+` \|", PAGE, re.MULTILINE)
    assert set(rows) == {people.TOPIC, bodies.TRACKED, detections.TOPIC} | {
        f"{bodies.NAMESPACE}/<id>/{name}" for name in ("roi", "skeleton2d", "cropped")
    }


def test_what_the_page_says_of_numbers_is_so() -> None:
    pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
    pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")
    from multihmr2_ros.ros.interfaces.bodies import KEEP_TOPICS_S, MAX_BODIES, make_rep155_prefix
    from multihmr2_ros.ros.interfaces.people import AGE_CLASSES, LOST_S

    assert (KEEP_TOPICS_S, LOST_S) == (2.0, 1.0)
    assert f"At most {MAX_BODIES} bodies" in PAGE
    assert ", ".join(AGE_CLASSES) in PAGE
    assert f"`{make_rep155_prefix('body_')}7`" in PAGE


@pytest.mark.parametrize(
    ("name", "namespace", "path"),
    [
        ("local_costmap", "/local_costmap", ["local_costmap", "local_costmap"]),
        ("global_costmap", "/global_costmap", ["global_costmap", "global_costmap"]),
        ("following_server", "/", ["following_server"]),
        ("perception_node", "/robot", ["/**/perception_node"]),
    ],
)
def test_ros_reads_the_file_as_it_is_meant(name: str, namespace: str, path: list[str]) -> None:
    """ROS's parser supports less of YAML than others, for example no aliases."""
    rclpy = pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
    from test.helpers.ros_wire import ros_context

    expected: Any = TREE
    for key in path:
        expected = expected[key]
    with ros_context():
        node = rclpy.create_node(
            name,
            namespace=namespace,
            cli_args=["--ros-args", "--params-file", str(CONFIG)],
            automatically_declare_parameters_from_overrides=True,
            start_parameter_services=False,
        )
        found = {key: value.value for key, value in node.get_parameters_by_prefix("").items()}
        of_every_node = {"use_sim_time", "start_type_description_service"}
        assert {name: found[name] for name in set(found) - of_every_node} == flat(expected["ros__parameters"])
        node.destroy_node()


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested parameters with dotted names."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return values
