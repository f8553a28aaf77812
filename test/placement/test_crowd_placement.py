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

"""Joint placement of simulated crowds with relative depth maps: required accuracy, map errors, and cost."""

from __future__ import annotations

import functools
import time

import numpy as np
import pytest

from multihmr2_ros import UserError
from multihmr2_ros.camera import project
from multihmr2_ros.people import PlacementCue
from multihmr2_ros.placement import PlacementConfig, RelativeDepthMap, place_people
from multihmr2_ros.placement.alignment import DepthLevels, fit_scale
from test.helpers.crowd_scenes import USELESS, format_summary, make_crowds, make_relative_map, measure
from test.helpers.rgbd_scenes import (
    INDEPENDENT,
    OVERLAID,
    NetworkErrors,
    RgbdFrame,
    compute_distance,
    make_predicted,
    make_surface,
)

SCENES, MAPS = 40, 3
WORSE = 1.02  # upper limit of the error with a useless map, relative to the error without a map
CROWDED = 12


@pytest.fixture(scope="module")
def frames() -> list[RgbdFrame]:
    return list(make_crowds(SCENES))


def found(frames: list[RgbdFrame], errors: NetworkErrors, maker: object, maps: int = MAPS) -> dict[str, np.ndarray]:
    parts = [measure(frames, errors, maker, seed) for seed in range(maps)]
    result = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    print(f"\n{errors}\n{format_summary(result)}")
    return result


@pytest.mark.parametrize("kind", ["inverse", "depth"])
def test_a_crowd_is_placed_as_required(frames: list[RgbdFrame], kind: str) -> None:
    """For a network trained by reprojection, whose bodies are aligned with the image."""
    result = found(frames, OVERLAID, functools.partial(make_relative_map, kind=kind))
    assert result["joint relation"].mean() >= 0.95
    assert np.median(result["joint pair"]) <= 0.5 * np.median(result["network pair"])
    for error in (np.median, np.mean):
        assert error(result["joint distance"]) <= error(result["alone distance"]) <= error(result["network distance"])
    assert 0.6 < np.mean(result["joint z"] < 1) < 0.85, "about 68 %"
    assert np.mean(result["joint z"] < 2) > 0.9, "about 95 %"


@pytest.mark.parametrize("kind", ["inverse", "depth"])
def test_a_network_whose_errors_are_others_than_assumed_gains_as_well(frames: list[RgbdFrame], kind: str) -> None:
    """The sizes of the bodies tell nothing about such errors, so the scale of the map is less certain."""
    result = found(frames, INDEPENDENT, functools.partial(make_relative_map, kind=kind))
    assert result["joint relation"].mean() > result["network relation"].mean() + 0.04
    assert np.median(result["joint pair"]) < 0.62 * np.median(result["network pair"])
    assert np.median(result["joint distance"]) < 0.7 * np.median(result["network distance"])


@pytest.mark.parametrize("kind", sorted(USELESS))
@pytest.mark.parametrize("errors", [OVERLAID, INDEPENDENT], ids=["overlaid", "independent"])
def test_a_useless_map_does_no_harm(frames: list[RgbdFrame], errors: NetworkErrors, kind: str) -> None:
    # The others change almost nothing; the medians of mirrored maps need more images.
    result = found(frames, errors, USELESS[kind], maps=MAPS if kind == "mirrored" else 1)
    for name in ("pair", "distance"):
        for error in (np.median, np.mean):
            assert error(result[f"joint {name}"]) <= WORSE * error(result[f"alone {name}"])
    assert result["joint relation"].mean() >= result["alone relation"].mean() / WORSE
    assert np.mean(result["used"] > 0.5) < 0.1


@pytest.fixture(scope="module")
def crowd(frames: list[RgbdFrame]) -> RgbdFrame:
    return max(frames, key=lambda frame: int(frame.findable.sum()))


def test_bodies_stay_on_their_rays_and_consistent(crowd: RgbdFrame) -> None:
    before = make_predicted(crowd, OVERLAID, np.random.default_rng(0))
    placed = place_people(before, make_surface(), make_relative_map(crowd.depth, np.random.default_rng(0)))
    after = placed.people
    assert placed.map_probability > 0.9
    assert np.abs(compute_distance(after) / compute_distance(before) - 1).max() > 0.05
    np.testing.assert_allclose(project(after.pelvis, after.k), project(before.pelvis, before.k), atol=1e-3)
    scale = (after.stature / before.stature)[:, None, None]
    sized = scale * (before.vertices - before.pelvis[:, None])
    np.testing.assert_allclose(after.vertices - after.pelvis[:, None], sized, atol=4e-6)


def test_scale_and_shift_of_the_map_do_not_matter(crowd: RgbdFrame) -> None:
    people = make_predicted(crowd, OVERLAID, np.random.default_rng(0))
    first = make_relative_map(crowd.depth, np.random.default_rng(0))
    other = RelativeDepthMap((first.values * 0.01 - 3.0).astype(np.float32))
    one, two = (place_people(people, make_surface(), values) for values in (first, other))
    np.testing.assert_allclose(compute_distance(one.people), compute_distance(two.people), rtol=1e-3)


def test_a_metric_map_is_the_limit_of_known_scale_and_shift(crowd: RgbdFrame) -> None:
    """The exact depth as a relative map gives nearly the same distances between people as a depth image."""
    people = make_predicted(crowd, OVERLAID, np.random.default_rng(0)).select(crowd.findable)
    metric = place_people(people, make_surface(), crowd.depth)
    relative = place_people(people, make_surface(), RelativeDepthMap(1 / crowd.depth))
    off = np.log(compute_distance(relative.people) / compute_distance(metric.people))
    assert (
        np.abs(off).max()
        < 3 * np.sqrt(np.diag(relative.distance_covariance / compute_distance(relative.people) ** 2)).max()
    )
    assert np.std(off) < 0.5 * np.std(np.log(compute_distance(people) / compute_distance(metric.people)))


def test_one_person_with_the_value_of_a_far_wall_does_not_spoil_the_scale() -> None:
    depth = np.array([2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    values = np.where(depth == 7.0, 45.0, depth)
    levels = DepthLevels(values, np.log(depth), np.full(len(depth), 0.01))
    scale = fit_scale(levels, (1.0, 50.0), "depth", 0.0, PlacementConfig()).scale
    np.testing.assert_allclose(scale.to_depth(values[:-1]), depth[:-1], rtol=0.1)


def test_the_joint_covariance_says_what_the_scale_moves_together(crowd: RgbdFrame) -> None:
    people = make_predicted(crowd, OVERLAID, np.random.default_rng(0))
    placed = place_people(people, make_surface(), make_relative_map(crowd.depth, np.random.default_rng(0)))
    covariance = placed.distance_covariance
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), placed.distance_sigma_m)
    assert np.linalg.eigvalsh(covariance).min() > 0
    by_map = np.flatnonzero(placed.cue == PlacementCue.DEPTH)
    near = by_map[np.argsort(compute_distance(placed.people)[by_map])[:2]]
    assert covariance[near[0], near[1]] > 0


@pytest.mark.parametrize("values", [np.nan, np.inf, 0.0, -1.0])
def test_a_map_that_says_nothing_changes_nothing(crowd: RgbdFrame, values: float) -> None:
    people = make_predicted(crowd, OVERLAID, np.random.default_rng(0))
    placed = place_people(people, make_surface(), RelativeDepthMap(np.full(crowd.depth.shape, values, np.float32)))
    alone = place_people(people, make_surface())
    np.testing.assert_array_equal(placed.people.pelvis, alone.people.pelvis)
    np.testing.assert_array_equal(placed.distance_sigma_m, alone.distance_sigma_m)
    assert placed.map_probability == 0
    assert set(placed.cue) == {PlacementCue.PRIOR}


@pytest.mark.parametrize("rows", [[], [0], [0, 1]])
def test_few_people(crowd: RgbdFrame, rows: list[int]) -> None:
    people = make_predicted(crowd, OVERLAID, np.random.default_rng(0)).select(np.array(rows, np.int64))
    placed = place_people(people, make_surface(), make_relative_map(crowd.depth, np.random.default_rng(0)))
    assert len(placed.people) == len(placed.cue) == len(rows)
    assert np.isfinite(placed.people.pelvis).all()
    assert (placed.distance_sigma_m > 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RelativeDepthMap(np.zeros((240, 320), np.uint8)), r"\(height, width\) floats, got uint8"),
        (lambda: RelativeDepthMap(np.zeros((240, 320, 3), np.float32)), r"floats, got float32 \(240, 320, 3\)"),
        (lambda: RelativeDepthMap(np.zeros((240, 320), np.float32), "disparity"), "kind must be inverse or depth"),
    ],
)
def test_maps_that_are_none(make: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_a_map_of_another_size(crowd: RgbdFrame) -> None:
    people = make_predicted(crowd, OVERLAID, np.random.default_rng(0))
    with pytest.raises(UserError, match="size of the image, 320 x 240 px, got 320 x 120 px"):
        place_people(people, make_surface(), RelativeDepthMap(np.zeros((120, 320), np.float32)))


def test_cost_grows_less_than_the_number_of_people(crowd: RgbdFrame) -> None:
    """Prints the CPU time of one thread with the full mesh, and compares four times as many people."""
    people = make_predicted(crowd, OVERLAID, np.random.default_rng(0), "full")
    groups = [people.select(np.arange(count) % len(people)) for count in (CROWDED // 4, CROWDED)]
    values = make_relative_map(crowd.depth, np.random.default_rng(0))
    surface, times = make_surface("full"), []
    for _ in range(15):
        for group in groups:
            start = time.thread_time()
            place_people(group, surface, values)
            times.append(1e3 * (time.thread_time() - start))
    few, many = np.reshape(times, (-1, 2)).min(axis=0)
    print(f"{CROWDED} people: {many:.1f} ms of the processor; {CROWDED // 4}: {few:.1f} ms")
    assert many < 3 * few
