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

"""True velocities over the ground if the truth has none: central differences of the true pelvises."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.evaluation_frames import EvaluationFrame
from multihmr2_ros.metrics.velocity import central_difference
from multihmr2_ros.people import People

MAX_SPAN_S = 0.5  # from the previous to the next frame; a mean over a longer time is not the velocity at its middle


def add_true_velocities(eval_frames: Iterable[EvaluationFrame]) -> Iterator[EvaluationFrame]:
    """Yield the frames, each one frame late, with the true velocity over the ground (`velocity_frame` "fixed").

    Computed only for frames with a camera pose in a fixed frame (`Frame.fixed_from_camera`), and only for people
    without a finite true velocity in the fixed frame. A person needs the same track id in the previous and the next
    frame, at most MAX_SPAN_S apart, and must be the only one with it; others get NaN. Frames without a camera pose are
    not changed.
    """
    iterator = iter(eval_frames)
    before: EvaluationFrame | None = None
    current: EvaluationFrame | None = None
    problem: UserError | None = None
    try:
        while problem is None:
            try:
                after = next(iterator, None)
            except UserError as error:  # raised after the frames before it have been evaluated
                after, problem = None, error
            if current is not None:
                yield _add_velocity(before, current, after)
            if after is None:
                break
            before, current = current, after
        if problem is not None:
            raise problem
    finally:
        if hasattr(iterator, "close"):
            iterator.close()


def _add_velocity(
    before: EvaluationFrame | None, current: EvaluationFrame, after: EvaluationFrame | None
) -> EvaluationFrame:
    """Return the current frame with true velocities in the fixed frame."""
    truth = current.truth
    if truth is None or _get_fixed_from_camera(current) is None:
        return current
    is_fixed = truth.velocity_frame == "fixed"
    known = np.asarray(np.isfinite(truth.velocity).all(axis=1) & is_fixed)
    if known.all() and is_fixed:
        return current
    velocity = np.where(known[:, None], truth.velocity, _compute_velocities(before, truth, after))
    return dataclasses.replace(current, truth=dataclasses.replace(truth, velocity=velocity, velocity_frame="fixed"))


def _compute_velocities(
    before: EvaluationFrame | None, truth: People, after: EvaluationFrame | None
) -> NDArray[np.float64]:
    """Return the velocities (n, 3) m/s of the true people; NaN if a person is missing in one of the two frames."""
    unknown = np.full((len(truth), 3), np.nan)
    if before is None or after is None or not 0 < after.stamp_s - before.stamp_s <= MAX_SPAN_S:
        return unknown
    named = _find_rows(truth)
    track_id = np.array([each if each in named else -1 for each in truth.track_id.tolist()], np.int64)
    first, last = (_compute_fixed_pelvises(eval_frame, track_id) for eval_frame in (before, after))
    return central_difference(first, last, before.stamp_s, after.stamp_s)


def _find_rows(people: People) -> dict[int, int]:
    """Return the row of each track id that only one of the people has."""
    identities, rows, counts = np.unique(people.track_id, return_index=True, return_counts=True)
    is_named = (identities >= 0) & (counts == 1)
    return dict(zip(identities[is_named].tolist(), rows[is_named].tolist(), strict=True))


def _compute_fixed_pelvises(eval_frame: EvaluationFrame, track_id: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the pelvises (n, 3) m, in the fixed frame, of people with track_id (n,).

    NaN if a person or the camera pose is missing.
    """
    pelvises, pose = np.full((len(track_id), 3), np.nan), _get_fixed_from_camera(eval_frame)
    if eval_frame.truth is None or pose is None:
        return pelvises
    rows = _find_rows(eval_frame.truth)
    for pelvis, identity in zip(pelvises, track_id.tolist(), strict=True):
        if identity in rows:
            pelvis[:] = pose[:3, :3] @ eval_frame.truth.pelvis[rows[identity]].astype(np.float64) + pose[:3, 3]
    return pelvises


def _get_fixed_from_camera(eval_frame: EvaluationFrame) -> NDArray[np.float64] | None:
    """Return the pose of the camera in the fixed frame, (4, 4); None if unknown."""
    return None if eval_frame.frame is None else eval_frame.frame.fixed_from_camera
