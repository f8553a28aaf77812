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

"""Several cameras share one network: their results are those of separate estimators."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from multihmr2_ros import Estimator, People
from multihmr2_ros.estimator import EstimatorConfig
from multihmr2_ros.network.inference import Runtime
from multihmr2_ros.network.shared_inference import SharedInference
from test.helpers.small_network import small_network
from test.helpers.stand_in_cuda import StandInCuda

CONFIG = EstimatorConfig(score_threshold=0.0, nms_distance_m=0.0, max_people=3, mesh="low")
CPU = Runtime("cpu", "fp32")
ATOL = 1e-5  # also relative: matrix products of a batch are rounded differently
LONG_S = 30.0  # no test waits so long unless it fails
NEVER = 250  # value of all pixels of an image that the network refuses in `refuse`


def make_image(seed: int, width: int = 64, height: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, (height, width, 3), np.uint8)


def make_shared(wait_s: float = LONG_S, sizes: Sequence[int] | None = (1, 2, 4)) -> SharedInference:
    return SharedInference(small_network(), CPU, batch_wait_s=wait_s, batch_sizes=sizes)


def add_estimators(shared: SharedInference, count: int, config: EstimatorConfig = CONFIG) -> list[Estimator]:
    return [Estimator(shared.network, config, shared=shared) for _ in range(count)]


def step_all(estimators: list[Estimator], images: list[np.ndarray], *, memory: Any = None) -> list[Any]:
    """Step each estimator in its own thread, and return the people or the errors."""
    found: list[Any] = [None] * len(images)

    def work(row: int) -> None:
        try:
            if memory is None:
                found[row] = estimators[row].step(images[row])
            else:
                with memory():
                    found[row] = estimators[row].step(images[row])
        except Exception as error:
            found[row] = error

    threads = [threading.Thread(target=work, args=(row,), daemon=True) for row in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * LONG_S)
    return found


def note_batches(shared: SharedInference, refuse: Callable[[], Exception] | None = None) -> list[tuple[int, ...]]:
    """Return a list to which the shape of each batch is added. refuse: creates an error for images of NEVER."""
    shapes: list[tuple[int, ...]] = []
    for infer in shared._inferences.values():
        forward = infer._forward

        def noted(image: torch.Tensor, *others: torch.Tensor, forward: Any = forward) -> Any:
            shapes.append(tuple(image.shape))
            if refuse is not None and bool((image == NEVER).any()):
                raise refuse()
            return forward(image, *others)

        infer._forward = noted
    return shapes


def assert_same(found: People, image: np.ndarray, *, atol: float = ATOL, config: EstimatorConfig = CONFIG) -> None:
    expected = Estimator(small_network(), config, CPU).step(image)
    assert len(found) == len(expected) > 0
    for name in ("score", "joints", "vertices", "rotations", "k", "track_feature"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=atol, atol=atol, err_msg=name)


@pytest.mark.parametrize(("cameras", "batch"), [(2, 2), (3, 4), (4, 4)])
def test_images_that_arrive_together_are_one_batch(cameras: int, batch: int) -> None:
    shared = make_shared()
    estimators = add_estimators(shared, cameras)
    shapes = note_batches(shared)
    images = [make_image(seed) for seed in range(cameras)]
    for _ in range(2):
        for image, found in zip(images, step_all(estimators, images), strict=True):
            assert_same(found, image)
    assert [shape[0] for shape in shapes] == [batch, batch]


def test_on_a_cpu_images_run_one_by_one_with_exactly_the_same_results() -> None:
    shared = make_shared(sizes=None)
    estimators = add_estimators(shared, 4)
    shapes = note_batches(shared)
    images = [make_image(seed) for seed in range(4)]
    for image, found in zip(images, step_all(estimators, images), strict=True):
        assert_same(found, image, atol=0)
    assert [shape[0] for shape in shapes] == [1] * 4


def test_more_cameras_than_the_largest_batch() -> None:
    shared = make_shared(wait_s=0.2)
    estimators = add_estimators(shared, 6)
    shapes = note_batches(shared)
    images = [make_image(seed) for seed in range(6)]
    for image, found in zip(images, step_all(estimators, images), strict=True):
        assert_same(found, image)
    assert max(shape[0] for shape in shapes) <= 4


def test_images_of_different_sizes_are_not_one_batch() -> None:
    shared = make_shared(wait_s=0.2)
    estimators = add_estimators(shared, 4)
    shapes = note_batches(shared)
    images = [make_image(0), make_image(1, 48, 64), make_image(2), make_image(3, 48, 64)]
    for image, found in zip(images, step_all(estimators, images), strict=True):
        assert_same(found, image)
    assert {shape[2:] for shape in shapes} == {(144, 192), (192, 144)}


def test_each_camera_has_its_own_tracks_and_settings() -> None:
    shared = make_shared(wait_s=0.2)
    first, second, third = estimators = add_estimators(shared, 3)
    fewer = dataclasses.replace(CONFIG, max_people=2)
    third.reconfigure(fewer)
    images = [make_image(seed) for seed in range(3)]
    for turn in range(2):
        found = step_all(estimators, images)
        assert sorted(found[0].track_id) == sorted(found[1].track_id) == [0, 1, 2], f"turn {turn}"
    assert first.tracker is not second.tracker
    assert_same(found[2], images[2], config=fewer)
    assert third.inference.inference is not second.inference.inference
    third.reconfigure(CONFIG)
    first.reconfigure(fewer)
    assert third.inference.inference is second.inference.inference


def test_a_failing_image_does_not_stop_the_other_cameras(caplog: pytest.LogCaptureFixture) -> None:
    shared = make_shared()
    estimators = add_estimators(shared, 4)
    shapes = note_batches(shared, lambda: RuntimeError("CUDA error: misaligned address\nCompile with it"))
    images = [make_image(0), np.full((48, 64, 3), NEVER, np.uint8), make_image(2), make_image(3)]
    with caplog.at_level(logging.WARNING):
        found = step_all(estimators, images)
    assert isinstance(found[1], RuntimeError)
    for row in (0, 2, 3):
        assert_same(found[row], images[row])
    assert [shape[0] for shape in shapes] == [4, 1, 1, 1, 1]
    (message,) = [record.getMessage() for record in caplog.records]
    assert message == ("a batch of 4 images failed (CUDA error: misaligned address); images now run one by one")
    assert shared.has_failed


def test_an_unusable_image_fails_only_in_its_own_thread() -> None:
    shared = make_shared(wait_s=0.2)
    estimators = add_estimators(shared, 2)
    images = [make_image(0), np.zeros((48, 64), np.uint8)]
    found = step_all(estimators, images)
    assert_same(found[0], images[0])
    assert "image" in str(found[1])
    assert not shared.has_failed


def test_out_of_memory_leaves_the_shared_network_in_use() -> None:
    shared = make_shared()
    (estimator,) = add_estimators(shared, 1)
    note_batches(shared, lambda: torch.OutOfMemoryError("CUDA out of memory"))
    (error,) = step_all([estimator], [np.full((48, 64, 3), NEVER, np.uint8)])
    assert isinstance(error, torch.OutOfMemoryError)
    assert not shared.has_failed
    assert_same(estimator.step(make_image(1)), make_image(1))


def test_an_image_waits_a_limited_time_for_a_camera_that_has_stopped() -> None:
    """The thread that waits can therefore be stopped."""
    shared = make_shared(wait_s=0.3)
    estimator, _silent = add_estimators(shared, 2)
    begin = time.monotonic()
    assert_same(estimator.step(make_image(0)), make_image(0))
    assert time.monotonic() - begin > 0.3
    del _silent  # a camera that is gone is not waited for
    shared.batch_wait_s = LONG_S
    assert_same(estimator.step(make_image(1)), make_image(1))
    assert time.monotonic() - begin < LONG_S


def test_a_batch_is_one_graph_one_copy_and_one_synchronization(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = make_shared()
    estimators = add_estimators(shared, 3)
    cuda = StandInCuda(monkeypatch)
    (infer,) = shared._inferences.values()
    cuda.use_inference(infer)
    for _ in range(2):
        cuda.take_notes()
        images = [make_image(seed) for seed in range(3)]
        for image, found in zip(images, step_all(estimators, images, memory=cuda.memory), strict=True):
            assert_same(found, image)
    notes = cuda.take_notes()
    assert notes.count("replay") == notes.count("host waits for main") == 1
    assert sum(note.startswith("download") for note in notes) == 1
    assert notes.count("upload on side") == 2 * 3, "each camera uploads its image and k itself"
    assert "captured" not in notes
