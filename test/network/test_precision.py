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

"""bf16 and fp16 against fp32 on the golden images and weights: displacements of people."""

from __future__ import annotations

import copy
import logging
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from multihmr2_ros.body import Body
from multihmr2_ros.estimator import Estimator, EstimatorConfig
from multihmr2_ros.network import checkpoint, inference
from multihmr2_ros.network.inference import Runtime
from multihmr2_ros.network.model import MultiHMR2, place_bodies
from test.golden import weights
from test.helpers.golden_images import GOLDEN, SIZES, make_given_k
from test.helpers.small_network import small_network


def compute_all_people(network: MultiHMR2, body: Body) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return score (Q,) and pelvis (Q, 3) of all queries per image and camera, in the order of the queries."""
    results = []
    for index, (height, width) in enumerate(SIZES):
        pixels = torch.from_numpy(weights.image(height, width, int(GOLDEN["base"]) + 1 + index)).permute(2, 0, 1)[None]
        k = torch.from_numpy(make_given_k(index)).float()[None]
        with torch.inference_mode():
            prediction = network(pixels.expand(2, -1, -1, -1), k.expand(2, -1, -1), torch.tensor([False, True]), 100)
            pelvis = place_bodies(body, prediction).joints[:, :, 0]
        order = prediction.query_score.argsort(dim=1, descending=True).argsort(dim=1)
        for row in range(2):
            results.append((prediction.query_score[row].numpy(), pelvis[row, order[row]].numpy()))
    return results


@pytest.mark.parametrize(
    ("description", "automatic", "warnings"),
    [
        ("flags : fpu avx2 fma\n", "fp32", 1),
        ("flags : fpu avx2 avx512_bf16\n", "bf16", 0),
        ("Features : asimd bf16\n", "bf16", 0),
        ("", "fp32", 0),  # unknown
    ],
)
def test_emulated_bf16_is_not_the_default_and_warns(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, description: str, automatic: str, warnings: int
) -> None:
    monkeypatch.setattr(inference, "read_cpu_description", lambda: description)
    assert Runtime("cpu").resolve().precision == automatic
    config = EstimatorConfig(score_threshold=0.0, mesh="low")
    with caplog.at_level(logging.INFO):
        Estimator(small_network(), config, Runtime("cpu", "fp32"))
        estimator = Estimator(small_network(), config, Runtime("cpu", "bf16"))
    assert estimator.runtime.precision == "bf16"
    messages = [record.getMessage() for record in caplog.records]
    assert (
        messages
        == ["precision bf16 is slower than fp32 on this CPU, which has no bf16 instructions; use fp32 or auto"]
        * warnings
    )


def test_tf32_stays_off_until_the_last_thread_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting is the process's: a thread that ends must not switch it on while another computes."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    seen: list[bool] = []
    first_has_ended = threading.Event()

    def compute() -> None:
        with inference.TF32.disable():
            started.set()
            first_has_ended.wait(60)
            seen.append(torch.backends.cudnn.allow_tf32)

    started = threading.Event()
    thread = threading.Thread(target=compute)
    with inference.TF32.disable():
        thread.start()
        assert started.wait(60)
    first_has_ended.set()
    thread.join()
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32


@pytest.mark.slow  # without bf16 instructions a CPU takes minutes per image
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_low_precision_moves_people_little(
    golden_checkpoint: Path, dtype: torch.dtype, capsys: pytest.CaptureFixture[str]
) -> None:
    network, body = checkpoint.load_network(golden_checkpoint), Body("low")
    exact = compute_all_people(network, body)
    low = compute_all_people(copy.deepcopy(network).set_precision(dtype), body)
    score_error, place_error = [], []
    for (score, pelvis), (low_score, low_pelvis) in zip(exact, low, strict=True):
        present = score > 0.4
        score_error.append(np.abs(low_score - score)[present])
        distance = np.linalg.norm(pelvis[present], axis=1)
        place_error.append(np.linalg.norm(low_pelvis - pelvis, axis=1)[present] / distance)
    scores, places = np.concatenate(score_error), np.concatenate(place_error)
    with capsys.disabled():
        print(
            f"\n{dtype}: {len(scores)} people; score error median {np.median(scores):.4f}, most {scores.max():.4f}; "
            f"pelvis error over distance median {np.median(places):.4f}, most {places.max():.4f}"
        )
    assert len(scores) == 34
    assert np.mean((scores <= 0.02) & (places <= 0.02)) >= 0.95
