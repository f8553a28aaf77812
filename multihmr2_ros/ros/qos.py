"""Quality of service of what the node publishes and of TF; and what is asked of publishers by it."""

from __future__ import annotations

from typing import Any

from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

RELIABLE = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# Those of tf2's own broadcasters and listener.
TF = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
TF_STATIC = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
LAST_WORDS = Duration(seconds=0, nanoseconds=200_000_000)  # how long the end waits for a topic's last message to arrive


def is_wanted(publisher: Any) -> bool:
    """Whether anybody subscribes."""
    return bool(publisher.get_subscription_count() > 0)
