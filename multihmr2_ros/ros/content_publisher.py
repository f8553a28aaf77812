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

"""Publishing the large messages.

`Publisher.publish(bytes)` of rclpy copies the bytes once more before the middleware does, and holds Python's lock all
the while; for ten meshes (20 MB) that is 2 ms of 8, in which no callback runs. The function of rcl that it calls is a
part of ROS 2's C interface (rcl/publisher.h), takes memory of ours, and is called here without the lock.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np

from multihmr2_ros.messages.cdr import CdrWriter

RCL = "librcl.so"  # rclpy has it loaded

Content = TypeVar("Content")


class SerializedMessage(ctypes.Structure):
    """rcl_serialized_message_t; the allocator's five pointers are for who owns the memory, which rcl does not."""

    _fields_ = (
        ("buffer", ctypes.c_void_p),
        ("length", ctypes.c_size_t),
        ("capacity", ctypes.c_size_t),
        ("allocator", ctypes.c_void_p * 5),
    )


class ContentPublisher(Generic[Content]):
    """Publishes what `content` describes through an rclpy publisher: serialised, or as message objects.

    to_cdr       serialises
    to_ros       makes a message object of the same meaning
    sends_bytes  whether this ROS reads what `cdr` writes
    """

    def __init__(
        self,
        publisher: Any,
        to_cdr: Callable[[Content], CdrWriter],
        to_ros: Callable[[Content], Any],
        *,
        sends_bytes: bool,
    ) -> None:
        self.publisher = publisher
        self._to_cdr = to_cdr
        self._to_ros = to_ros
        self._sends_bytes = sends_bytes
        self._publish_memory = rcl_publish_serialized_message(publisher) if sends_bytes else None
        # Kept from message to message: fresh memory takes as long to get as to fill.
        self._memory = np.empty(0, np.uint8)

    def publish(self, content: Content) -> None:
        if not self._sends_bytes:
            self.publisher.publish(self._to_ros(content))
            return
        message = self._to_cdr(content)
        if self._publish_memory is None:
            self.publisher.publish(message.to_bytes())
            return
        size = message.size
        if size > len(self._memory):
            self._memory = np.empty(size, np.uint8)
        message.write_to(self._memory.data[:size])
        serialized = SerializedMessage(self._memory.ctypes.data, size, size)
        with self.publisher.handle:  # not destroyed meanwhile
            code = self._publish_memory(self.publisher.handle.pointer, ctypes.byref(serialized), None)
        if code:
            raise RuntimeError(f"rcl_publish_serialized_message: error {code} on {self.publisher.topic_name}")


def rcl_publish_serialized_message(publisher: Any) -> Callable[..., int] | None:
    """rcl's function; None where it cannot be called for publisher."""
    try:
        function = ctypes.CDLL(RCL).rcl_publish_serialized_message
    except (OSError, AttributeError):
        return None
    if not hasattr(publisher.handle, "pointer"):
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    function.restype = ctypes.c_int
    return function
