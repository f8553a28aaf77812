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

"""A ROS domain that nobody else on this machine is on, for demos, benchmarks and tests. Needs no ROS."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

from multihmr2_ros.errors import UserError

# Of the domains that a port exists for (0 to 232): first those whose ports the system gives to nobody by itself (below
# 32768 and above 60999), and that few people choose; 0 to 20 are left to robots.
DOMAINS = (*range(215, 232), *range(101, 20, -1))
FIRST_PORT, PORTS_PER_DOMAIN = 7400, 250  # DDSI-RTPS, section 9.6

_reserved: list[socket.socket] = []  # held until the process ends, however it ends


def reserve_domain() -> int:
    """A domain without participants, reserved for this process and its children until it ends.

    A participant, of any user and middleware, is bound to ports of its domain, of which there are 250: some share the
    first one, others have one each. The domain is free where nobody is bound to any; we then stay bound to the first,
    so that another call, in any process, passes on. Raises UserError where all domains are taken.
    """
    for domain in DOMAINS:
        first, *others = range(FIRST_PORT + PORTS_PER_DOMAIN * domain, FIRST_PORT + PORTS_PER_DOMAIN * (domain + 1))
        own = _bind_socket(first)
        if own is None:
            continue
        if all(_is_free(port) for port in others):
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # for our own participants
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # nobody reads
            _reserved.append(own)
            return domain
        own.close()
    raise UserError(f"all {len(DOMAINS)} ROS domains that were tried are in use: end other demos and tests")


def _bind_socket(port: int) -> socket.socket | None:
    """A UDP socket of all interfaces; None where somebody else has the port."""
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
    """Environment variables of processes that are to meet each other only, on this machine."""
    variables = {
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_STATIC_PEERS": "",
    }
    if os.environ.get("ROS_DISTRO") == "humble":  # which knows the two last ones only as this; later ones warn about it
        variables["ROS_LOCALHOST_ONLY"] = "1"
    return variables


@contextlib.contextmanager
def isolate() -> Iterator[None]:
    """This process and the children that it starts meanwhile are on a reserved domain of this machine."""
    before = dict(os.environ)
    os.environ.update(make_isolation_environment(reserve_domain()))
    try:
        yield
    finally:
        for name in make_isolation_environment(0):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]
