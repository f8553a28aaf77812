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

"""Records topics to a bag on machines without `ros2 bag`: python -m multihmr2_ros.ros.record OUT --topics …

Messages are written as received (serialized), with their arrival time. Ctrl-C ends the recording. If an error ends it,
the bag contains what was recorded until then.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, which take seconds
    from .startup import exit_on_stop_signals

    exit_on_stop_signals()

import argparse
import contextlib
import sys
import time
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy

from multihmr2_ros.bags.definitions import require_type
from multihmr2_ros.bags.reading import BagReader
from multihmr2_ros.bags.writing import BagWriter
from multihmr2_ros.errors import UserError
from multihmr2_ros.terminal import ArgumentParser

from .command_line import collect_stop_signals, resolve_topic, run_tool
from .conversions import import_message_class
from .qos import choose_recording_qos

UPDATE_PERIOD_S = 0.2  # period of the search for publishers of missing topics
DRAIN_S = 0.3  # for messages on their way when the recording ends
MAX_DRAIN_S = 10.0  # for messages that have already arrived; a slow disk needs time to write them


class Recorder:
    """Recorder that subscribes to topics as soon as they are published, and writes their messages."""

    def __init__(self, node: Any, writer: BagWriter, topics: Sequence[str]) -> None:
        self._node = node
        self._writer = writer
        self.missing = [resolve_topic(node, topic) for topic in topics]

    def update_subscriptions(self) -> None:
        """Subscribe to the missing topics that now have a publisher. Raises UserError for a type without definition."""
        for topic in list(self.missing):
            publishers = self._node.get_publishers_info_by_topic(topic)
            if publishers:
                self.missing.remove(topic)
                self._subscribe(topic, publishers)

    def _subscribe(self, topic: str, publishers: Sequence[Any]) -> None:
        type_name = publishers[0].topic_type
        require_type(type_name)  # a type without a definition cannot be written: report it now
        qos = choose_recording_qos(publishers)
        if qos.durability == DurabilityPolicy.TRANSIENT_LOCAL:
            self._writer.latch(topic)
        self._node.create_subscription(
            import_message_class(type_name), topic, partial(self._write, topic, type_name), qos, raw=True
        )
        print(f"recording {topic} ({type_name})", flush=True)

    def _write(self, topic: str, type_name: str, data: bytes) -> None:
        self._writer.write(topic, type_name, data, self._node.get_clock().now().nanoseconds)


def _make_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m multihmr2_ros.ros.record", description="Record topics into a bag; Ctrl-C ends."
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="NAME.mcap, NAME.db3, or a new folder")
    parser.add_argument("--topics", nargs="+", required=True, metavar="TOPIC", help="topics to record")
    return parser


def _run(options: argparse.Namespace) -> int:
    node = rclpy.create_node("bag_recorder")
    try:
        return _run_node(node, options)
    finally:
        node.destroy_node()  # otherwise players of the same process would wait for no other subscriber


def _run_node(node: Any, options: argparse.Namespace) -> int:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    stopped = collect_stop_signals()  # before the bag is created, so that it is always finished or removed
    writer = BagWriter(options.out)
    try:
        recorder = Recorder(node, writer, options.topics)
        _record(recorder, writer, executor, stopped)
    except BaseException:
        if writer.counts:
            with contextlib.suppress(UserError):  # the first error is reported
                _close(writer)
                with BagReader(options.out) as bag:  # on a full disk, not all that were written
                    kept = sum(topic.count for topic in bag.topics.values())
                print(f"{options.out}: {kept} messages until the error", file=sys.stderr)
        else:
            writer.discard()
        raise
    if not writer.counts:
        writer.discard()
        raise UserError(f"no message received on {', '.join(options.topics)}; no bag was written")
    _close(writer)
    print(f"{options.out}: {sum(writer.counts.values())} messages")
    for topic, count in sorted(writer.counts.items()):
        print(f"{count:8d}  {topic}")
    if recorder.missing:
        print(f"no publisher of {', '.join(recorder.missing)}")
    return 0


def _close(writer: BagWriter) -> None:
    """Finish the bag. If that fails, keep what is on the disk, because it cannot be recorded again."""
    try:
        writer.close(keep_incomplete=True)
    except UserError:
        if writer.path.exists():
            repair = "; `mcap recover` repairs the .mcap file" if writer.storage == "mcap" else ""
            print(f"{writer.path} is incomplete: multihmr2 reads it up to the error{repair}", file=sys.stderr)
        raise


def _record(recorder: Recorder, writer: BagWriter, executor: SingleThreadedExecutor, stopped: Collection[int]) -> None:
    """Record until `stopped` contains a signal.

    A topic that cannot be recorded ends the recording only if no message has been recorded yet.
    """
    recorder.update_subscriptions()
    if recorder.missing:
        print(f"waiting for a publisher of {', '.join(recorder.missing)} (Ctrl-C ends)", flush=True)
    look_s = time.monotonic()
    while not stopped:
        executor.spin_once(timeout_sec=UPDATE_PERIOD_S)
        if recorder.missing and time.monotonic() - look_s > UPDATE_PERIOD_S:
            try:
                recorder.update_subscriptions()
            except UserError as error:
                if not writer.counts:
                    raise
                print(f"record: {error}; the other topics are still recorded", file=sys.stderr, flush=True)
            look_s = time.monotonic()
    _drain(writer, executor)


def _drain(writer: BagWriter, executor: SingleThreadedExecutor) -> None:
    """Write the messages that have arrived, and those that arrive within DRAIN_S."""
    begin_s, before, written = time.monotonic(), -1, sum(writer.counts.values())
    while (taken_s := time.monotonic() - begin_s) < DRAIN_S or (before < written and taken_s < MAX_DRAIN_S):
        executor.spin_once(timeout_sec=DRAIN_S / 10 if taken_s < DRAIN_S else 0.001)  # 0.0 may return without a message
        before, written = written, sum(writer.counts.values())


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; return 0 if recorded, 2 for a user error or if no message arrived."""
    return run_tool("record", _make_parser(), _run, args)


if __name__ == "__main__":
    sys.exit(main())
