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

"""Plays a bag on machines that have rclpy but not `ros2 bag play`: python -m multihmr2_ros.ros.play BAG

The recorded bytes are published at the recorded pace. By default, stamps are shifted so that the first message has the
current time: latencies can then be measured, and nodes do not discard the images as too old.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, which take seconds
    from .startup import exit_on_stop_signals

    exit_on_stop_signals()

import argparse
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rclpy
from rclpy.duration import Duration

from multihmr2_ros.bags.reading import BagMessage, BagReader, Topic
from multihmr2_ros.bags.stamps import NS, prepare_restamping, read_stamp_ns, restamp
from multihmr2_ros.errors import UserError
from multihmr2_ros.messages.cdr import ANNOUNCEMENT
from multihmr2_ros.terminal import ArgumentParser

from .command_line import resolve_topic, run_tool
from .conversions import import_message_class
from .qos import choose_playing_qos

SUBSCRIBER_WAIT_S = 1.0  # time limit for the other topics after the first topic has a subscriber
SAME_CLOCK_NS = 10 * NS  # maximum difference of stamp and recorded time if both are of the same clock
CLOCK_PERIOD_S = 0.025
LAST_MESSAGES_TIMEOUT = Duration(seconds=1)  # a subscriber on a busy machine loses what it has not received by then


class Timeline:
    """Times and stamps of the messages in one pass through the bag.

    begin_ns: recorded time at which the pass begins; now_ns: wall clock at this moment.
    """

    def __init__(self, begin_ns: int, now_ns: int, rate: float) -> None:
        self._begin_ns = begin_ns
        self._now_ns = now_ns
        self._rate = rate
        self._stamp_zero_ns: int | None = None

    def compute_due_s(self, message: BagMessage) -> float:
        """Return the time at which to publish the message (s after the beginning of the pass)."""
        return (message.time_ns - self._begin_ns) / NS / self._rate

    def restamp_to_now(self, message: BagMessage) -> bytes:
        """Return the message with its stamps shifted to the wall clock, by one amount for all messages (at rate 1)."""
        if self._stamp_zero_ns is None and (first_ns := read_stamp_ns(message.data, message.type_name)):
            is_same_clock = abs(first_ns - message.time_ns) < SAME_CLOCK_NS
            self._stamp_zero_ns = self._begin_ns + (0 if is_same_clock else first_ns - message.time_ns)
        zero_ns = self._begin_ns if self._stamp_zero_ns is None else self._stamp_zero_ns
        return restamp(
            message.data,
            message.type_name,
            lambda before_ns: max(0, self._now_ns + round((before_ns - zero_ns) / self._rate)),
        )


class Player:
    """Publisher of a bag's messages. With recorded stamps, it also publishes /clock for nodes with use_sim_time."""

    def __init__(self, node: Any, path: Path, topics: Sequence[str], rate: float, *, stamps_now: bool) -> None:
        self._path = path
        self._rate = rate
        self._stamps_now = stamps_now
        with BagReader(path) as bag:
            bag.require_ros2()
            chosen = _select_topics(bag, topics)
        if stamps_now:  # otherwise the first messages would be published late, all at once
            for topic in chosen.values():
                prepare_restamping(topic.type_name)
        self._publishers = {name: _make_publisher(node, name, topic) for name, topic in chosen.items()}
        self._clock = (
            None if stamps_now else node.create_publisher(import_message_class("rosgraph_msgs/msg/Clock"), "/clock", 10)
        )
        self.played = 0
        self.damage = ""

    @property
    def topics(self) -> list[str]:
        return list(self._publishers)

    def wait_for_subscribers(self, count: int) -> None:
        """Wait until every topic has count subscribers, or until SUBSCRIBER_WAIT_S after the first topic has them."""
        deadline_s = float("inf")
        while time.monotonic() < deadline_s:
            found = [publisher.get_subscription_count() >= count for publisher in self._publishers.values()]
            if all(found):
                return
            if any(found) and deadline_s == float("inf"):
                deadline_s = time.monotonic() + SUBSCRIBER_WAIT_S
            time.sleep(0.05)

    def play(self) -> None:
        """Play the bag once."""
        timeline: Timeline | None = None
        start_s = time.monotonic()
        with BagReader(self._path) as bag:
            for message in bag.messages(self.topics):
                if timeline is None:
                    timeline = Timeline(message.time_ns, time.time_ns(), self._rate)
                    start_s = time.monotonic()
                self._wait_until(start_s + timeline.compute_due_s(message), message.time_ns)
                data = timeline.restamp_to_now(message) if self._stamps_now else message.data
                self._publishers[message.topic].publish(data)
                self.played += 1
            self.damage = bag.damage

    def finish(self) -> None:
        """Wait until the last messages have arrived."""
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(LAST_MESSAGES_TIMEOUT)
        time.sleep(LAST_MESSAGES_TIMEOUT.nanoseconds / NS)  # best-effort messages are not acknowledged

    def _wait_until(self, due_s: float, time_ns: int) -> None:
        """Sleep until due_s (monotonic clock); publish /clock meanwhile, up to time_ns."""
        while True:
            left_s = due_s - time.monotonic()
            if self._clock is not None:
                now_ns = time_ns - round(max(left_s, 0.0) * self._rate * NS)
                self._clock.publish(ANNOUNCEMENT + struct.pack("<iI", *divmod(now_ns, NS)))
            if left_s <= 0:
                return
            time.sleep(left_s if self._clock is None else min(left_s, CLOCK_PERIOD_S))


def _select_topics(bag: BagReader, names: Sequence[str]) -> dict[str, Topic]:
    missing = [name for name in names if name not in bag.topics]
    if missing:
        raise UserError(f"{bag.path} has no topic {missing[0]}; it has {', '.join(sorted(bag.topics)) or 'none'}")
    chosen = {name: topic for name, topic in bag.topics.items() if not names or name in names}
    if not chosen:
        raise UserError(f"{bag.path} has no topics; record it again")
    return chosen


def _make_publisher(node: Any, name: str, topic: Topic) -> Any:
    qos = choose_playing_qos(topic.type_name, is_latched=topic.is_latched or name == "/tf_static")
    return node.create_publisher(import_message_class(topic.type_name), resolve_topic(node, name), qos)


def _make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m multihmr2_ros.ros.play", description="Play a bag to live nodes.")
    parser.add_argument("bag", type=Path, metavar="BAG", help="rosbag2 folder, .mcap or .db3")
    parser.add_argument("-r", "--rate", type=float, default=1.0, help="2 plays twice as fast (default: %(default)s)")
    parser.add_argument("-l", "--loop", action="store_true", help="repeat until Ctrl-C")
    parser.add_argument("--topics", nargs="+", default=[], metavar="TOPIC", help="topics to play (default: all)")
    parser.add_argument(
        "--stamps", choices=("now", "recorded"), default="now",
        help="now: shift all stamps, the first one to the current time; recorded: keep them, and publish /clock for "
        "nodes with use_sim_time (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--wait-for", type=int, default=1, metavar="N",
        help="start when the topics have N subscribers; 0: start at once (default: %(default)s)",
    )  # fmt: skip
    return parser


def _run(options: argparse.Namespace) -> int:
    if not 0.001 <= options.rate <= 1000:
        raise UserError(f"--rate must lie between 0.001 and 1000, got {options.rate}")
    if options.wait_for < 0:
        raise UserError(f"--wait-for must be a number of subscribers, 0 or more, got {options.wait_for}")
    player = Player(
        rclpy.create_node("bag_player"), options.bag, options.topics, options.rate, stamps_now=options.stamps == "now"
    )
    try:
        if options.wait_for > 0:
            whom = "a subscriber" if options.wait_for == 1 else f"{options.wait_for} subscribers"
            print(f"waiting for {whom} of {', '.join(player.topics)} (Ctrl-C ends)", flush=True)
            player.wait_for_subscribers(options.wait_for)
        print(f"playing {options.bag}", flush=True)
        player.play()
        while options.loop and player.played:
            player.play()
        player.finish()
    except KeyboardInterrupt:
        pass
    print(f"played {player.played} messages", flush=True)
    if player.damage:
        raise UserError(
            f"{options.bag} is damaged or cut off ({player.damage}); the messages before the damage were played"
        )
    return 0


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; return 0 if played or interrupted, 2 for a user error."""
    return run_tool("play", _make_parser(), _run, args)


if __name__ == "__main__":
    sys.exit(main())
