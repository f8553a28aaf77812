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

"""Reserves a ROS domain that no other process on this machine uses, for demos, benchmarks and tests. Needs no ROS."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

from multihmr2_ros.errors import UserError

# Rarely used domains from 0 to 232, the range with valid ports: first those whose ports are not ephemeral ports of the
# system (those are 32768 to 60999). 0 to 20 are left for robots.
DOMAINS = (*range(215, 232), *range(101, 20, -1))
FIRST_PORT, PORTS_PER_DOMAIN = 7400, 250  # DDSI-RTPS, section 9.6

_reserved: list[socket.socket] = []  # open until the process ends, normally or not


def reserve_domain() -> int:
    """Return a domain without participants, reserved for this process and its children until this process ends.

    Each domain has 250 ports. A participant of any user and middleware is bound to ports of its domain: the first port
    may be shared, the others belong to one participant each. A domain is free if none of its ports is bound. This
    function then binds the first port, so that other calls, in any process, skip the domain. Raises UserError if all
    domains are in use.
    """
    for domain in DOMAINS:
        first, *others = range(FIRST_PORT + PORTS_PER_DOMAIN * domain, FIRST_PORT + PORTS_PER_DOMAIN * (domain + 1))
        own = _bind_socket(first)
        if own is None:
            continue
        if all(_is_free(port) for port in others):
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # for our own participants
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # received data are never read
            _reserved.append(own)
            return domain
        own.close()
    raise UserError(f"all {len(DOMAINS)} ROS domains that were tried are in use; stop other demos and tests")


def _bind_socket(port: int) -> socket.socket | None:
    """Return a UDP socket bound to the port on all interfaces; None if the port is in use."""
    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        own.bind(("", port))
    except OSError:
        own.close()
        return None
    return own


def _is_free(port: int) -> bool:
    own = _bind_socket(port)
    if own is not None:
        own.close()
    return own is not None


def make_isolation_environment(domain: int) -> dict[str, str]:
    """Return environment variables for processes that communicate only with each other, on this machine."""
    variables = {
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_STATIC_PEERS": "",
    }
    if os.environ.get("ROS_DISTRO") == "humble":  # replaces the last two variables, which are newer; later ROS warns
        variables["ROS_LOCALHOST_ONLY"] = "1"
    return variables


@contextlib.contextmanager
def isolate() -> Iterator[None]:
    """Put this process, and children started within the block, on a reserved domain of this machine."""
    before = dict(os.environ)
    os.environ.update(make_isolation_environment(reserve_domain()))
    try:
        yield
    finally:
        for name in make_isolation_environment(0):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]
