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

"""Stamps of serialized messages: reading and shifting. Needs no ROS."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

from rosbags.interfaces import Nodetype

from multihmr2_ros.bags.definitions import make_typestore, require_type
from multihmr2_ros.errors import UserError

HEADER = "std_msgs/msg/Header"
STAMP_AT = 4  # after the encapsulation header, if a message begins with its header
NS = 1_000_000_000


def prepare_restamping(type_name: str) -> None:
    """Load the definition of a type, so that its first message takes no longer than the next one (up to a second)."""
    _find_headers(type_name)


def read_stamp_ns(data: bytes, type_name: str) -> int:
    """Read the stamp of a CDR message that begins with a header; 0 for others."""
    if _find_headers(type_name) != "first":
        return 0
    sec, nanosec = struct.unpack_from(_choose_byte_order(data), data, STAMP_AT)
    return int(sec) * NS + int(nanosec)


def restamp(data: bytes, type_name: str, moved: Callable[[int], int]) -> bytes:
    """Return a CDR message with every header's stamp (ns) replaced by moved(stamp). Stamps of 0 stay 0.

    Headers are found at the beginning of the message, and at the beginning of each element if the message is a sequence
    (TFMessage, MarkerArray). Other messages are returned unchanged.
    """
    place = _find_headers(type_name)
    if place == "first":
        before = read_stamp_ns(data, type_name)
        if not before:
            return data
        changed = bytearray(data)
        struct.pack_into(_choose_byte_order(data), changed, STAMP_AT, *divmod(moved(before), NS))
        return bytes(changed)
    if place == "elements":
        store = require_type(type_name)
        message = store.deserialize_cdr(data, type_name)
        for element in getattr(message, _list_fields(type_name)[0][0]):
            stamp = element.header.stamp
            if before := stamp.sec * NS + stamp.nanosec:
                stamp.sec, stamp.nanosec = divmod(moved(before), NS)
        return bytes(store.serialize_cdr(message, type_name))
    return data


@cache
def _find_headers(type_name: str) -> Literal["first", "elements", "none"]:
    """Return the position of headers in messages of a type; "none" if its definition is unknown."""
    try:
        require_type(type_name)
    except UserError:
        return "none"
    fields = _list_fields(type_name)
    if not fields:
        return "none"
    _, (kind, detail) = fields[0]
    if _is_header(kind, detail):
        return "first"
    if len(fields) == 1 and kind == Nodetype.SEQUENCE:
        (element_kind, element), _ = detail
        inner = _list_fields(element) if element_kind == Nodetype.NAME else []
        if inner and _is_header(*inner[0][1]):
            return "elements"
    return "none"


def _is_header(kind: Any, detail: Any) -> bool:
    return bool(kind == Nodetype.NAME and detail == HEADER)


def _list_fields(type_name: str) -> Any:
    return make_typestore().fielddefs[type_name][1]


def _choose_byte_order(data: bytes) -> str:
    """Return the `struct` byte order of sec and nanosec, from the second byte of the encapsulation header."""
    return "<iI" if data[1] & 1 else ">iI"
