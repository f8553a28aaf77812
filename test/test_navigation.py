"""config/nav2_people.yaml and docs/navigation.md against the node, ROS's parameter parser and Nav2's documentation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "config" / "nav2_people.yaml"
PAGE = (ROOT / "docs" / "navigation.md").read_text(encoding="utf-8")
TREE = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))

# The parameters that Nav2's configuration guide (docs.nav2.org, July 2026) and the social layer's README have.
LAYERS = {
    "nav2_costmap_2d::StaticLayer": {"map_subscribe_transient_local", "map_topic", "subscribe_to_updates"},
    "nav2_costmap_2d::InflationLayer": {
        "inflation_radius", "cost_scaling_factor", "inflate_unknown", "inflate_around_unknown",
    },
    "nav2_costmap_2d::ObstacleLayer": {
        "footprint_clearing_enabled", "min_obstacle_height", "max_obstacle_height", "combination_method",
        "tf_filter_tolerance", "observation_sources",
    },
    "nav2_social_costmap_plugin::SocialLayer": {
        "cutoff", "amplitude", "covariance_front_height", "covariance_front_width", "covariance_rear_height",
        "covariance_rear_width", "covariance_when_still", "use_vel_factor", "speed_factor_multiplier", "use_passing",
        "covariance_right_height", "covariance_right_width", "publish_occgrid",
    },
}  # fmt: skip
SOURCE = {
    "topic", "sensor_frame", "observation_persistence", "expected_update_rate", "data_type", "min_obstacle_height",
    "max_obstacle_height", "inf_is_valid", "marking", "clearing", "obstacle_max_range", "obstacle_min_range",
    "raytrace_max_range", "raytrace_min_range",
}  # fmt: skip
FOLLOWING = {
    "controller_frequency", "detection_timeout", "rotate_to_object_timeout", "static_object_timeout",
    "linear_tolerance", "angular_tolerance", "max_retries", "base_frame", "fixed_frame", "filter_coef",
    "desired_distance", "skip_orientation", "search_by_rotating", "search_angle", "odom_topic", "odom_duration",
    "transform_tolerance", "controller",
}  # fmt: skip
CONTROLLER = {
    "k_phi", "k_delta", "beta", "lambda", "v_linear_min", "v_linear_max", "v_angular_max", "slowdown_radius",
    "use_collision_detection", "transform_tolerance",
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
        assert set(layer) - {"plugin", "enabled"} - set(sources) <= LAYERS[layer["plugin"]]
        for source in sources:
            assert set(layer[source]) <= SOURCE


def test_the_following_server_has_only_parameters_that_it_knows() -> None:
    parameters = TREE["following_server"]["ros__parameters"]
    assert set(parameters) <= FOLLOWING
    assert set(parameters["controller"]) <= CONTROLLER


def test_people_are_cleared_by_the_lidar_in_the_same_layer() -> None:
    layer = costmap("local_costmap")["obstacle_layer"]
    assert layer["observation_sources"].split() == ["scan", "people"]
    assert (layer["scan"]["clearing"], layer["people"]["clearing"]) == (True, False)
    assert layer["people"]["data_type"] == "PointCloud2"
    assert 0 < layer["people"]["min_obstacle_height"] < layer["people"]["max_obstacle_height"]


def test_costs_of_personal_space_are_the_same_in_both_costmaps_and_can_be_crossed() -> None:
    local, world = (costmap(name)["social_layer"] for name in ("local_costmap", "global_costmap"))
    assert local == world
    assert local["cutoff"] < local["amplitude"] < 253  # nav2_costmap_2d's INSCRIBED_INFLATED_OBSTACLE


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target


# --- against the node and ROS itself


def test_the_parameters_of_the_node_are_its_own() -> None:
    pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
    from multihmr2_ros.ros.parameters import DEFAULTS, refusal_of

    ours = TREE["/**/perception_node"]["ros__parameters"]
    assert set(ours) <= set(DEFAULTS)
    assert not [refusal for name, value in ours.items() if (refusal := refusal_of(name, value))]
    for name in ("people", "bodies", "detections"):
        assert f"`publish_{name}`" in PAGE
        assert DEFAULTS[f"publish_{name}"] == "auto"


def test_the_topics_are_the_nodes() -> None:
    pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
    pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")
    from sensor_msgs.msg import PointCloud2

    from multihmr2_ros.ros.interfaces import bodies, detections, people
    from multihmr2_ros.ros.node import PerceptionNode
    from test.ros_wire import ros_context
    from test.stand_in_estimator import StandInEstimator

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
    from multihmr2_ros.ros.interfaces.bodies import KEPT_S, MOST_BODIES, rep155_prefix
    from multihmr2_ros.ros.interfaces.people import AGE_CLASSES, LOST_S

    assert (KEPT_S, LOST_S) == (2.0, 1.0)
    assert f"At most {MOST_BODIES} bodies" in PAGE
    assert ", ".join(AGE_CLASSES) in PAGE
    assert f"`{rep155_prefix('body_')}7`" in PAGE


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
    """ROS's parser knows less of YAML than others do: no aliases, for one."""
    rclpy = pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
    from test.ros_wire import ros_context

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
    """Nested parameters by their names with points."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return values
