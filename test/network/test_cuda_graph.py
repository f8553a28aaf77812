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

"""The order of operations of CUDA graphs, with a stand-in for `torch.cuda`: these tests do not use a GPU."""

from __future__ import annotations

import dataclasses
import logging
import threading
from typing import Any

import numpy as np
import pytest
import torch

from multihmr2_ros import Estimator, People
from multihmr2_ros.estimator import EstimatorConfig
from multihmr2_ros.frame import GroundPlane
from multihmr2_ros.network.inference import MAX_GRAPHS, Runtime
from multihmr2_ros.network.transfers import MAX_UPLOADS
from test.helpers.small_network import small_network
from test.helpers.stand_in_cuda import StandInCuda

EVERYBODY = EstimatorConfig(score_threshold=0.0, nms_distance_m=0.0, max_people=3, mesh="low", track=False)
K = np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])
WITHOUT_VERTICES = 10 + 3 * (1 + 6 + 163 * 9 + 32 + 163 * 16 + 163 * 3 + 1)  # numbers of an image and of 3 people
VERTICES = 3 * 615 * 3
UPLOAD = ["enter cuda:0", "upload on side", "upload on side", "leave cuda:0"]
COMPUTE = [
    "enter cuda:0", "main waits for side", *["copy in"] * 3, "replay", f"download {WITHOUT_VERTICES + VERTICES}",
    "host waits for main", "leave cuda:0",
]  # fmt: skip
NOT_PERMITTED = RuntimeError("CUDA error: operation not permitted when stream is capturing\nSearch for it")


def make_image(seed: int, width: int = 64, height: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def eager(image: np.ndarray, k: np.ndarray | None = None, **changes: Any) -> People:
    config = dataclasses.replace(EVERYBODY, **changes)
    return Estimator(small_network(), config, Runtime("cpu", "fp32")).step(image, k)


def assert_same(found: People, expected: People) -> None:
    assert len(found) == len(expected) > 0
    for name in ("score", "joints", "vertices", "k"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-5, err_msg=name)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> StandInCuda:
    return StandInCuda(monkeypatch)


@pytest.fixture
def estimator(cuda: StandInCuda) -> Estimator:
    return cuda.use(Estimator(small_network(), EVERYBODY, Runtime("cpu", "fp32")))


def fail_in_captures(cuda: StandInCuda, estimator: Estimator, error: Exception) -> None:
    """Make the network raise an error while it is captured, and only then."""
    forward = estimator.inference._forward

    def failing(*inputs: torch.Tensor) -> Any:
        if cuda.captures_here:
            raise error
        return forward(*inputs)

    estimator.inference._forward = failing


def test_the_order_of_a_captured_frame(cuda: StandInCuda, estimator: Estimator) -> None:
    with cuda.memory():
        estimator.step(make_image(0))
        first = [note for note in cuda.take_notes() if not note.startswith("pin")]
        estimator.step(make_image(1))
    capture = [
        "side waits for main", *["forward on side"] * 3, "main waits for side",
        "capture, thread_local", "forward on capture's", "captured",
    ]  # fmt: skip
    assert first == [*UPLOAD, *COMPUTE[:2], *capture, *COMPUTE[2:]]
    assert cuda.take_notes() == [*UPLOAD, *COMPUTE], "nothing is allocated, and the host waits once"


def test_a_replay_reads_what_is_new(cuda: StandInCuda, estimator: Estimator) -> None:
    with cuda.memory():
        for seed, k in ((0, None), (1, None), (1, K), (2, np.diag([2, 2, 1]) @ K)):
            assert_same(estimator.step(make_image(seed), k), eager(make_image(seed), k))
    assert cuda.notes.count("captured") == 1


def test_an_image_waits_for_the_copy_before_the_previous_one(cuda: StandInCuda, estimator: Estimator) -> None:
    """Two pinned buffers take turns; the memory of a copy is not overwritten before the copy has ended."""
    infer, resize = estimator.inference, estimator.make_resize(64, 48)
    with cuda.memory():
        prepared = [infer.prepare(make_image(seed), resize) for seed in (0, 1, 2)]
    upload = "upload on main"
    assert cuda.notes == ["pin (48, 64, 3)"] * 2 + [upload, upload, "host waits for a copy", upload]
    assert len({int(each.sum()) for each in prepared}) == 3


def test_the_next_image_is_uploaded_while_the_network_runs(cuda: StandInCuda, estimator: Estimator) -> None:
    infer, resize = estimator.inference, estimator.make_resize(64, 48)
    with cuda.memory():
        estimator.step(make_image(0))
        uploaded = infer.upload(make_image(1), resize, None)
        cuda.take_notes()
        following = infer.upload(make_image(2), resize, None)
        assert cuda.take_notes() == UPLOAD, "neither the host nor the stream waits"
        for seed, each in ((1, uploaded), (2, following)):
            found = infer.compute([each])[0]
            np.testing.assert_allclose(found.joints, eager(make_image(seed)).joints, atol=1e-5)
        assert {tensor.data_ptr() for tensor in (*uploaded[:3], *following[:3])} <= cuda.kept


def test_vertices_are_copied_only_if_they_are_wanted(cuda: StandInCuda, estimator: Estimator) -> None:
    estimator.reconfigure(dataclasses.replace(EVERYBODY, vertices=False))
    ground = GroundPlane(np.array([0.0, -1.0, 0.0]), -1.5)
    with cuda.memory():
        estimator.step(make_image(0))
        cuda.take_notes()
        found = estimator.step(make_image(1), K)
        assert f"download {WITHOUT_VERTICES}" in cuda.take_notes()
        assert found.vertices.shape == (3, 0, 3)
        expected = eager(make_image(1), K)
        np.testing.assert_allclose(found.bone_poses, expected.bone_poses, atol=1e-5)
        people = estimator.step(make_image(1), K, ground=ground)
        assert people.vertices.shape == (3, 615, 3)
        assert f"download {WITHOUT_VERTICES + VERTICES}" in cuda.take_notes(), "the ground plane needs them"


def test_a_gpu_leaves_the_threads_of_the_cpu_alone(
    cuda: StandInCuda, estimator: Estimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    estimator.inference.runtime = dataclasses.replace(estimator.runtime, threads=torch.get_num_threads() + 1)
    with cuda.memory():
        estimator.step(make_image(0))
    assert calls == []


def test_a_failed_capture_leaves_eager_mode(
    cuda: StandInCuda, estimator: Estimator, caplog: pytest.LogCaptureFixture
) -> None:
    fail_in_captures(cuda, estimator, NOT_PERMITTED)
    with cuda.memory(), caplog.at_level(logging.INFO):
        main = torch.cuda.current_stream()
        found = [estimator.step(make_image(seed)) for seed in (0, 1)]
    assert torch.cuda.current_stream() is main
    assert [record.getMessage() for record in caplog.records] == [
        "the CUDA graph cannot be captured (CUDA error: operation not permitted when stream is capturing); "
        "the network runs in mode eager"
    ]
    assert cuda.notes.count("capture, thread_local") == 1, "it is not tried again"
    assert estimator.runtime.mode == "eager"
    for seed, people in enumerate(found):
        assert_same(people, eager(make_image(seed)))


def test_a_compiled_graph_that_cannot_be_captured_stays_compiled(cuda: StandInCuda, estimator: Estimator) -> None:
    fail_in_captures(cuda, cuda.use(estimator, "compiled-graph"), NOT_PERMITTED)
    with cuda.memory():
        estimator.step(make_image(0))
    assert estimator.runtime.mode == "compiled"


def test_other_errors_than_a_captures_are_raised(cuda: StandInCuda, estimator: Estimator) -> None:
    """Errors of the network itself and of memory: the node creates the estimator again for less (docs/node.md)."""
    whole = estimator.inference._forward
    memory = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.20 GiB")
    fail_in_captures(cuda, estimator, memory)
    with cuda.memory():
        main = torch.cuda.current_stream()
        with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
            estimator.step(make_image(0))
        assert torch.cuda.current_stream() is main
        estimator.inference._forward = lambda *_: 1 / 0
        with pytest.raises(ZeroDivisionError):
            estimator.step(make_image(0))
        estimator.inference._forward = whole
        assert estimator.runtime.mode == "graph"
        assert_same(estimator.step(make_image(0)), eager(make_image(0)))


def test_changes_capture_anew(cuda: StandInCuda, estimator: Estimator) -> None:
    changes: list[dict[str, Any]] = [{}, {"max_people": 2}, {"max_people": 2, "mesh": "full"}, {"max_people": 5}, {}]
    with cuda.memory():
        for captures, values in enumerate(changes, start=1):
            estimator.reconfigure(dataclasses.replace(EVERYBODY, **values))
            for seed in (0, 1):
                assert_same(estimator.step(make_image(seed)), eager(make_image(seed), **values))
            assert cuda.notes.count("captured") == captures


def test_the_fifth_size_takes_the_place_of_the_oldest(cuda: StandInCuda, estimator: Estimator) -> None:
    sizes = [(64, 48), (48, 64), (64, 64), (64, 32), (64, 16)]
    with cuda.memory():
        for width, height in sizes:
            estimator.step(make_image(0, width, height))
        assert len(estimator.inference._graphs) == MAX_GRAPHS == len(sizes) - 1
        assert len(estimator.inference._upload._thread_local.buffers) == MAX_UPLOADS
        cuda.take_notes()
        for width, height in sizes[1:]:
            assert_same(estimator.step(make_image(1, width, height)), eager(make_image(1, width, height)))
        assert "captured" not in cuda.notes, "four sizes are kept"
        assert_same(estimator.step(make_image(1, *sizes[0])), eager(make_image(1, *sizes[0])))
        assert cuda.notes.count("captured") == 1


def test_two_estimators_in_two_threads(cuda: StandInCuda) -> None:
    """Each captures several sizes while the other replays; captures are never simultaneous."""
    sizes = [(64, 48), (48, 64), (64, 64)]
    found: dict[int, list[People]] = {}

    estimators = {seed: cuda.use(Estimator(small_network(), EVERYBODY, Runtime("cpu", "fp32"))) for seed in (0, 100)}

    def work(seed: int) -> None:
        with cuda.memory():
            images = [make_image(seed + index, *size) for index, size in enumerate(sizes * 2)]
            found[seed] = [estimators[seed].step(each) for each in images]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in estimators]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cuda.most_captures == 1
    assert cuda.notes.count("captured") == 2 * len(sizes)
    for seed in estimators:
        for index, size in enumerate(sizes * 2):
            assert_same(found[seed][index], eager(make_image(seed + index, *size)))
