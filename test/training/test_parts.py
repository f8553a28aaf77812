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

"""Parts of the training loop: moving average, learning rates and decay, logs and curves, validation."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from multihmr2_ros.errors import UserError
from multihmr2_ros.network.config import NetworkConfig
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.training.config import TrainingConfig
from multihmr2_ros.training.data import BatchConfig, make_held_out_batches
from multihmr2_ros.training.feature_cache import FEATURES, QUANTIZED, quantize, read_batch
from multihmr2_ros.training.optimizer import Ema, OptimizerConfig, compute_rate_factor, make_optimizer
from multihmr2_ros.training.render_cache import RenderCache
from multihmr2_ros.training.targets import Targets
from multihmr2_ros.training.training_log import TrainingLog, draw_curves, read_log
from multihmr2_ros.training.validation import ValidationCounts, match_places, project_to_image, validate
from test.helpers.nano_network import TINY_MULTI_HMR
from test.helpers.training_runs import NETWORK
from test.helpers.training_samples import body

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_average_follows_weights_and_normalization() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ema = Ema(network, 0.5)
    with torch.no_grad():
        for value in [*network.parameters(), network[1].running_mean]:
            value.add_(1.0)
    network[1].num_batches_tracked.fill_(7)
    start = {name: value.clone() for name, value in ema.network.state_dict().items()}
    for decay in (0.1, 2 / 11):  # (1 + n) / (10 + n) for the first updates
        ema.update(network)
        for name, value in ema.network.state_dict().items():
            if value.is_floating_point() and name != "1.running_var":
                start[name] = decay * start[name] + (1 - decay) * network.state_dict()[name]
                torch.testing.assert_close(value, start[name], msg=name)
    assert ema.network[1].num_batches_tracked == 7


@pytest.mark.parametrize(
    ("step", "factor"), [(0, 0.1), (9, 1.0), (10, 1.0), (79, 1.0), (80, 1.0), (90, 0.5), (99, 0.05), (100, 0.0)]
)
def test_the_learning_rate_rises_stays_and_falls(step: int, factor: float) -> None:
    course = OptimizerConfig(warmup_steps=10, decay_fraction=0.2)
    assert compute_rate_factor(step, 100, course) == pytest.approx(factor)


@pytest.mark.parametrize("sizes", [NETWORK, TINY_MULTI_HMR], ids=lambda sizes: sizes.architecture)
def test_norms_biases_and_tokens_have_no_weight_decay(sizes: NetworkConfig) -> None:
    network = MultiHMR2(sizes)
    optimiser = make_optimizer(network, OptimizerConfig(encoder_factor=0.5, learning_rate=1e-3))
    decay = {id(value): group for group in optimiser.param_groups for value in group["params"]}
    assert len(decay) == len(list(network.parameters()))
    for name, value in network.named_parameters():
        group = decay[id(value)]
        tokens = ("backbone.class_token", "backbone.register_tokens", "decoder.queries", "decoder.positions")
        spared = value.ndim == 1 or name in tokens
        assert (group["weight_decay"] == 0) == spared, name
        assert group["peak"] == (5e-4 if name.startswith("backbone.") else 1e-3)


@pytest.mark.parametrize("folder", ["good", "broken"])
def test_logs_with_an_incomplete_last_line_are_read(tmp_path: Path, folder: str) -> None:
    records = TrainingLog(tmp_path)
    records.add(1, "train", {"loss": 2.0, "views": float("nan")})
    records.add(1, "train", {"loss": 1.0})  # a resumed run repeats these steps
    if folder == "broken":
        with (tmp_path / "log.jsonl").open("a") as file:
            file.write('{"step": 2, "ki')
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1, "kind": "train", "loss": 1.0}]


def test_an_incomplete_last_line_does_not_affect_the_next_one(tmp_path: Path) -> None:
    """A process that is killed while it writes leaves such a line."""
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 1, "ki')
    TrainingLog(tmp_path).add(2, "train", {"loss": 1.0})
    assert read_log(tmp_path / "log.jsonl") == [{"step": 2, "kind": "train", "loss": 1.0}]


def test_no_curves_without_figures(tmp_path: Path) -> None:
    draw_curves([], tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_validation_of_the_truth_itself_is_perfect(render_cache: Path) -> None:
    from multihmr2_ros.network.model import Prediction
    from multihmr2_ros.training.validation import compare_batch

    batch = make_held_out_batches(
        RenderCache(render_cache, held_out=True), 4, BatchConfig(4, 160), input_size=(160, 128)
    )[0]
    t = batch.targets
    truth = Prediction(
        horizontal_fov=2 * torch.atan(80 / t.k[:, 0, 0]),
        k=t.k,
        query_score=t.present.float(),
        query_location=t.location,
        query_depth=t.centre[..., 2],
        score=t.present.float(),
        center=t.centre,
        shape=torch.nn.functional.pad(t.shape, (0, 5)),
        rotations=t.rotations,
        track_feature=torch.zeros(*t.present.shape, 4),
    )
    metrics = compare_batch(truth, t, body(), 160, 0.4).compute_metrics()
    assert metrics["recall"] == metrics["precision"] == 1.0
    assert metrics["mpjpe_mm"] < 1e-3
    assert metrics["distance_error"] < 1e-6
    assert metrics["fov_error_deg"] < 1e-4
    assert metrics["pa_mpjpe_mm"] < 1e-3
    assert metrics["depth_relations"] == 1.0
    assert np.isnan(metrics["oks"])  # renders have no annotated keypoints
    moved = dataclasses.replace(truth, center=t.centre * 1.1, horizontal_fov=truth.horizontal_fov + 0.1)
    worse = compare_batch(moved, t, body(), 160, 0.4).compute_metrics()
    assert worse["distance_error"] == pytest.approx(0.1, rel=1e-4)
    assert worse["fov_error_deg"] == pytest.approx(np.degrees(0.1), rel=1e-4)
    mirrored = dataclasses.replace(truth, center=torch.cat([t.centre[..., :2], 8 - t.centre[..., 2:]], dim=-1))
    located = torch.stack([torch.from_numpy(points) for points in project_to_image(mirrored.center, t.k)]).float()
    reversed_order = compare_batch(mirrored, dataclasses.replace(t, location=located), body(), 160, 0.4)
    depths = [depth[present].tolist() for depth, present in zip(t.centre[..., 2], t.present, strict=True)]
    same = [abs(a - b) < 0.2 for row in depths for a, b in itertools.combinations(row, 2)]
    assert 0 < np.mean(same) < 1
    assert reversed_order.compute_metrics()["depth_relations"] == pytest.approx(np.mean(same))
    nobody = dataclasses.replace(truth, score=torch.zeros_like(truth.score))
    assert compare_batch(nobody, t, body(), 160, 0.4).compute_metrics()["recall"] == 0.0


@pytest.mark.parametrize(("offset", "expected"), [(0.0, 1.0), (40.0, 0.0)])
def test_validation_compares_annotated_keypoints(render_cache: Path, offset: float, expected: float) -> None:
    from multihmr2_ros.network.model import Prediction, place_bodies
    from multihmr2_ros.training.keypoints import regress_low_mesh_keypoints
    from multihmr2_ros.training.validation import compare_batch

    batch = make_held_out_batches(
        RenderCache(render_cache, held_out=True), 4, BatchConfig(4, 160), input_size=(160, 128)
    )[0]
    t = batch.targets
    truth = Prediction(
        torch.ones(len(t)), t.k, t.present.float(), t.location, t.centre[..., 2], t.present.float(), t.centre,
        torch.nn.functional.pad(t.shape, (0, 5)), t.rotations, torch.zeros(*t.present.shape, 4),
    )  # fmt: skip
    keypoints = regress_low_mesh_keypoints(body(), place_bodies(body(), truth).vertices.flatten(0, 1))
    pixels = project_to_image(keypoints, t.k.repeat_interleave(t.present.shape[1], 0))
    annotated = dataclasses.replace(
        t,
        keypoints=torch.from_numpy(pixels).float().unflatten(0, t.present.shape) + offset,
        keypoint_visible=t.present[..., None].expand(-1, -1, 17),
    )
    metrics = compare_batch(truth, annotated, body(), 160, 0.4).compute_metrics()
    assert metrics["oks"] == pytest.approx(expected, abs=0.02)


def test_validation_without_people_is_not_an_error() -> None:
    assert np.isnan(list(ValidationCounts().compute_metrics().values())).all()
    network = MultiHMR2(NETWORK).eval()
    assert np.isnan(validate(network, body(), [], torch.device("cpu"))["recall"])


@pytest.mark.parametrize(
    ("found", "wanted", "pairs"),
    [
        ([[0, 0]], [[4, 0]], [(0, 0)]),
        ([[0, 0]], [[6, 0]], []),  # farther than half the box's larger side
        ([[0, 0], [1, 0]], [[1, 0]], [(1, 0)]),
        ([], [[1, 0]], []),
        ([[1, 0]], [], []),
    ],
)
def test_places_are_matched_within_reach(found: list, wanted: list, pairs: list) -> None:
    box = np.tile([0.0, 0, 4, 10], (len(wanted), 1))
    assert match_places(np.reshape(found, (-1, 2)), np.reshape(wanted, (-1, 2)), box) == pairs


@pytest.mark.parametrize(
    "values", [{"steps": 0}, {"ema_decay": 1.0}, {"precision": "fp8"}, {"threads": -1}, {"most_views": -1.0}]
)
def test_wrong_configurations_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        TrainingConfig(**values)  # type: ignore[arg-type]


def test_feature_files_of_earlier_versions_are_read(tmp_path: Path) -> None:
    """These files hold two more targets, which no loss uses."""
    targets, values = Targets.empty(2, 1, 4), {name: torch.randn(2, 3, 4, 5) for name in FEATURES}
    tensors = {"k_given": torch.tensor([True, False]), "size": torch.tensor([96, 128])}
    tensors |= {f"targets.{name}": value for name, value in vars(targets).items()}
    tensors |= {"targets.person_id": torch.zeros(2, 1, dtype=torch.int64), "targets.visible_fraction": torch.ones(2, 1)}
    for name, value in values.items():
        if name in QUANTIZED:
            tensors[name], tensors[f"{name}.scale"] = quantize(value, QUANTIZED[name])
        else:
            tensors[name] = value
    save_file(tensors, tmp_path / "batch-0000000.safetensors")
    batch = read_batch(tmp_path / "batch-0000000.safetensors")
    assert batch.image.shape == (2, 3, 96, 128)
    assert batch.k_given.tolist() == [True, False]
    assert all(torch.equal(value, vars(targets)[name]) for name, value in vars(batch.targets).items())
    assert batch.features is not None
    for name, value in values.items():
        torch.testing.assert_close(getattr(batch.features, name), value, rtol=0, atol=0.02)
