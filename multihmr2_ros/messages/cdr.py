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

"""Serialization of meshes and point clouds with NumPy, without Python message objects.

The format is CDR as in ROS 2 (OMG DDS-XTypes 1.3, section 7.4.1, "plain CDR", version 1): an encapsulation header of
four bytes for little-endian CDR, then the fields in the order of the definition. Each primitive is aligned to its own
size, counted from the end of the encapsulation header. A string is its length with the final zero, then its bytes; a
sequence is its count, then its elements. Padding is zero here; rclpy's serialization leaves arbitrary bytes there.

Ten meshes of 27,420 triangles are 20 MB and take about 4 ms; with message objects they take more than a second.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np

from multihmr2_ros.messages.content import Array, HeaderContent, MarkerContent, PointCloudContent

ANNOUNCEMENT = b"\x00\x01\x00\x00"  # CDR, little-endian, no options
FLOAT32 = 7  # sensor_msgs/PointField.FLOAT32
POINT_BYTES = 24  # geometry_msgs/Point: three float64
LARGE_BYTES = 4096  # arrays from this size on are copied once, at the end; for smaller arrays copying twice is faster

FillFunction = Callable[[memoryview], None]


def marker_array_to_cdr(markers: Sequence[MarkerContent]) -> CdrWriter:
    """Serialize a visualization_msgs/MarkerArray."""
    writer = CdrWriter()
    writer.put("I", len(markers))
    for marker in markers:
        _put_marker(writer, marker)
    return writer


def point_cloud_to_cdr(content: PointCloudContent) -> CdrWriter:
    """Serialize a sensor_msgs/PointCloud2."""
    count = len(content.points)
    writer = CdrWriter()
    _put_header(writer, content.header)
    writer.put("2I", 1, count)  # height, width
    writer.put("I", 3)
    for axis, name in enumerate("xyz"):
        writer.put_string(name)
        writer.put("IB3xI", 4 * axis, FLOAT32, 1)  # offset, datatype, count
    writer.put("B", False)  # is_bigendian
    writer.put("3I", 12, 12 * count, 12 * count)  # point_step, row_step, size of data
    writer.put_array(content.points, "<f4")
    writer.put("B", content.is_dense)
    return writer


def _put_header(writer: CdrWriter, header: HeaderContent) -> None:
    writer.put("iI", header.sec, header.nanosec)
    writer.put_string(header.frame_id)


def _put_marker(writer: CdrWriter, marker: MarkerContent) -> None:
    _put_header(writer, marker.header)
    writer.put_string(marker.namespace)
    writer.put("3i", marker.id, marker.type, marker.action)
    lifetime = divmod(marker.lifetime_ns, 1_000_000_000)
    writer.put(
        "10d4fiIB3xI",
        *marker.position, 0.0, 0.0, 0.0, 1.0, *marker.scale, *marker.color, *lifetime,
        False, marker.faces.size,  # frame_locked; points
    )  # fmt: skip
    writer.put_corners(marker.vertices, marker.faces)
    writer.put_block(NO_COLORS_NO_TEXTURE)
    writer.put_string(marker.text)
    writer.put_block(NO_MESH_FILE)


class CdrWriter:
    """A writer of fields in order. Large arrays are only referenced by put_array, and copied once, to their final
    place."""

    def __init__(self) -> None:
        self._pieces: list[tuple[int, FillFunction]] = []  # size in bytes, and the function that writes it
        self._piece = bytearray(ANNOUNCEMENT)  # the last piece
        self._offset = -len(ANNOUNCEMENT)  # of the last piece, counted from the end of the encapsulation header

    def put(self, codes: str, *values: float) -> None:
        """Write primitives, given by their `struct` codes (x: padding). The first one must be the largest."""
        size, layout = _compute_layout(codes)
        self._align(size)
        self._piece += layout.pack(*values)

    def put_string(self, text: str) -> None:
        encoded = text.encode()
        self.put("I", len(encoded) + 1)
        self._piece += encoded + b"\0"

    def put_block(self, block: bytes) -> None:
        """Write fields that were serialized by another CdrWriter. None of them may be larger than four bytes."""
        self._align(4)
        self._piece += block

    def put_array(self, array: Array, dtype: str) -> None:
        """Write the elements in C order, as dtype. The count before the elements of a sequence is not written."""
        if not array.size:
            return  # without elements there is no alignment either
        data = np.ascontiguousarray(array, dtype)
        self._align(data.itemsize)
        if data.nbytes < LARGE_BYTES:
            self._piece += data.tobytes()
        else:
            self._put_large(data.nbytes, partial(_copy_bytes, data.data.cast("B")))

    def put_corners(self, vertices: Array, faces: Array) -> None:
        """Write the corners of triangles as geometry_msgs/Point: vertices (V, 3) at faces (F, 3)."""
        if not faces.size:
            return
        self._align(8)
        points = np.ascontiguousarray(vertices, "<f8").view(f"V{POINT_BYTES}").ravel()
        self._put_large(faces.size * POINT_BYTES, partial(_gather, points, faces.ravel()))

    @property
    def size(self) -> int:
        """Size of the message, in bytes. Valid when all fields are written."""
        return len(ANNOUNCEMENT) + self._offset + len(self._piece)

    def write_to(self, target: memoryview) -> None:
        """Copy the complete message to target, which must have its size."""
        start = 0
        pieces: list[tuple[int, FillFunction]] = [*self._pieces, (len(self._piece), partial(_copy_bytes, self._piece))]
        for size, fill in pieces:
            fill(target[start : start + size])
            start += size

    def to_bytes(self) -> bytes:
        """Return the complete message."""
        message = bytearray(self.size)
        self.write_to(memoryview(message))
        return bytes(message)

    def _align(self, size: int) -> None:
        if missing := -(self._offset + len(self._piece)) % size:
            self._piece += bytes(missing)

    def _put_large(self, size: int, fill: FillFunction) -> None:
        self._pieces += [(len(self._piece), partial(_copy_bytes, self._piece)), (size, fill)]
        self._offset += len(self._piece) + size
        self._piece = bytearray()


@cache
def _compute_layout(codes: str) -> tuple[int, struct.Struct]:
    """Return the alignment of the first primitive, in bytes, and the struct of all primitives."""
    return struct.calcsize(codes.lstrip("0123456789")[0]), struct.Struct(f"<{codes}")


def _copy_bytes(data: bytearray | memoryview, target: memoryview) -> None:
    target[:] = data


def _gather(points: Array, corners: Array, target: memoryview) -> None:
    # Void items of a point's size need no alignment, which the message does not have. All indices are in range; "clip"
    # only prevents a copy in NumPy.
    np.take(points, corners, out=np.frombuffer(target, points.dtype), mode="clip")


def _make_empty_colors_and_texture() -> CdrWriter:
    """Write the fields of a Marker between points and text."""
    writer = CdrWriter()
    writer.put("I", 0)  # colors
    writer.put_string("")  # texture_resource
    _put_header(writer, HeaderContent())  # texture: header, format, data
    writer.put_string("")
    writer.put("I", 0)
    writer.put("I", 0)  # uv_coordinates
    return writer


def _make_empty_mesh_file() -> CdrWriter:
    """Write the fields of a Marker after text."""
    writer = CdrWriter()
    writer.put_string("")  # mesh_resource
    writer.put_string("")  # mesh_file: name, data
    writer.put("I", 0)
    writer.put("B", False)  # mesh_use_embedded_materials
    return writer


NO_COLORS_NO_TEXTURE = _make_empty_colors_and_texture().to_bytes()[len(ANNOUNCEMENT) :]
NO_MESH_FILE = _make_empty_mesh_file().to_bytes()[len(ANNOUNCEMENT) :]
