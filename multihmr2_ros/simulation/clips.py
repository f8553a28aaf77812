"""Clips: what a body does over time, apart from where it goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .gaits import GAITS, Manner
from .pose import SEGMENTS, Pose
from .random_poses import pose_of
from .retarget import Motion

# A body seen in a mirror: the sides change places, and rotations change handedness about x and z.
OTHER_SIDE = {"left": "right", "right": "left"}
MIRRORED_SEGMENTS = [
    SEGMENTS.index("_".join(OTHER_SIDE.get(part, part) for part in name.split("_"))) for name in SEGMENTS
]
MIRRORED_SIGNS = np.array([[1.0, -1.0, 1.0], [-1.0, 1.0, -1.0], [1.0, -1.0, 1.0]])


class Clip(Protocol):
    """Body motion. The pose is in the heading frame of the path that the person is on."""

    def pose(self, time_s: float) -> Pose:
        """The pose at any time, also before 0 and without an end."""
        ...


@dataclass(frozen=True)
class GaitClip:
    """A built-in gait of GAITS in one person's manner."""

    gait: str
    manner: Manner

    def pose(self, time_s: float) -> Pose:
        return GAITS[self.gait](self.manner, time_s)


@dataclass(frozen=True, eq=False)
class MotionClip:
    """A recorded motion, played to and fro from start_s on, for a body with legs of leg_m, mirrored or not.

    Its own heading is part of the pose, so that the path (`MotionPath`) keeps one heading.
    """

    motion: Motion
    start_s: float
    leg_m: float
    mirrored: bool

    def pose(self, time_s: float) -> Pose:
        frame, share = self._frame(time_s)
        pair = self.motion.orientation[frame : frame + 2].astype(np.float64)
        orientation = nearest_rotations((1.0 - share) * pair[0] + share * pair[-1])
        if self.mirrored:
            orientation = orientation[MIRRORED_SEGMENTS] * MIRRORED_SIGNS
        return Pose(orientation, self.leg_m * float(_between(self.motion.clearance, frame, share)))

    def travel(self, time_s: float) -> NDArray[np.float64]:
        """(2,) m: the pelvis over the ground in the heading frame."""
        frame, share = self._frame(time_s)
        mirror = -1.0 if self.mirrored else 1.0
        return self.leg_m * np.array([1.0, mirror]) * _between(self.motion.travel, frame, share)

    def _frame(self, time_s: float) -> tuple[int, float]:
        """The frame before a time, and how far the next one is reached."""
        last = len(self.motion.travel) - 1
        if last == 0:
            return 0, 0.0
        position = abs((self.start_s + time_s) / self.motion.frame_s) % (2 * last)
        position = min(position, 2 * last - position)
        frame = min(int(position), last - 1)
        return frame, position - frame


def _between(values: NDArray[np.float64], frame: int, share: float) -> NDArray[np.float64]:
    following = values[min(frame + 1, len(values) - 1)]
    return np.asarray((1.0 - share) * values[frame] + share * following)


def nearest_rotations(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotations (n, 3, 3) nearest to matrices (n, 3, 3)."""
    u, _, v = np.linalg.svd(matrices)
    u[..., 2] *= np.linalg.det(u @ v)[..., None]
    return u @ v


@dataclass(frozen=True, eq=False)
class RandomClip:
    """To and fro between two random poses, angles (22,) each, within period_s; phase in cycles at time 0."""

    start: NDArray[np.float64]
    end: NDArray[np.float64]
    period_s: float
    phase: float

    def pose(self, time_s: float) -> Pose:
        share = 0.5 - 0.5 * np.cos(2 * np.pi * (time_s / self.period_s + self.phase))
        return pose_of(self.start + share * (self.end - self.start))
