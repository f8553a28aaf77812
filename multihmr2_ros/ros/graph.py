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

"""Explains missing messages from the ROS graph: publishers and subscribers of a node's topics and their QoS."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Any

from rclpy.exceptions import InvalidHandle
from rclpy.qos import QoSCompatibility, qos_check_compatible

from .qos import describe_qos

STALLED = "the publisher has stalled"


def explain_silence(node: Any, subscription: Any, type_name: str, silent_s: float | None, hint: str = "") -> str:
    """Return the reason why no message arrives on a topic, if the graph shows it.

    subscription  an rclpy subscription
    type_name     its type, such as "sensor_msgs/msg/Image"
    silent_s      seconds since the last message; None if there was none
    hint          advice for a topic without publishers
    """
    topic = subscription.topic_name
    publishers = node.get_publishers_info_by_topic(topic)
    text = f"no image received on {topic}" + ("" if silent_s is None else f" for {silent_s:.0f} s")
    if not publishers:
        return f"{text}: it has no publisher{hint}"
    for publisher in publishers:
        if publisher.topic_type != type_name:
            return f"{text}: {_format_name(publisher)} publishes {publisher.topic_type} there, expected {type_name}"
        compatibility, reason = qos_check_compatible(publisher.qos_profile, subscription.qos_profile)
        if compatibility == QoSCompatibility.ERROR:
            return f"{text}: the QoS of {_format_name(publisher)} is incompatible: {reason}"
    return (
        f"{text}, though {list_publishers(node, topic)} publishes it with a compatible QoS: {STALLED}, or images are "
        "lost in transport (large ones need config/fastdds.xml)"
    )


def list_publishers(node: Any, topic: str) -> str:
    """Return the names of the nodes that publish the topic; "" if there are none."""
    return ", ".join(sorted({_format_name(publisher) for publisher in node.get_publishers_info_by_topic(topic)}))


def list_topics_of_others(node: Any, type_names: Collection[str]) -> list[str]:
    """Return the topics of the given types that other nodes publish."""
    name = node.get_fully_qualified_name()
    return sorted(
        topic
        for topic, types in node.get_topic_names_and_types()
        if not set(types).isdisjoint(type_names)
        and any(_format_name(publisher) != name for publisher in node.get_publishers_info_by_topic(topic))
    )


def describe_publishers(node: Any, topic: str) -> str:
    """Return a description of the topic's publishers and their QoS."""
    publishers = node.get_publishers_info_by_topic(topic)
    return "; ".join(
        sorted(f"{_format_name(publisher)} ({describe_qos(publisher.qos_profile)})" for publisher in publishers)
    )


def find_refused_subscribers(node: Any) -> list[str]:
    """Return a sentence for each subscriber that receives nothing, because its QoS is incompatible."""
    refused, name = [], node.get_fully_qualified_name()
    for topic in sorted(_list_published_topics(node)):
        # Both QoS are read from the graph, in which unset durations are infinite instead of 0.
        own = [each for each in node.get_publishers_info_by_topic(topic) if _format_name(each) == name]
        for publisher in own:
            for subscriber in node.get_subscriptions_info_by_topic(topic):
                compatibility, _ = qos_check_compatible(publisher.qos_profile, subscriber.qos_profile)
                if compatibility == QoSCompatibility.ERROR:
                    refused.append(
                        f"{_format_name(subscriber)} receives no messages on {topic}: it requests "
                        f"{describe_qos(subscriber.qos_profile)}, but {describe_qos(publisher.qos_profile)} is "
                        "offered; change its QoS"
                    )
    return refused


def _list_published_topics(node: Any) -> set[str]:
    """Return the topics that the node publishes. Other threads may destroy publishers meanwhile."""
    topics = set()
    for publisher in list(node.publishers):
        with contextlib.suppress(InvalidHandle):
            topics.add(publisher.topic_name)
    return topics


def _format_name(endpoint: Any) -> str:
    return f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"
