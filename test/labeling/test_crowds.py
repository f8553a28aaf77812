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

"""Bodies of simulated crowds, fitted except for their distances, placed jointly with depth maps."""

from __future__ import annotations

import numpy as np
import torch

from multihmr2_ros.camera import project
from multihmr2_ros.labeling.crowds import make_people, place_bodies, set_stature
from multihmr2_ros.placement import RelativeDepthMap
from test.helpers.crowd_scenes import compute_pair_distances, make_crowds, make_relative_map
from test.helpers.rgbd_scenes import RgbdFrame, load_low_body


def make_fitted(frame: RgbdFrame, generator: np.random.Generator, name: str) -> dict[str, np.ndarray]:
    """Return bodies as fitted: aligned with the image, with statures of the prior; the errors of size and distance are
    proportional."""
    rows = np.flatnonzero(frame.findable)
    shape, rotations = frame.posed.shape[rows].copy(), frame.posed.rotations[rows]
    along = np.exp(generator.normal(0.0, 0.08, len(rows)))
    body = load_low_body()
    with torch.no_grad():
        true = torch.from_numpy(shape)
        wrong = set_stature(body, true, body.compute_stature(true) * torch.from_numpy(along.astype(np.float32)))
        posed = body(wrong, torch.from_numpy(rotations))
        factor = (body.compute_stature(wrong) / body.compute_stature(true)).numpy()
    offset = (posed.vertices[:, body.center_vertex] - posed.joints[:, 0]).numpy()
    center = frame.posed.joints[rows, 0] * factor[:, None] + offset
    return {
        "image": np.array([name] * len(rows)),
        "shape": wrong.numpy(),
        "rotations": rotations.astype(np.float16),
        "centre": center.astype(np.float32),
        "k": np.repeat(frame.k[None], len(rows), axis=0),
        "box": np.zeros((len(rows), 4), np.float32),
    }


def compute_pelvises(arrays: dict[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    chosen = {key: arrays[key][rows] for key in ("shape", "rotations", "centre", "k")}
    return make_people(chosen, load_low_body(), (240, 320)).pelvis.astype(float)


def test_places_become_consistent_and_bodies_stay_where_they_are_in_the_image() -> None:
    generator, before, after = np.random.default_rng(0), [], []
    for number, frame in enumerate(make_crowds(8)):
        name = f"{number}.jpg"
        bodies = make_fitted(frame, generator, name)
        depth = make_relative_map(frame.depth, generator)
        found, report = place_bodies(bodies, {name: (320, 240)}, lambda name, depth=depth: depth)
        everybody = np.arange(len(bodies["image"]))
        first, second = compute_pelvises(bodies, everybody), compute_pelvises(found, everybody)
        np.testing.assert_allclose(project(second, frame.k), project(first, frame.k), atol=0.05)
        assert report.bodies == len(first)
        assert found["placed"].sum() == len(report.moved)
        assert np.isfinite(found["distance_sigma_m"]).sum() == found["placed"].sum()
        placed = found["placed"]
        true = compute_pair_distances(frame.posed.joints[frame.findable, 0][placed].astype(float))
        before.append(np.abs(compute_pair_distances(first[placed]) - true))
        after.append(np.abs(compute_pair_distances(second[placed]) - true))
        size = load_low_body().compute_stature(torch.from_numpy(found["shape"])) / load_low_body().compute_stature(
            torch.from_numpy(bodies["shape"])
        )
        moved = second[:, 2] / first[:, 2]
        assert np.median(np.abs(size.numpy() / moved - 1)) < 0.03, "size and place change together"
    assert np.median(np.concatenate(after)) < 0.8 * np.median(np.concatenate(before))


def test_images_without_a_map_or_with_one_person_stay() -> None:
    (frame,) = make_crowds(1)
    bodies = make_fitted(frame, np.random.default_rng(0), "a.jpg")
    found, report = place_bodies(bodies, {"a.jpg": (320, 240)}, lambda name: None)
    np.testing.assert_array_equal(found["centre"], bodies["centre"])
    assert not found["placed"].any()
    assert "0 of" in report.to_text()
    one = {key: values[:1] for key, values in bodies.items()}
    exact = RelativeDepthMap(1 / frame.depth)
    found, _ = place_bodies(one, {"a.jpg": (320, 240)}, lambda name: exact)
    np.testing.assert_array_equal(found["centre"], one["centre"])
