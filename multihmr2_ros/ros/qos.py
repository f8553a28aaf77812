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

"""QoS of the node's topics, of TF, and of played and recorded topics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # its name in Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

RELIABLE = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# As in tf2's broadcasters and listener.
TF = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
TF_STATIC = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)  # compatible with every publisher
SENSOR_DATA = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
# KINDs of the parameters qos_overrides.TOPIC.subscription.KIND.
OVERRIDABLE = (QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)
# Without rclpy's event callbacks: no work for the executor, and no warnings about an incompatible QoS.
SILENT_PUBLISHER = PublisherEventCallbacks(use_default_callbacks=False)
SILENT_SUBSCRIPTION = SubscriptionEventCallbacks(use_default_callbacks=False)
# Time limit for the last messages to be acknowledged before publishers are destroyed.
LAST_MESSAGES_TIMEOUT = Duration(seconds=0, nanoseconds=200_000_000)


def is_wanted(publisher: Any) -> bool:
    """Return whether the publisher has subscribers."""
    return bool(publisher.get_subscription_count() > 0)


def subscribe_serialized(
    node: Any,
    kind: type,
    topic: str,
    receive: Callable[[bytes], None],
    default: QoSProfile,
    report: Callable[[str, str], None],
) -> Any:
    """Subscribe to serialized messages with the default QoS, changed by the user's qos_overrides.

    node     the node
    kind     message class
    topic    name of the topic
    receive  called with each serialized message
    default  QoS without overrides
    report   called with the cause and the text of a problem, such as an invalid override, which is not used
    """
    # A copy: rclpy writes the overrides into it.
    qos = QoSProfile(depth=default.depth, reliability=default.reliability, durability=default.durability)
    overriding = QoSOverridingOptions(
        OVERRIDABLE, callback=lambda qos: SetParametersResult(successful=qos.depth > 0, reason=f"depth is {qos.depth}")
    )
    try:
        return node.create_subscription(kind, topic, receive, qos, raw=True, qos_overriding_options=overriding)
    except Exception as error:  # rclpy raises several types
        full_name = node.resolve_topic_name(topic)
        report(
            "qos",
            f"qos_overrides.{full_name}.subscription: expected depth (at least 1), reliability and durability as "
            f"named in ROS, got: {' '.join(str(error).split())}; {describe_qos(default)}, depth {default.depth} are "
            "used",
        )
        return node.create_subscription(kind, topic, receive, default, raw=True)


def describe_qos(qos: QoSProfile) -> str:
    """Return reliability and durability in words."""
    return f"{qos.reliability.name}, {qos.durability.name}".lower().replace("_", " ")


def choose_playing_qos(type_name: str, *, is_latched: bool) -> QoSProfile:
    """Return the QoS to play a topic: best effort for sensor messages, reliable for others."""
    if is_latched:
        return TF_STATIC
    return SENSOR_DATA if type_name.startswith("sensor_msgs/") else TF


def choose_recording_qos(publishers: Sequence[Any]) -> QoSProfile:
    """Return the strictest QoS that is compatible with all these publishers (rclpy's TopicEndpointInfo)."""
    profiles = [publisher.qos_profile for publisher in publishers]
    is_reliable = all(profile.reliability == ReliabilityPolicy.RELIABLE for profile in profiles)
    is_latched = all(profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for profile in profiles)
    return QoSProfile(
        depth=100,
        reliability=ReliabilityPolicy.RELIABLE if is_reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if is_latched else DurabilityPolicy.VOLATILE,
    )
