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

"""Transforms, live and from a bag, against SciPy and, if installed, tf2; and hostile input."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

from multihmr2_ros.bags.transforms import BagTransforms
from multihmr2_ros.errors import UserError
from multihmr2_ros.ros.transforms import (
    HISTORY_NS,
    MAX_FRAMES,
    MAX_POSES,
    NS,
    SILENT_S,
    TransformBuffer,
    UnknownTransformError,
)
from multihmr2_ros.transform_tree import Pose
from test.helpers.bag_factory import transform, write_bag

# Child → parent. `laser` and `wheel` are static.
TREE = {"odom": "map", "base": "odom", "camera": "base", "hand": "camera", "laser": "base", "wheel": "laser"}
STATIC = {"laser", "wheel"}
IDENTITY: Pose = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
START_NS = 1_700_000_000 * NS


def make_random_pose(generator: np.random.Generator) -> Pose:
    x, y, z = generator.normal(size=3).tolist()
    qx, qy, qz, qw = Rotation.random(random_state=generator.integers(2**31)).as_quat().tolist()
    return x, y, z, qx, qy, qz, qw


def make_random_tree(seed: int) -> dict[str, tuple[list[int], list[Pose]]]:
    """Return poses of each frame of TREE in its parent at its own ascending stamps; one pose for static frames."""
    generator = np.random.default_rng(seed)
    tree = {}
    for child in TREE:
        count = 1 if child in STATIC else 30
        stamps = np.sort(generator.choice(2 * NS, count, replace=False)) + START_NS
        if child not in STATIC:
            stamps[0], stamps[-1] = START_NS, START_NS + 2 * NS
        tree[child] = stamps.tolist(), [make_random_pose(generator) for _ in range(count)]
    return tree


def fill_buffer(tree: dict[str, tuple[list[int], list[Pose]]], seed: int) -> TransformBuffer:
    """Return a buffer that received all transforms in random order."""
    buffer = TransformBuffer()
    everything = [(child, stamp, pose) for child, poses in tree.items() for stamp, pose in zip(*poses, strict=True)]
    for index in np.random.default_rng(seed).permutation(len(everything)):
        child, stamp, pose = everything[index]
        assert buffer.add([(child, TREE[child], stamp, pose)], is_static=child in STATIC) == 0
    return buffer


def brute_force(
    tree: dict[str, tuple[list[int], list[Pose]]], target: str, source: str, at_ns: int
) -> NDArray[np.float64]:
    """Compute the transform (4, 4) with SciPy by way of the root."""

    def root_from(name: str) -> NDArray[np.float64]:
        pose = np.eye(4)
        while name in TREE:
            stamps, poses = tree[name]
            values, step = np.array(poses), np.eye(4)
            seconds = (np.array(stamps) - START_NS) / NS
            if name in STATIC:
                turn, step[:3, 3] = Rotation.from_quat(values[0, 3:]), values[0, :3]
            else:
                at_s = (at_ns - START_NS) / NS
                turn = Slerp(seconds, Rotation.from_quat(values[:, 3:]))(at_s)
                step[:3, 3] = [np.interp(at_s, seconds, values[:, axis]) for axis in range(3)]
            step[:3, :3] = turn.as_matrix()
            pose, name = step @ pose, TREE[name]
        return pose

    return np.linalg.inv(root_from(target)) @ root_from(source)


FRAMES = ["map", *TREE]


@pytest.mark.parametrize("seed", range(5))
def test_every_pair_of_frames_against_scipy(seed: int) -> None:
    tree = make_random_tree(seed)
    buffer, generator = fill_buffer(tree, seed), np.random.default_rng(seed)
    for target in FRAMES:
        for source in FRAMES:
            at_ns = START_NS + int(generator.integers(0, 2 * NS + 1))
            expected = brute_force(tree, target, source, at_ns)
            np.testing.assert_allclose(buffer.lookup_transform(target, source, at_ns), expected, atol=1e-6)
            stamps = tree["base"][0]
            np.testing.assert_allclose(
                buffer.lookup_transform(target, source, stamps[7]),
                brute_force(tree, target, source, stamps[7]),
                atol=1e-6,
            )


def test_a_bag_against_scipy(tmp_path: Path) -> None:
    tree, generator = make_random_tree(6), np.random.default_rng(6)
    messages = [
        ("/tf_static" if child in STATIC else "/tf", START_NS, transform(TREE[child], child, pose, stamp))
        for child, poses in tree.items()
        for stamp, pose in zip(*poses, strict=True)
    ]
    path = write_bag(tmp_path / "tree.mcap", [messages[index] for index in generator.permutation(len(messages))])
    pairs = [("map", "hand"), ("hand", "map"), ("camera", "wheel"), ("wheel", "camera"), ("odom", "odom")]
    for target, source in pairs:
        transforms = BagTransforms(path, target, source)
        for at_ns in (START_NS, tree["base"][0][7], *(START_NS + generator.integers(0, 2 * NS, 5)).tolist()):
            expected = brute_force(tree, target, source, at_ns)
            np.testing.assert_allclose(transforms.target_from_source(at_ns), expected, atol=1e-6)


def test_a_bag_gives_what_the_node_would_take(tmp_path: Path) -> None:
    """Transforms that tf2 refuses or that ROS 1 wrote have the same meaning in a bag as live."""
    messages = [
        ("/tf_static", START_NS, transform("/base", "/camera", (1.0, *IDENTITY[1:]), 0)),
        ("/tf_static", START_NS, transform("camera", "hand", (0, 0, 0, 0, 0, 0, 0), 0)),
        ("/tf_static", START_NS, transform("camera", "hand", (0, 0, 0, 0, 0, 0, 1.1), 0)),
    ]
    path = write_bag(tmp_path / "bag.mcap", messages)
    assert BagTransforms(path, "base", "camera").target_from_source(START_NS)[0, 3] == 1
    with pytest.raises(UserError, match="no transform between 'hand' and 'camera'"):
        BagTransforms(path, "camera", "hand")


def test_every_pair_of_frames_against_tf2() -> None:
    tf2_ros = pytest.importorskip("tf2_ros", reason="tf2_ros is not installed: it has no wheel")
    from builtin_interfaces.msg import Time as TimeMessage
    from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
    from rclpy.time import Time
    from std_msgs.msg import Header

    tree = make_random_tree(0)
    buffer, other = fill_buffer(tree, 0), tf2_ros.Buffer()
    for child, (stamps, poses) in tree.items():
        for stamp, (x, y, z, qx, qy, qz, qw) in zip(stamps, poses, strict=True):
            header = Header(stamp=TimeMessage(sec=stamp // NS, nanosec=stamp % NS), frame_id=TREE[child])
            transform = Transform(translation=Vector3(x=x, y=y, z=z), rotation=Quaternion(x=qx, y=qy, z=qz, w=qw))
            message = TransformStamped(header=header, child_frame_id=child, transform=transform)
            (other.set_transform_static if child in STATIC else other.set_transform)(message, "test")
    generator = np.random.default_rng(1)
    for target in FRAMES:
        for source in FRAMES:
            at_ns = START_NS + int(generator.integers(0, 2 * NS))
            found = other.lookup_transform(target, source, Time(nanoseconds=at_ns)).transform
            place, turn = found.translation, found.rotation
            mine = buffer.lookup_transform(target, source, at_ns)
            np.testing.assert_allclose(mine[:3, 3], [place.x, place.y, place.z], atol=1e-6)
            expected = Rotation.from_quat([turn.x, turn.y, turn.z, turn.w]).as_matrix()
            np.testing.assert_allclose(mine[:3, :3], expected, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 1e-9, 0.3, 1.0])
@pytest.mark.parametrize("angle", [0.0, 1e-7, 1e-3, 1.0, 3.1])
def test_interpolation_takes_the_shorter_way(share: float, angle: float) -> None:
    turn = Rotation.from_rotvec([0, 0, angle]).as_quat()
    for sign in (1, -1):
        buffer = TransformBuffer()
        qx, qy, qz, qw = (sign * turn).tolist()
        poses = [("b", "a", 0, IDENTITY), ("b", "a", NS, (2.0, 0.0, 0.0, qx, qy, qz, qw))]
        assert buffer.add(poses, is_static=False) == 0
        pose = buffer.lookup_transform("a", "b", round(share * NS))
        expected = Rotation.from_rotvec([0, 0, share * angle]).as_matrix()
        np.testing.assert_allclose(pose[:3, :3], expected, atol=1e-8)
        np.testing.assert_allclose(pose[:3, 3], [2 * share, 0, 0], atol=1e-8)


def test_nothing_is_extrapolated() -> None:
    buffer = TransformBuffer()
    buffer.add([("b", "a", NS, IDENTITY), ("b", "a", 2 * NS, IDENTITY)], is_static=False)
    buffer.lookup_transform("a", "b", 2 * NS + 500_000)  # half a millisecond
    with pytest.raises(
        UnknownTransformError, match=r"from 'b' to 'a' at its stamp: the newest is 0\.500 s older"
    ) as newer:
        buffer.lookup_transform("a", "b", NS * 5 // 2)
    with pytest.raises(UnknownTransformError, match=r"the oldest is 0\.500 s newer") as older:
        buffer.lookup_transform("a", "b", NS // 2)
    with pytest.raises(UnknownTransformError, match="no transform connects 'b' with 'c'") as unconnected:
        buffer.lookup_transform("c", "b", NS)
    assert [each.value.may_come for each in (newer, older, unconnected)] == [True, False, False]
    np.testing.assert_array_equal(buffer.lookup_transform("x", "/x", 0), np.eye(4))


def test_a_transform_that_comes_in_time_is_waited_for() -> None:
    buffer = TransformBuffer()
    buffer.add([("b", "a", NS, IDENTITY)], is_static=False)
    later = threading.Timer(0.1, lambda: buffer.add([("b", "a", 3 * NS, IDENTITY)], is_static=False))
    later.start()
    np.testing.assert_array_equal(buffer.lookup_transform("a", "b", 2 * NS, timeout_s=60.0), np.eye(4))
    later.join()
    began_s = time.monotonic()
    with pytest.raises(UnknownTransformError):
        buffer.lookup_transform("a", "b", 4 * NS, timeout_s=0.05)
    assert time.monotonic() - began_s >= 0.05
    for target, stamp_ns in (("a", 0), ("elsewhere", 4 * NS)):  # neither the past nor unpublished frames arrive
        with pytest.raises(UnknownTransformError):
            buffer.lookup_transform(target, "b", stamp_ns, timeout_s=1000.0)


def test_a_closed_buffer_does_not_wait() -> None:
    buffer = TransformBuffer()
    buffer.add([("b", "a", 0, IDENTITY)], is_static=False)
    later = threading.Timer(0.1, buffer.close)
    later.start()
    began_s = time.monotonic()
    with pytest.raises(UnknownTransformError):
        buffer.lookup_transform("a", "b", NS, timeout_s=60.0)
    assert time.monotonic() - began_s < 60
    later.join()


def test_time_that_goes_back_clears_what_moves() -> None:
    buffer = TransformBuffer()
    buffer.add([("laser", "base", 0, IDENTITY)], is_static=True)
    for second in (100, 101, 102):
        buffer.add([("base", "odom", second * NS, IDENTITY), ("odom", "map", second * NS, IDENTITY)], is_static=False)
    buffer.add([("base", "odom", 101 * NS + 5, IDENTITY)], is_static=False)  # only late
    buffer.lookup_transform("map", "laser", 101 * NS)
    buffer.add([("base", "odom", 5 * NS, IDENTITY)], is_static=False)
    buffer.lookup_transform("odom", "laser", 5 * NS)
    with pytest.raises(UnknownTransformError):
        buffer.lookup_transform("map", "base", 101 * NS)
    buffer.clear_after_jump(60 * NS)  # the image reports the jump, too, and later
    buffer.lookup_transform("odom", "laser", 5 * NS)
    buffer.clear_after_jump(6 * NS)
    buffer.lookup_transform("base", "laser", 0)
    assert len(buffer) == 1


def test_a_frame_of_two_clocks_does_not_clear_the_others() -> None:
    buffer = TransformBuffer()
    for second in (100, 101):
        buffer.add([("camera", "odom", second * NS, IDENTITY), ("arm", "base", second * NS, IDENTITY)], is_static=False)
        buffer.add([("arm", "base", (second - 3) * NS, IDENTITY)], is_static=False)
    buffer.lookup_transform("odom", "camera", 100 * NS + 5)


def test_a_frame_may_change_its_parent_and_its_kind() -> None:
    buffer, shifted = TransformBuffer(), (1.0, *IDENTITY[1:])
    buffer.add([("b", "a", NS, IDENTITY), ("b", "a", 2 * NS, IDENTITY)], is_static=False)
    buffer.add([("b", "c", 3 * NS, shifted)], is_static=False)
    assert buffer.lookup_transform("c", "b", 3 * NS)[0, 3] == 1
    with pytest.raises(UnknownTransformError):
        buffer.lookup_transform("a", "b", NS)
    buffer.add([("b", "a", 0, shifted)], is_static=True)
    assert buffer.lookup_transform("a", "b", 77 * NS)[0, 3] == 1
    buffer.add([("b", "a", 4 * NS, IDENTITY)], is_static=False)
    assert buffer.lookup_transform("a", "b", 4 * NS)[0, 3] == 0


def test_cyclic_transforms_do_not_hang() -> None:
    buffer = TransformBuffer()
    for child, parent in (("a", "b"), ("b", "c"), ("c", "a"), ("d", "c")):
        buffer.add([(child, parent, 0, IDENTITY)], is_static=True)
    with pytest.raises(UnknownTransformError, match="no transform connects"):
        buffer.lookup_transform("elsewhere", "d", 0)
    np.testing.assert_array_equal(buffer.lookup_transform("a", "d", 0), np.eye(4))


NAN, INF = float("nan"), float("inf")
GARBAGE: list[tuple[str, str, int, Pose]] = [
    ("", "a", 0, IDENTITY),
    ("b", "", 0, IDENTITY),
    ("b", "b", 0, IDENTITY),
    ("/b", "b", 0, IDENTITY),
    ("b" * 300, "a", 0, IDENTITY),
    ("b", "a" * 300, 0, IDENTITY),
    ("b", "a", 0, (NAN, 0, 0, 0, 0, 0, 1)),
    ("b", "a", 0, (INF, 0, 0, 0, 0, 0, 1)),
    ("b", "a", 0, (0, 0, 0, 0, 0, 0, NAN)),
    ("b", "a", 0, (0, 0, 0, 0, 0, 0, 0)),  # as in a message with default values
    ("b", "a", 0, (0, 0, 0, 0, 0, 0, 1.1)),
    ("b", "a", 0, (0, 0, 0, 1e200, 0, 0, 1e200)),
]


def test_invalid_transforms_are_refused_and_the_others_are_used() -> None:
    buffer = TransformBuffer()
    for is_static in (False, True):
        assert buffer.add([*GARBAGE, ("camera", "base", 0, IDENTITY)], is_static=is_static) == len(GARBAGE)
    assert len(buffer) == 1
    buffer.lookup_transform("base", "camera", 0)


def test_memory_is_bounded() -> None:
    buffer = TransformBuffer()
    for index in range(MAX_FRAMES + 500):
        buffer.add([(f"static_{index}", "base", 0, IDENTITY), ("camera", "base", 0, IDENTITY)], is_static=True)
        buffer.add([(f"frame_{index}", "base", 0, IDENTITY), ("base", "odom", index * 1000, IDENTITY)], is_static=False)
    buffer.lookup_transform("odom", "base", 5_000)  # frames with updates are kept
    buffer.lookup_transform("base", "static_0", 0)
    assert len(buffer) <= 3 * MAX_FRAMES + 500
    for index in range(2 * MAX_POSES):
        buffer.add([("base", "odom", index * 1000, IDENTITY)], is_static=False)
    assert len(buffer) <= 2 * MAX_FRAMES + MAX_POSES
    buffer = TransformBuffer()
    for second in range(1000):
        buffer.add([("base", "odom", second * NS, IDENTITY)], is_static=False)
    assert len(buffer) == HISTORY_NS // NS + 1


def test_a_frame_without_transforms_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transforms of other cameras' people have a new name each, day after day. Age is measured by arrival: clocks may
    differ by hours."""
    now_s, buffer = 1000.0, TransformBuffer()
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    buffer.add([("laser", "base", 0, IDENTITY)], is_static=True)
    for second in range(300):
        names = [f"rear_{second}", f"other_{second}"]
        buffer.add([(name, "camera", (second + 5000) * NS, IDENTITY) for name in names], is_static=False)
        buffer.add([("base", "odom", second * NS, IDENTITY)], is_static=False)
        now_s += 1.0
    assert len(buffer) <= 1 + 2 * (SILENT_S + 1) + HISTORY_NS // NS + 1
    buffer.lookup_transform("odom", "laser", 295 * NS)


def test_stamps_at_the_ends_of_time() -> None:
    buffer, ends = TransformBuffer(), (-(2**31) * NS, 2**31 * NS)
    for stamp_ns in (*ends, *ends):
        buffer.add([("base", "odom", stamp_ns, IDENTITY)], is_static=False)
        buffer.lookup_transform("odom", "base", stamp_ns)
