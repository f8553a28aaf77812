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

"""Tests, demos and benchmarks use domains without nodes of other users, and not each other's."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from multihmr2_ros.errors import UserError
from multihmr2_ros.ros import domain
from multihmr2_ros.ros.domain import isolate, make_isolation_environment, reserve_domain
from test.paths import ROOT

RESERVE = "from multihmr2_ros.ros.domain import reserve_domain; print(reserve_domain(), flush=True); input()"


@pytest.fixture(autouse=True)
def released_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain, "_reserved", [])


def test_no_two_reservations_are_alike_in_one_process_and_between_processes() -> None:
    here = [reserve_domain(), reserve_domain()]
    others = [
        subprocess.Popen([sys.executable, "-c", RESERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        for _ in range(2)
    ]
    try:
        there = [int(each.stdout.readline()) for each in others if each.stdout is not None]
    finally:
        for each in others:
            each.kill()
            each.communicate()
    assert len({*here, *there}) == 4
    assert {*here, *there} <= set(domain.DOMAINS)


def test_a_domain_is_free_again_when_its_process_has_ended() -> None:
    first = reserve_domain()
    for reservation in domain._reserved:
        reservation.close()
    assert reserve_domain() == first


@pytest.mark.parametrize(
    "port", [0, 10, 127]
)  # shared by all participants; of the first participant on this machine; of a later one
def test_a_domain_with_somebody_on_it_is_passed_over(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    taken, free = reserve_domain(), reserve_domain()
    for reservation in domain._reserved:
        reservation.close()
    monkeypatch.setattr(domain, "DOMAINS", (taken, free))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
        participant.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        participant.bind(("127.0.0.1", 7400 + 250 * taken + port))
        assert reserve_domain() == free
        with pytest.raises(UserError, match="all 2 ROS domains"):
            reserve_domain()


def test_a_domain_on_which_rclpy_is_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    rclpy = pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
    ours = reserve_domain()
    monkeypatch.setattr(domain, "DOMAINS", (ours,))
    context = rclpy.Context()
    context.init(args=[], domain_id=ours)
    node = rclpy.create_node("somebody", context=context)  # in addition to the test's own reservation
    domain._reserved.pop().close()
    try:
        with pytest.raises(UserError, match="are in use"):
            reserve_domain()
    finally:
        node.destroy_node()
        context.shutdown()


def test_the_environment_is_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", "7")
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    before = dict(os.environ)
    with isolate():
        assert int(os.environ["ROS_DOMAIN_ID"]) in domain.DOMAINS
        assert os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert dict(os.environ) == before


def test_humble_stays_on_this_machine_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DISTRO", "humble")
    assert make_isolation_environment(3)["ROS_LOCALHOST_ONLY"] == "1"
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    assert "ROS_LOCALHOST_ONLY" not in make_isolation_environment(3)


def test_no_test_demo_or_benchmark_chooses_a_domain_by_itself() -> None:
    files = [*ROOT.glob("test/**/*.py"), *ROOT.glob("scripts/*.py"), *ROOT.glob("multihmr2_ros/**/*.py")]
    own = {Path(__file__), Path(domain.__file__)}
    for path in set(files) - own:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"ROS_DOMAIN_ID[\"']: (?!str\(\w*DOMAIN_ID\))|DOMAIN_ID = (?!reserve_domain\(\))", text), (
            path
        )
        assert not re.search(r"domain_id=(?!\w*DOMAIN_ID)", text), path
