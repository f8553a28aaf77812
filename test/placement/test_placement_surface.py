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

"""Quantities that placement computes from meshes and images: lowest vertices, and occlusion."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from multihmr2_ros.placement import place_people
from multihmr2_ros.placement.surface import PersonDepthBuffers
from test.helpers.people_factory import pinhole
from test.helpers.rgbd_scenes import OVERLAID, make_frame, make_predicted, make_surface
from test.helpers.simulation_scenes import body as full_body
from test.helpers.simulation_scenes import make_person, make_scene


def test_vertices_that_no_face_uses_do_not_matter() -> None:
    frame = make_frame(make_scene(make_person(3.5, 0.1), width=320, height=240), 0.0, np.random.default_rng(0))
    people, surface = make_predicted(frame, OVERLAID, np.random.default_rng(0), "full"), make_surface("full")
    used, vertices = np.unique(full_body().faces), people.vertices.copy()
    unused = np.setdiff1d(np.arange(surface.vertex_count), used)
    assert (unused < used.max()).sum() > 100
    assert (unused > used.max()).sum() > 100
    vertices[:, unused] -= (5 * frame.ground.normal).astype(np.float32)
    lowest = (vertices[:, used] @ frame.ground.normal).argmin(axis=1)
    np.testing.assert_array_equal(surface.find_lowest(vertices, frame.ground.normal), used[lowest])
    placed, as_before = (
        place_people(dataclasses.replace(people, vertices=values), surface, frame.depth, frame.ground).people
        for values in (vertices, people.vertices)
    )
    np.testing.assert_array_equal(placed.pelvis, as_before.pelvis)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_what_is_before_a_point_is_the_nearest_of_all_other_people(n: int) -> None:
    """Compared with views of one person each; with several people, the last two are equal."""
    points = np.random.default_rng(n).uniform([-1.5, -1.2, 1.0], [1.5, 1.2, 4.0], (n, 60, 3)).astype(np.float32)
    points[n - 1] = points[max(n - 2, 0)]
    row, k, size = np.repeat(np.arange(n), 60), pinhole(280.0, (240, 320)), (240, 320)
    everybody = PersonDepthBuffers(points.reshape(-1, 3).T, row, n, k, size, 0.1)
    sight = everybody.compute_visibility(everybody.pixels, row)
    alone = [PersonDepthBuffers(one.T, np.zeros(60, np.int64), 1, k, size, 0.1) for one in points]
    cell = sight.pixel // 320 // everybody.side * everybody.across + sight.pixel % 320 // everybody.side
    nearest = np.stack([view.nearest[0, cell] for view in alone])
    nearest[row, np.arange(len(row))] = np.inf
    np.testing.assert_array_equal(sight.others_depth, nearest.min(axis=0))
    assert np.isfinite(sight.others_depth).any() == (n > 1)
    assert 0 < sight.inside.sum() < len(row)
