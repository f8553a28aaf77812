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

"""The training loop: exact resumption, several processes, reasons for stopping, and the files it leaves."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from multihmr2_ros.errors import UserError
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.human_perception import suppress_neighbors
from multihmr2_ros.network.initialization import initialize
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.training.augmentation import NO_AUGMENTATION
from multihmr2_ros.training.data import Batch, BatchConfig, Batches, make_held_out_batches
from multihmr2_ros.training.distributed import choose_device, connect_processes
from multihmr2_ros.training.loss_config import LossConfig
from multihmr2_ros.training.objective import TrainingObjective
from multihmr2_ros.training.optimizer import OptimizerConfig
from multihmr2_ros.training.patches import assign_patches
from multihmr2_ros.training.render_cache import RenderCache
from multihmr2_ros.training.state import list_state_paths
from multihmr2_ros.training.trainer import Hooks, Trainer
from multihmr2_ros.training.training_log import draw_curves, read_log
from multihmr2_ros.training.validation import validate
from test import paths
from test.helpers.small_network import SMALL
from test.helpers.training_runs import NETWORK, make_batches, make_config, make_trainer
from test.helpers.training_samples import body

pytestmark = pytest.mark.usefixtures("one_thread")


def read_losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_log(folder / "log.jsonl") if row["kind"] == "train"]


def test_an_interrupted_run_ends_exactly_where_an_uninterrupted_one_does(tmp_path: Path, render_cache: Path) -> None:
    whole = make_trainer(tmp_path / "whole", make_config())
    assert whole.run(make_batches(render_cache, make_config()), show_progress=False)

    first = make_trainer(tmp_path / "parts", make_config())
    steps = iter(range(10))
    assert not first.run(
        make_batches(render_cache, make_config()), Hooks(stop=lambda: next(steps) == 2), show_progress=False
    )
    assert first.progress.step == 3
    second = make_trainer(tmp_path / "parts", make_config())
    second.resume()
    assert second.run(make_batches(render_cache, make_config()), show_progress=False)

    assert read_losses(tmp_path / "parts") == read_losses(tmp_path / "whole")
    for one, other in ((whole.network, second.network), (whole.ema.network, second.ema.network)):
        theirs = other.state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def test_a_run_can_be_extended_from_its_constant_learning_rate(tmp_path: Path, render_cache: Path) -> None:
    short = make_trainer(tmp_path / "run", make_config(3))
    short.run(make_batches(render_cache, make_config(3)), show_progress=False)
    longer = make_trainer(tmp_path / "run", make_config(5))
    longer.resume()
    longer.run(make_batches(render_cache, make_config(5)), show_progress=False)
    straight = make_trainer(tmp_path / "straight", make_config(5))
    straight.run(make_batches(render_cache, make_config(5)), show_progress=False)
    assert read_losses(tmp_path / "run") == read_losses(tmp_path / "straight")


def test_files_of_a_run(tmp_path: Path, render_cache: Path) -> None:
    configuration = make_config(4, validate_steps=2, checkpoint_steps=1)
    held_out = make_held_out_batches(
        RenderCache(render_cache, held_out=True), 4, configuration.batch, input_size=(96, 80)
    )
    run = make_trainer(tmp_path / "run", configuration, held_out=held_out)
    run.run(make_batches(render_cache, configuration), show_progress=False)
    folder = tmp_path / "run"
    assert [path.name for path in list_state_paths(folder)] == ["state-00000003.pt", "state-00000004.pt"]
    loaded = checkpoint.load_network(folder / "network.safetensors")
    averaged = run.ema.network.state_dict()
    assert all(torch.equal(value, averaged[name]) for name, value in loaded.state_dict().items())
    saved = torch.load(list_state_paths(folder)[-1], weights_only=True)
    assert json.loads(saved["training_config"])["batch"]["batch_size"] == 2
    validations = [row for row in read_log(folder / "log.jsonl") if row["kind"] == "validation"]
    assert [row["step"] for row in validations] == [2, 4]
    assert set(validations[0]) >= {"recall", "precision", "mpjpe_mm", "distance_error", "fov_error_deg"}


def test_curves_of_training_and_validation_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    train = [{"step": step, "kind": "train", "loss": 2.0 / step, "learning_rate": 0.0} for step in (1, 2, 3)]
    draw_curves([*train, {"step": 2, "kind": "validation", "recall": 0.5, "oks": None}], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_curves_are_drawn_of_a_short_run_without_validation(tmp_path: Path, render_cache: Path) -> None:
    pytest.importorskip("matplotlib")
    make_trainer(tmp_path / "run", make_config(2), curves=True).run(
        make_batches(render_cache, make_config(2)), show_progress=False
    )
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_resumed_run_uses_the_new_settings(
    tmp_path: Path, render_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_trainer(tmp_path / "run", make_config(1)).run(make_batches(render_cache, make_config(1)), show_progress=False)
    changed = dataclasses.replace(make_config().optimisation, learning_rate=2e-3, weight_decay=0.5)
    again = make_trainer(tmp_path / "run", dataclasses.replace(make_config(), optimisation=changed))
    again.resume()
    assert {group["peak"] for group in again.optimizer.param_groups} == {2e-3}
    assert {group["weight_decay"] for group in again.optimizer.param_groups} == {0.0, 0.5}
    [warning] = caplog.messages
    assert warning.endswith(
        "is resumed with other settings: steps 6 (before 1), optimisation.learning_rate 0.002 (before 0.0005), "
        "optimisation.weight_decay 0.5 (before 0.05)"
    )


def test_changed_training_data_are_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_trainer(tmp_path / "run", make_config(), data={"cache": "/a", "coco": [], "hold_out": 0.0}).save()
    make_trainer(tmp_path / "run", make_config(), data={"cache": "/b", "coco": [["c", "d"]], "hold_out": 0.0}).resume()
    [warning] = caplog.messages
    assert warning.endswith("is resumed with other settings: cache /b (before /a), coco [['c', 'd']] (before [])")


def test_a_run_is_not_resumed_beyond_its_last_step(tmp_path: Path) -> None:
    run = make_trainer(tmp_path / "run", make_config(5))
    run.progress.step = 5
    run.save()
    with pytest.raises(UserError, match=r"has done 5 steps, but --steps is 4; give more --steps"):
        make_trainer(tmp_path / "run", make_config(4)).resume()


@pytest.mark.parametrize("proposed", [True, False])
def test_a_step_in_bf16_leaves_pixels_and_meters_in_float32(render_cache: Path, proposed: bool) -> None:
    network = initialize(
        MultiHMR2(dataclasses.replace(NETWORK, proposed_queries=proposed, local_attention=proposed))
    ).train()
    batch = make_batches(render_cache, make_config())[0]
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network.predict_for_training(batch.image, batch.targets.k, batch.k_given)
    values = [outputs.queries, outputs.horizontal_fov, *(v for layer in outputs.layers for v in vars(layer).values())]
    assert {value.dtype for value in values} == {torch.float32}
    terms = TrainingObjective(network, body(), LossConfig(), "bf16", None)(batch)
    torch.stack(list(terms.values())).sum().backward()
    assert all(value.grad.isfinite().all() for value in network.parameters() if value.grad is not None)


def test_an_incomplete_state_is_skipped(tmp_path: Path, render_cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    configuration = make_config(2, checkpoint_steps=1)
    make_trainer(tmp_path / "run", configuration).run(make_batches(render_cache, configuration), show_progress=False)
    newest = list_state_paths(tmp_path / "run")[-1]
    newest.write_bytes(newest.read_bytes()[:5000])
    again = make_trainer(tmp_path / "run", configuration)
    again.resume()
    assert again.progress.step == 1
    assert "is not a complete state" in caplog.text


def test_temporary_files_of_a_killed_run_are_removed_later(tmp_path: Path) -> None:
    run = make_trainer(tmp_path / "run", make_config())
    old, new = (tmp_path / "run" / f".state-0000000{number}.pt.7-ab.tmp" for number in (1, 2))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 3600,) * 2)
    run.save()
    assert (old.exists(), new.exists()) == (False, True)


def test_states_of_older_versions_can_be_resumed(tmp_path: Path, render_cache: Path) -> None:
    """They lack the options of the network, and the description of the data, that were added later."""
    make_trainer(tmp_path / "run", make_config(1)).run(make_batches(render_cache, make_config(1)), show_progress=False)
    [path] = list_state_paths(tmp_path / "run")
    state = torch.load(path, weights_only=True)
    sizes = json.loads(state["network_config"])
    del sizes["architecture"], sizes["camera_embedding"], state["data"]
    torch.save(state | {"network_config": json.dumps(sizes)}, path)
    again = make_trainer(tmp_path / "run", make_config(2), data={"cache": "/b"})
    again.resume()
    assert again.progress.step == 1


def test_resuming_needs_a_run_of_the_same_network(tmp_path: Path, render_cache: Path) -> None:
    with pytest.raises(UserError, match="expected the state of a training run"):
        make_trainer(tmp_path / "empty", make_config()).resume()
    make_trainer(tmp_path / "run", make_config(1)).run(make_batches(render_cache, make_config(1)), show_progress=False)
    other = MultiHMR2(dataclasses.replace(NETWORK, decoder_depth=1))
    with pytest.raises(UserError, match=r"decoder_depth 2, as in the run in .*, got 1"):
        Trainer(other, body(), make_config(), tmp_path / "run", torch.device("cpu")).resume()


@pytest.mark.parametrize(("saved", "now"), [(0.0, 1.0), (1.0, 0.0)])
def test_resuming_needs_the_same_trained_parameters(tmp_path: Path, saved: float, now: float) -> None:
    run, again = (
        make_trainer(tmp_path / "run", make_config(optimisation=OptimizerConfig(encoder_factor=rate)))
        for rate in (saved, now)
    )
    run.save()
    with pytest.raises(UserError, match="with the same --encoder-rate") as error:
        again.resume()
    assert "\n" not in str(error.value)


def test_an_error_in_a_loader_process_is_reported_in_one_line(tmp_path: Path) -> None:
    class Broken(Dataset[Batch]):
        def __getitem__(self, step: int) -> Batch:
            raise UserError(f"cannot read batch {step}: remove it")

    with pytest.raises(UserError) as error:
        make_trainer(tmp_path / "run", make_config(loader_workers=1)).run(Broken(), show_progress=False)
    assert str(error.value) == "cannot read batch 0: remove it"
    assert not multiprocessing.active_children()  # Python would wait for them at its end


def test_loader_processes_start_although_opencv_has_threads(tmp_path: Path) -> None:
    """A loader that waited for threads of its parent would never deliver a batch."""
    program = """
import cv2, numpy as np
from torch.utils.data import Dataset
from multihmr2_ros.training.loading import load_batches

class Numbers(Dataset):
    def __getitem__(self, step):
        cv2.GaussianBlur(image, (31, 31), 0)
        return cv2.getNumThreads()

cv2.setNumThreads(4)
image = np.zeros((1000, 1000, 3), np.uint8)
cv2.GaussianBlur(image, (31, 31), 0)  # starts the threads
print(*load_batches(Numbers(), range(2), 1), cv2.getNumThreads())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (0, "1 1 4\n"), done.stderr


def test_a_loss_that_is_not_finite_stops_with_its_values_and_images(tmp_path: Path, render_cache: Path) -> None:
    run = make_trainer(tmp_path / "run", make_config())
    with torch.no_grad():
        run.network.camera.field_of_view[2].bias.fill_(float("nan"))
    with pytest.raises(UserError, match=r"not finite at step 0 \(.*field_of_view nan.*images: seeds-0000000"):
        run.run(make_batches(render_cache, make_config()), show_progress=False)


def test_a_step_without_a_finite_gradient_is_skipped(tmp_path: Path, render_cache: Path) -> None:
    run = make_trainer(tmp_path / "run", make_config())
    before = {name: value.clone() for name, value in run.network.named_parameters()}
    run.network.detection.score[0].weight.register_hook(lambda gradient: gradient * float("inf"))
    batch = make_batches(render_cache, make_config())[0]
    run.step(batch)
    assert all(torch.equal(value, before[name]) for name, value in run.network.named_parameters())
    for _ in range(18):
        run.step(batch)
    with pytest.raises(UserError, match="20 steps in a row had no finite gradient"):
        run.step(batch)


def test_consistency_holds_on_to_another_model(tmp_path: Path, render_cache: Path) -> None:
    weights = LossConfig(consistency_pose=1.0, consistency_joints=1.0)
    torch.manual_seed(5)
    run = make_trainer(tmp_path / "run", make_config(1, losses=weights), reference=MultiHMR2(NETWORK))
    terms, _ = run.step(make_batches(render_cache, make_config())[1])
    assert terms["consistency_pose"] > 0
    assert terms["consistency_joints"] > 0
    assert len(list(run._objective.parameters())) == len(list(run.network.parameters()))


TWO_PROCESSES = """
import sys
from pathlib import Path
import torch
from multihmr2_ros.errors import UserError
from multihmr2_ros.training.distributed import connect_processes
from multihmr2_ros.training.trainer import Hooks
from test.helpers.training_runs import make_batches, make_config, make_trainer
torch.set_num_threads(1)
folder, render_cache = Path(sys.argv[1]), Path(sys.argv[2])

def load(steps, rank):
    data = make_batches(render_cache, make_config(steps))
    data.rank = rank
    return data

with connect_processes("cpu") as others:
    run = make_trainer(folder / "whole", make_config(3), processes=others)
    run.run(load(3, others.rank), show_progress=False)
    torch.save(run.network.state_dict(), folder / f"rank{others.rank}.pt")

    second = others.rank == 1
    run, data = make_trainer(folder / "stopped", make_config(50), processes=others), load(50, others.rank)
    done = run.run(data, Hooks(stop=lambda: second and run.progress.step == 2), show_progress=False)
    said = f"{done} {run.progress.step} "
    if second:
        with torch.no_grad():
            run.network.camera.field_of_view[2].bias.fill_(float("nan"))
    try:
        run.step(data[3])
    except UserError as error:
        said += str(error)
    (folder / f"rank{others.rank}.txt").write_text(said)
"""


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory, render_cache: Path) -> Path:
    """Return the folder of two runs by the same two processes under torchrun."""
    folder = tmp_path_factory.mktemp("two_processes")
    script = folder / "program.py"
    script.write_text(TWO_PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, str(folder), str(render_cache)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_two_processes_train_one_network(two_processes: Path) -> None:
    first, second = (torch.load(two_processes / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    parameters = dict(MultiHMR2(NETWORK).named_parameters())
    assert all(torch.equal(first[name], second[name]) for name in parameters)
    assert [row["images"] for row in read_log(two_processes / "whole" / "log.jsonl")] == [4, 8, 12]


def test_processes_end_together(two_processes: Path) -> None:
    """One of two processes is stopped, and later has a loss that is not finite: the other one does not block."""
    first, second = ((two_processes / f"rank{rank}.txt").read_text() for rank in (0, 1))
    assert first == "False 2 the loss is not finite at step 2 in another process; see its message"
    assert second.startswith("False 2 the loss is not finite at step 2 (")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["multi-hmr-2", "multi-hmr"])
def test_thirty_two_renders_can_be_overfitted(tmp_path: Path, architecture: str) -> None:
    from multihmr2_ros.network.initialization import initialize
    from multihmr2_ros.simulation.scene import SceneOptions
    from multihmr2_ros.training.initial_network import compute_mean_rotations
    from multihmr2_ros.training.rendering import RenderCacheConfig, fill_cache, make_scene_renderer, open_folder

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    scene = SceneOptions(width=160, height=120, people=(1, 2), distance_m=(1.5, 4.0))
    cache = RenderCacheConfig(tmp_path / "cache", scene, held_out_images=0)
    open_folder(cache)
    with torch.no_grad():
        assert sum(fill_cache(cache, make_scene_renderer(scene), images=32)) == 32
    source = RenderCache(cache.folder)
    network = dataclasses.replace(
        SMALL,
        image_size=160,
        max_grid=10,
        encoder_width=128,
        decoder_width=128,
        decoder_head_width=32,
        decoder_heads=4,
        decoder_mlp_width=256,
        head_width=256,
        stem_widths=(16, 32, 64, 96),
        stem_depths=(0, 0, 1, 0),
        proposed_queries=architecture == "multi-hmr-2",
        local_attention=True,
        architecture=architecture,
    )
    drawn = BatchConfig(16, 160, aspects=(4 / 3,), aspect_weights=(1.0,), k_given=1.0, augmentation=NO_AUGMENTATION)
    course = OptimizerConfig(learning_rate=1e-3, weight_decay=0.0, warmup_steps=50, decay_fraction=0.4)
    configuration = make_config(1500, batch=drawn, optimisation=course, ema_decay=0.98, log_steps=100)
    torch.manual_seed(0)
    model = initialize(MultiHMR2(network), compute_mean_rotations(cache.folder))
    (tmp_path / "run").mkdir()
    run = Trainer(model, body(), configuration, tmp_path / "run", torch.device("cpu"))
    run.run(Batches([(source, 1.0)], drawn, 0), show_progress=False)
    seen = make_held_out_batches(source, 32, drawn, input_size=(160, 128))
    metrics = validate(run.ema.network, run.body, seen, torch.device("cpu"))
    people = sum(int(batch.targets.present.sum()) for batch in seen)
    most = people if architecture == "multi-hmr-2" else count_separate_people(seen)
    assert metrics["recall"] == pytest.approx(most / people), metrics
    assert metrics["mpjpe_mm"] < 20, metrics


def count_separate_people(seen: list[Batch]) -> int:
    """Count the people that remain after non-maximum suppression: one of those in neighboring patches."""
    found = [assign_patches(batch.targets, (128, 160), 16).is_center for batch in seen]
    order = torch.arange(1, 8 * 10 + 1).view(8, 10)
    scores = [torch.where(centers, order, 0.0) for centers in found]
    return sum(int(((suppress_neighbors(score) == score) & (score > 0)).sum()) for score in scores)


@pytest.mark.parametrize(
    ("chosen", "environment", "device"),
    [
        ("cpu", {}, "cpu"),
        ("cpu", {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, "cpu"),
        ("cuda", {}, "cuda:2"),  # the current one
        ("cuda:1", {}, "cuda:1"),
        ("cuda", {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}, "cuda:1"),
        ("cuda:3", {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}, "cuda:3"),
        ("cuda:1", {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, "is one GPU"),
        ("cuda", {"RANK": "1", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8"}, "it has 4 GPUs"),
    ],
)
def test_the_device_of_a_process(
    monkeypatch: pytest.MonkeyPatch, chosen: str, environment: dict[str, str], device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    if " " in device:
        with pytest.raises(UserError, match=device):
            choose_device(torch.device(chosen), environment)
    else:
        assert choose_device(torch.device(chosen), environment) == torch.device(device)


def test_the_gpu_is_current_before_the_group_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is needed: the order and the arguments of PyTorch's calls are checked."""
    calls: list[tuple[object, ...]] = []
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(("set", device)))
    group = torch.distributed
    monkeypatch.setattr(group, "init_process_group", lambda backend, device_id: calls.append((backend, device_id)))
    monkeypatch.setattr(group, "destroy_process_group", lambda: None)
    monkeypatch.setattr(group, "get_rank", lambda: 1)
    monkeypatch.setattr(group, "get_world_size", lambda: 2)
    gpu = torch.device("cuda:1")
    with connect_processes(gpu) as others:
        assert (others.rank, others.count, others.local_rank) == (1, 2, 1)
    assert calls == [("set", gpu), ("nccl", gpu)]
