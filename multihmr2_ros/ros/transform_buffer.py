"""Where frames of reference are to each other over time, as tf2's buffer tells, from transforms as they come.

Needs no ROS: tf2_ros exists for ROS installations only. Everything that it keeps is bounded, whatever comes.
"""

from __future__ import annotations

import math
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

NS = 1_000_000_000
HISTORY_NS = 10 * NS  # as tf2's buffer
MOST_POSES = 2_000  # of one frame
MOST_FRAMES = 1_000  # that move, and as many that do not
LONGEST_NAME = 256
JUMP_NS = 2 * NS  # a frame whose stamps go back by more: time was set back
REACH_NS = 1_000_000  # an image's stamp may be rounded past the newest transform by so much
UNIT_TOLERANCE = 1e-2  # of a quaternion's length, as in tf2
SAME_DIRECTION = 1 - 1e-9  # cosine above which two quaternions are not interpolated along the sphere

Pose = tuple[float, ...]
"""Seven numbers: translation x, y, z (m) and quaternion x, y, z, w of a frame in its parent."""


class Unknown(Exception):
    """A transform that is not known, in words. may_come: the next message may bring it. Of frames that nothing connects
    it is not expected: every image would wait in vain where nobody publishes them."""

    def __init__(self, reason: str, *, may_come: bool) -> None:
        super().__init__(reason)
        self.may_come = may_come


@dataclass
class _Frame:
    """The poses of a frame in its parent, in ascending stamps (ns)."""

    parent: str
    stamps: list[int] = field(default_factory=list)
    poses: list[Pose] = field(default_factory=list)

    def add(self, stamp_ns: int, pose: Pose) -> None:
        """Late ones are put in their place; what is too old or too many goes."""
        place = bisect_left(self.stamps, stamp_ns)
        if place < len(self.stamps) and self.stamps[place] == stamp_ns:
            self.poses[place] = pose
            return
        self.stamps.insert(place, stamp_ns)
        self.poses.insert(place, pose)
        too_old = bisect_left(self.stamps, self.stamps[-1] - HISTORY_NS)
        gone = max(too_old, len(self.stamps) - MOST_POSES)
        del self.stamps[:gone], self.poses[:gone]

    def parent_from_frame(self, stamp_ns: int, name: str) -> NDArray[np.float64]:
        """(4, 4) at a stamp, interpolated. Raises Unknown before the first and after the last one."""
        after = bisect_left(self.stamps, stamp_ns)
        if after < len(self.stamps) and (self.stamps[after] == stamp_ns or after > 0):
            if self.stamps[after] == stamp_ns:
                return matrix(self.poses[after])
            before, later = self.stamps[after - 1], self.stamps[after]
            return matrix(between(self.poses[after - 1], self.poses[after], (stamp_ns - before) / (later - before)))
        nearest = 0 if after == 0 else -1
        apart_s = (self.stamps[nearest] - stamp_ns) / NS
        if abs(apart_s) * NS <= REACH_NS:
            return matrix(self.poses[nearest])
        word = f"the newest is {-apart_s:.3f} s older" if apart_s < 0 else f"the oldest is {apart_s:.3f} s newer"
        raise Unknown(f"no transform from {name!r} to {self.parent!r} at its stamp: {word}", may_come=apart_s < 0)


class TransformBuffer:
    """The transforms of the last seconds. For several threads."""

    def __init__(self) -> None:
        self._moving: dict[str, _Frame] = {}  # in the order of their last change
        self._static: dict[str, _Frame] = {}
        self._is_closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        """How many poses are kept."""
        with self._changed:
            return sum(len(frame.stamps) for frame in (*self._moving.values(), *self._static.values()))

    def add(self, transforms: Sequence[tuple[str, str, int, Pose]], *, is_static: bool) -> int:
        """Take transforms, each of a child, its parent, a stamp (ns) and the child's pose; how many were refused: those
        without names, of themselves, with numbers that are no pose, and static ones beyond the most."""
        with self._changed:
            taken = sum(
                self._add(_name(child), _name(parent), stamp_ns, pose, is_static)
                for child, parent, stamp_ns, pose in transforms
            )
            self._changed.notify_all()
        return len(transforms) - taken

    def lookup(self, target: str, source: str, stamp_ns: int, timeout_s: float = 0.0) -> NDArray[np.float64]:
        """(4, 4) target from source at a stamp. Waits at most timeout_s for it. Raises Unknown."""
        target, source, deadline_s = _name(target), _name(source), time.monotonic() + timeout_s
        with self._changed:
            while True:
                try:
                    return self._lookup(target, source, stamp_ns)
                except Unknown as reason:
                    left_s = deadline_s - time.monotonic()
                    if self._is_closed or not reason.may_come or left_s <= 0:
                        raise
                self._changed.wait(left_s)

    def clear(self) -> None:
        """Forget all but what is static: time was set back."""
        with self._changed:
            self._moving.clear()

    def close(self) -> None:
        """Nothing more will come: who waits need not."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _add(self, child: str, parent: str, stamp_ns: int, pose: Pose, is_static: bool) -> bool:
        if not (child and parent and child != parent and max(len(child), len(parent)) <= LONGEST_NAME):
            return False
        if not (all(map(math.isfinite, pose)) and abs(math.hypot(*pose[3:]) - 1) <= UNIT_TOLERANCE):
            return False
        if is_static:
            if child not in self._static and len(self._static) >= MOST_FRAMES:
                return False
            self._moving.pop(child, None)
            self._static[child] = _Frame(parent, [stamp_ns], [pose])
            return True
        self._static.pop(child, None)
        frame = self._moving.pop(child, None)
        if frame is not None and stamp_ns < frame.stamps[-1] - JUMP_NS:
            self._moving.clear()
            frame = None
        if frame is None or frame.parent != parent:
            frame = _Frame(parent)
        frame.add(stamp_ns, pose)
        self._moving[child] = frame
        if len(self._moving) > MOST_FRAMES:
            del self._moving[next(iter(self._moving))]
        return True

    def _lookup(self, target: str, source: str, stamp_ns: int) -> NDArray[np.float64]:
        up, down = list(self._ancestors(source)), list(self._ancestors(target))
        common = next((name for name in up if name in set(down)), None)
        if common is None:
            raise Unknown(f"no transform connects {source!r} with {target!r}", may_come=False)
        from_target = self._to_ancestor(down[: down.index(common)], stamp_ns)
        return _inverse(from_target) @ self._to_ancestor(up[: up.index(common)], stamp_ns)

    def _ancestors(self, name: str) -> Iterator[str]:
        """The frame, its parent, and so on to the root; ends where the tree is none."""
        seen: set[str] = set()
        while name not in seen:
            yield name
            seen.add(name)
            frame = self._frame(name)
            if frame is None:
                return
            name = frame.parent

    def _to_ancestor(self, names: Sequence[str], stamp_ns: int) -> NDArray[np.float64]:
        pose = np.eye(4)
        for name in names:
            frame = self._frame(name)
            assert frame is not None
            at_ns = frame.stamps[0] if name in self._static else stamp_ns
            pose = frame.parent_from_frame(at_ns, name) @ pose
        return pose

    def _frame(self, name: str) -> _Frame | None:
        return self._static.get(name) or self._moving.get(name)


def between(first: Pose, second: Pose, share: float) -> Pose:
    """The pose at a share in [0, 1] of the way from the first to the second: straight, turning the shorter way."""
    start, end = np.array(first), np.array(second)
    cosine = float(start[3:] @ end[3:])
    if cosine < 0:
        end[3:], cosine = -end[3:], -cosine
    weights = np.array([1 - share, share])
    if cosine < SAME_DIRECTION:
        angle = np.arccos(min(cosine, 1.0))
        weights = np.sin(weights * angle) / np.sin(angle)
    turn = weights[0] * start[3:] + weights[1] * end[3:]
    place = (1 - share) * start[:3] + share * end[:3]
    return (*place.tolist(), *(turn / np.linalg.norm(turn)).tolist())


def matrix(pose: Pose) -> NDArray[np.float64]:
    """(4, 4) of a pose, whose quaternion is normalised."""
    x, y, z, w = np.array(pose[3:]) / np.linalg.norm(pose[3:])
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w), pose[0]],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w), pose[1]],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y), pose[2]],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


def _inverse(rigid: NDArray[np.float64]) -> NDArray[np.float64]:
    inverse = np.eye(4)
    inverse[:3, :3] = rigid[:3, :3].T
    inverse[:3, 3] = -rigid[:3, :3].T @ rigid[:3, 3]
    return inverse


def _name(frame: str) -> str:
    """As tf2 has it: without the slash that ROS 1 put before names."""
    return frame.removeprefix("/")
