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

"""The model in the package: small, with a free license, and able to detect simulated people outside of its training
set."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from multihmr2_ros import weights
from multihmr2_ros.body import Body
from multihmr2_ros.estimator import Estimator, EstimatorConfig
from multihmr2_ros.network import checkpoint
from multihmr2_ros.simulation.labels import make_labels
from multihmr2_ros.simulation.rendering.renderer import Renderer
from multihmr2_ros.simulation.scene import SceneOptions, sample_scene
from multihmr2_ros.simulation.scene.posing import pose_scene
from multihmr2_ros.training.render_cache import HELD_OUT_SEED

NANO = weights.find_weights("nano")
PARAMETERS, BYTES = 12e6, 25e6  # upper limit
SCENES = 20


def test_the_file_is_the_registered_one_small_and_free() -> None:
    content = NANO.path().read_bytes()
    assert hashlib.sha256(content).hexdigest() == NANO.sha256
    assert len(content) == NANO.size_bytes <= BYTES
    assert NANO.bundled
    assert NANO.commercial_use
    assert sum(value.numel() for value in checkpoint.load_network(NANO.path()).parameters()) <= PARAMETERS
    assert (NANO.path().parent / "nano.md").is_file()


@pytest.mark.usefixtures("one_thread")
def test_it_finds_people_who_are_alone_and_near() -> None:
    """Four of five people are detected, with few false positives, at about the right distance."""
    options = SceneOptions(width=320, height=240, people=(1, 1), distance_m=(1.5, 6.0))
    body = Body("full")
    renderer = Renderer(body)
    estimator = Estimator.load("nano", device="cpu", config=EstimatorConfig(mesh="low", track=False))
    people, found, false, errors = 0, 0, 0, []
    for seed in range(HELD_OUT_SEED + 700_000, HELD_OUT_SEED + 700_000 + SCENES):
        generator = np.random.default_rng(seed)
        scene = sample_scene(generator, options)
        posed = pose_scene(scene, 0.0, body)
        rendered = renderer.render(scene, posed, generator)
        truth = make_labels(scene, posed, rendered)
        predicted = estimator.step(rendered.image, truth.k)
        middle = np.median(predicted.joints_2d, axis=1)
        for box, pelvis in zip(truth.visible_box[truth.findable], truth.pelvis[truth.findable], strict=True):
            hits = ((middle > box[:2] - 10) & (middle < box[2:] + 10)).all(axis=1)
            people += 1
            found += bool(hits.any())
            errors += list(np.abs(predicted.pelvis[hits, 2] / pelvis[2] - 1))
            false += int((~hits).sum())
    assert people > SCENES / 2
    assert found > 0.7 * people
    assert false < 0.2 * people
    assert np.median(errors) < 0.25
