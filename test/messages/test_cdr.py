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

"""Messages serialized with NumPy against rclpy's own serialization of the same content, and over DDS."""

from __future__ import annotations

import ctypes
import dataclasses
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

rclpy = pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

from multihmr2_ros.msg import HumanArray
from rclpy.serialization import deserialize_message, serialize_message
from visualization_msgs.msg import Marker, MarkerArray

from multihmr2_ros.bags.humans import human_array_to_cdr
from multihmr2_ros.messages.cdr import marker_array_to_cdr, point_cloud_to_cdr
from multihmr2_ros.messages.content import (
    HeaderContent,
    HumanArrayContent,
    MarkerContent,
    PointCloudContent,
    make_delete_marker,
    make_label_marker,
    make_mesh_marker,
    validate_faces,
)
from multihmr2_ros.ros import content_publisher
from multihmr2_ros.ros.content_publisher import marker_array_to_ros, point_cloud_to_ros
from multihmr2_ros.ros.conversions import human_array_to_ros
from test.helpers.ros_domain import DOMAIN_ID

M_PERTURB = -6  # glibc's malloc.h
Generator = np.random.Generator


# --- contents


def text(rng: Generator, longest: int = 9) -> str:
    """Return text of any length, so that the next field has every alignment; sometimes with multi-byte characters."""
    return "".join(rng.choice(list("abcµ人🧍"), rng.integers(0, longest + 1)))


def floats(rng: Generator, *shape: int) -> np.ndarray:
    """Return floats of all magnitudes of float32, including special values."""
    values = rng.normal(size=shape) * 10.0 ** rng.integers(-30, 30, shape)
    special = rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0], shape)
    return np.where(rng.random(shape) < 0.1, special, values)


def header(rng: Generator) -> HeaderContent:
    # Long, so that messages exceed the blocks that malloc keeps for reuse and does not fill again.
    frame_id = 1100 * "x" + text(rng)
    return HeaderContent(int(rng.integers(-(2**31), 2**31)), int(rng.integers(0, 10**9)), frame_id)


def human_array(rng: Generator, n: int, joints: int, vertices: int) -> HumanArrayContent:
    return HumanArrayContent(
        header=header(rng),
        image_size=(int(rng.integers(0, 2**32)), int(rng.integers(0, 2**32))),
        k=floats(rng, 3, 3),
        intrinsics_source=int(rng.integers(0, 4)),
        vertical_fov=float(floats(rng)),
        age_at_receipt=float(floats(rng)),
        inference_time=float(floats(rng)),
        total_latency=float(floats(rng)),
        dropped_frames=int(rng.integers(0, 2**32)),
        track_id=rng.integers(-1, 2**32, n),
        frame_id=tuple(text(rng) for _ in range(n)),
        state=rng.integers(0, 3, n),
        age=floats(rng, n),
        score=floats(rng, n).astype(np.float32),
        pelvis=floats(rng, n, 3).astype(np.float32),
        pelvis_orientation=floats(rng, n, 4),
        pelvis_covariance=floats(rng, n, 6, 6),
        velocity=floats(rng, n, 3),
        velocity_covariance=floats(rng, n, 3, 3),
        velocity_frame=text(rng),
        stature=floats(rng, n).astype(np.float32),
        phenotype=floats(rng, n, 6).astype(np.float32),
        box=rng.integers(0, 2**32, (n, 4)),
        joints=floats(rng, n, joints, 3).astype(np.float32),
        joints_2d=floats(rng, n, joints, 2).astype(np.float32),
        joint_rotations=floats(rng, n, joints, 4).astype(np.float32),
        vertices=floats(rng, n, vertices, 3).astype(np.float32),
    )


def marker(rng: Generator, vertices: int = 40, triangles: int = 30) -> MarkerContent:
    color = tuple(float(value) for value in rng.random(4).astype(np.float32))
    lifetime_ns = int(rng.integers(0, 10**11))
    name, number = text(rng), int(rng.integers(-(2**31), 2**31))
    kind = rng.integers(0, 3)
    if kind == 0:
        count = int(rng.integers(0, triangles + 1))
        mesh = floats(rng, vertices, 3).astype(np.float32), rng.integers(0, vertices, (count, 3))
        return make_mesh_marker(header(rng), name, number, *mesh, color, lifetime_ns)
    if kind == 1:
        x, y, z, height = (float(value) for value in floats(rng, 4))
        return make_label_marker(header(rng), name, number, text(rng, 20), (x, y, z), height, color, lifetime_ns)
    return make_delete_marker(header(rng), name, number)


# --- comparison


def serialized_by_ros(message: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return rclpy's bytes and a mask of those that it writes.

    Fast CDR does not initialize padding; malloc is set to two different fillings to find it.
    """
    set_option = ctypes.CDLL(None).mallopt
    fillings = []
    for filling in (0x55, 0xAA):
        set_option(M_PERTURB, filling)
        fillings.append(np.frombuffer(serialize_message(message), np.uint8))
    set_option(M_PERTURB, 0)
    first, second = fillings
    return first, first == second


def assert_same_bytes(ours: bytes, message: Any) -> None:
    theirs, is_written = serialized_by_ros(message)
    assert len(ours) == len(theirs)
    different = np.flatnonzero(np.frombuffer(ours, np.uint8) != np.where(is_written, theirs, 0))
    assert not different.size, f"first different byte: {different[0]} of {len(ours)}"


pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="padding is found by glibc's mallopt")


def test_the_comparison_sees_padding_and_nothing_else() -> None:
    # Each string ends with a zero; 1, 0, 3 and 2 bytes of padding precede the length of the namespace.
    for length, padding in ((1102, [1119]), (1103, []), (1104, [1121, 1122, 1123]), (1105, [1122, 1123])):
        message = Marker(ns="abc")
        message.header.frame_id = length * "x"
        _, is_written = serialized_by_ros(message)
        namespace = 4 + 8 + 4 + 4 * (length // 4 + 1)
        assert np.flatnonzero(~is_written[:namespace]).tolist() == padding
    assert is_written.mean() > 0.9


# --- byte for byte


@pytest.mark.parametrize(
    ("n", "joints", "vertices"),
    [
        (0, 163, 0),  # no people
        (1, 163, 0),
        (3, 0, 0),  # every sequence empty: nothing after a count is aligned
        (5, 2, 1),
        (2, 163, 615),  # arrays large enough to be written in place
        (60, 1, 0),
    ],
)
def test_human_array(n: int, joints: int, vertices: int) -> None:
    for seed in range(20):
        content = human_array(np.random.default_rng(seed), n, joints, vertices)
        assert_same_bytes(human_array_to_cdr(content), human_array_to_ros(content))


@pytest.mark.parametrize("count", [0, 1, 2, 7, 50])
def test_marker_array(count: int) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        markers = [marker(rng) for _ in range(count)]
        assert_same_bytes(marker_array_to_cdr(markers).to_bytes(), marker_array_to_ros(markers))


def test_meshes_of_full_size() -> None:
    rng = np.random.default_rng(0)
    white = (1.0, 1.0, 1.0, 1.0)
    vertices, faces = rng.normal(size=(2, 19158, 3)).astype(np.float32), rng.integers(0, 19158, (27420, 3))
    meshes = [make_mesh_marker(header(rng), "mesh", 1, each, faces.astype(np.int32), white) for each in vertices]
    assert_same_bytes(marker_array_to_cdr(meshes).to_bytes(), marker_array_to_ros(meshes))


@pytest.mark.parametrize("count", [0, 1, 340, 342, 20000])
def test_point_cloud(count: int) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        content = PointCloudContent(header(rng), floats(rng, count, 3))
        assert_same_bytes(point_cloud_to_cdr(content).to_bytes(), point_cloud_to_ros(content))


def strings() -> st.SearchStrategy[str]:
    """Return valid ROS strings: no zero, which ends a string, and only text that UTF-8 can encode."""
    return st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def headers() -> st.SearchStrategy[HeaderContent]:
    numbers = st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**32 - 1)
    return st.builds(HeaderContent, *numbers, strings().map(lambda name: 1100 * "x" + name))


@st.composite
def marker_contents(draw: st.DrawFn) -> MarkerContent:
    identity = draw(headers()), draw(strings()), draw(st.integers(-(2**31), 2**31 - 1))
    color = draw(st.tuples(*[st.floats(width=32)] * 4))
    lifetime_ns = draw(st.integers(0, 2**31 * 10**9 - 1))
    vertices = draw(st.lists(st.tuples(*[st.floats(width=32)] * 3), min_size=1, max_size=4))
    indices = st.integers(0, len(vertices) - 1)
    faces = np.array(draw(st.lists(st.tuples(indices, indices, indices), max_size=4)), np.intp).reshape(-1, 3)
    place, height, text = draw(st.tuples(*[st.floats()] * 3)), draw(st.floats()), draw(strings())
    return draw(
        st.sampled_from(
            [
                make_mesh_marker(*identity, np.array(vertices, np.float32), faces, color, lifetime_ns),
                make_label_marker(*identity, text, place, height, color, lifetime_ns),
                make_delete_marker(*identity),
            ]
        )
    )


@given(st.lists(marker_contents(), max_size=4))
def test_any_markers(markers: list[MarkerContent]) -> None:
    assert_same_bytes(marker_array_to_cdr(markers).to_bytes(), marker_array_to_ros(markers))


@given(headers(), strings(), st.lists(strings(), max_size=3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 999))
def test_any_humans(
    header: HeaderContent, frame: str, frames: list[str], joints: int, vertices: int, seed: int
) -> None:
    content = human_array(np.random.default_rng(seed), len(frames), joints, vertices)
    content = dataclasses.replace(content, header=header, velocity_frame=frame, frame_id=tuple(frames))
    assert_same_bytes(human_array_to_cdr(content), human_array_to_ros(content))


@given(headers(), st.lists(st.tuples(*[st.floats(width=32)] * 3), max_size=5))
def test_any_points(header: HeaderContent, points: list[tuple[float, float, float]]) -> None:
    content = PointCloudContent(header, np.array(points, np.float32).reshape(-1, 3))
    assert_same_bytes(point_cloud_to_cdr(content).to_bytes(), point_cloud_to_ros(content))


def test_nobody() -> None:
    content = HumanArrayContent(HeaderContent(1, 2, 1100 * "x"), 3)
    assert_same_bytes(human_array_to_cdr(content), human_array_to_ros(content))


@pytest.mark.parametrize("memory", ["C", "F", "strided", "float64", "big-endian"])
def test_arrays_of_any_memory_layout(memory: str) -> None:
    rng = np.random.default_rng(1)
    points = rng.normal(size=(2000, 3)).astype(np.float32)
    layouts: dict[str, Callable[[], np.ndarray]] = {
        "C": lambda: points,
        "F": lambda: np.asfortranarray(points),
        "strided": lambda: np.repeat(points, 2, axis=0)[::2],
        "float64": lambda: points.astype(np.float64),
        "big-endian": lambda: points.astype(">f4"),
    }
    same = layouts[memory]()
    faces = rng.integers(0, 2000, (500, 3))
    reference = make_mesh_marker(HeaderContent(), "mesh", 1, points, faces, (1.0, 1.0, 1.0, 1.0))
    other = make_mesh_marker(HeaderContent(), "mesh", 1, same, np.asfortranarray(faces), (1.0, 1.0, 1.0, 1.0))
    assert marker_array_to_cdr([other]).to_bytes() == marker_array_to_cdr([reference]).to_bytes()
    clouds = [point_cloud_to_cdr(PointCloudContent(HeaderContent(), each)).to_bytes() for each in (points, same)]
    assert clouds[0] == clouds[1]


def test_the_constants_of_the_definitions() -> None:
    rng = np.random.default_rng(0)
    mesh = make_mesh_marker(header(rng), "", 0, np.eye(3), np.array([[0, 1, 2]]), (1.0, 1.0, 1.0, 1.0))
    label = make_label_marker(header(rng), "", 0, "", (0.0, 0.0, 0.0), 0.1, (1.0, 1.0, 1.0, 1.0))
    deleted = make_delete_marker(header(rng), "", 0)
    assert (mesh.type, mesh.action) == (Marker.TRIANGLE_LIST, Marker.ADD)
    assert (label.type, label.action) == (Marker.TEXT_VIEW_FACING, Marker.ADD)
    assert deleted.action == Marker.DELETE


@pytest.mark.parametrize("face", [[0, 1, 3], [-1, 0, 1]])
def test_faces_must_index_the_vertices(face: list[int]) -> None:
    with pytest.raises(ValueError, match="faces must index 3 vertices"):
        validate_faces(np.array([face]), 3)


def test_track_id_minus_one_is_the_constant_of_the_message() -> None:
    content = human_array(np.random.default_rng(0), 2, 1, 0)
    content.track_id[:] = -1
    read = deserialize_message(human_array_to_cdr(content), HumanArray)
    assert [human.track_id for human in read.humans] == [read.humans[0].NO_TRACK] * 2


# --- in use


def test_ros_reads_our_bytes() -> None:
    assert content_publisher.can_deserialize_cdr()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-8],  # a definition with fewer fields
        lambda data: data[:200] + bytes(8) + data[200:],  # one with more
        lambda data: data[:60] + b"\xff\xff\xff\x7f" + data[64:],  # fields in other places
    ],
)
def test_bytes_that_are_not_read_are_noticed(damage: Callable[[bytes], bytes]) -> None:
    header = HeaderContent(1, 2, "camera")
    markers = [make_mesh_marker(header, "mesh", 1, np.eye(3), np.array([[0, 1, 2]]), (1.0, 1.0, 1.0, 1.0), 5)]
    data, message = marker_array_to_cdr(markers).to_bytes(), marker_array_to_ros(markers)
    assert content_publisher.is_read_back(data, message)
    assert not content_publisher.is_read_back(damage(data), message)


def test_published_bytes_arrive_as_the_message() -> None:
    rng = np.random.default_rng(3)
    vertices, faces = rng.normal(size=(19158, 3)).astype(np.float32), rng.integers(0, 19158, (27420, 3))
    sent = [
        make_mesh_marker(HeaderContent(5, 6, "camera"), "mesh", 4, vertices, faces, (0.5, 0.25, 1.0, 1.0)),
        make_label_marker(
            HeaderContent(5, 6, "camera"), "label", 4, "人 4", (0.0, 1.0, 2.0), 0.1, (1.0, 1.0, 1.0, 1.0)
        ),
        make_delete_marker(HeaderContent(5, 6, "camera"), "mesh", 3),
    ]
    context = rclpy.Context()
    context.init(domain_id=DOMAIN_ID)
    received: list[MarkerArray] = []
    try:
        node = rclpy.create_node("test_cdr", context=context)
        publisher = node.create_publisher(MarkerArray, "markers", 1)
        node.create_subscription(MarkerArray, "markers", received.append, 1)
        executor = rclpy.executors.SingleThreadedExecutor(context=context)
        executor.add_node(node)
        deadline = time.monotonic() + 60.0
        while not publisher.get_subscription_count() and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.05)
        publisher.publish(marker_array_to_cdr(sent).to_bytes())
        while not received and time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.05)
        executor.shutdown()
        node.destroy_node()
    finally:
        context.try_shutdown()
    assert received == [marker_array_to_ros(sent)]
