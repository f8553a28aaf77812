"""The loop: exact resumption, several processes, what stops it, and what it leaves behind."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from multihmr2_ros.cli.main import main
from multihmr2_ros.errors import UserError
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.training.augmentation import NO_AUGMENTATION
from multihmr2_ros.training.config import TrainingConfig
from multihmr2_ros.training.curves import draw_curves
from multihmr2_ros.training.data import BatchConfig, Batches, held_out_batches
from multihmr2_ros.training.ema import Ema
from multihmr2_ros.training.losses import LossConfig
from multihmr2_ros.training.optimisation import OptimisationConfig, make_optimiser, rate_factor
from multihmr2_ros.training.pool import Pool
from multihmr2_ros.training.records import Records, read_log
from multihmr2_ros.training.state import state_paths
from multihmr2_ros.training.trainer import Hooks, Trainer
from multihmr2_ros.training.validation import Tally, match_places, validate
from test.small_network import SMALL
from test.training_samples import body, make_pool

SMALL_WITH_STEM = dataclasses.replace(
    SMALL,
    image_size=96,
    max_grid=6,
    stem_widths=(8, 8, 16, 16),
    stem_depths=(0, 0, 1, 0),
    proposed_queries=True,
)


def config(steps: int = 6, **changes: object) -> TrainingConfig:
    """A run of tiny steps without loader processes."""
    values: dict[str, object] = {
        "log_steps": 1,
        "validate_steps": 100,
        "checkpoint_steps": 100,
        "loader_workers": 0,
        "batch": BatchConfig(batch_size=2, image_size=96, track_feature_width=32),
        "optimisation": OptimisationConfig(warmup_steps=2, decay_fraction=0.0),
    }
    return TrainingConfig(steps=steps, **(values | changes))  # type: ignore[arg-type]


def trainer(folder: Path, configuration: TrainingConfig, **changes: object) -> Trainer:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(configuration.seed)
    network = MultiHMR2(SMALL_WITH_STEM)
    return Trainer(network, body(), configuration, folder, torch.device("cpu"), **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> object:
    """The machine's cores are shared; sums then also come out the same."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pool(tmp_path_factory.mktemp("pool"), 6, held_out=4)


def batches(pool: Path, configuration: TrainingConfig) -> Batches:
    return Batches([(Pool(pool), 1.0)], configuration.batch, configuration.seed)


def losses_of(folder: Path) -> list[float]:
    return [row["loss"] for row in read_log(folder / "log.jsonl") if row["kind"] == "train"]


def test_an_interrupted_run_ends_exactly_where_an_uninterrupted_one_does(tmp_path: Path, pool: Path) -> None:
    whole = trainer(tmp_path / "whole", config())
    assert whole.run(batches(pool, config()), show_progress=False)

    first = trainer(tmp_path / "parts", config())
    steps = iter(range(10))
    assert not first.run(batches(pool, config()), Hooks(stop=lambda: next(steps) == 2), show_progress=False)
    assert first.progress.step == 3
    second = trainer(tmp_path / "parts", config())
    second.resume()
    assert second.run(batches(pool, config()), show_progress=False)

    assert losses_of(tmp_path / "parts") == losses_of(tmp_path / "whole")
    for one, other in ((whole.network, second.network), (whole.ema.network, second.ema.network)):
        theirs = other.state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def test_a_run_can_be_extended_where_its_rate_was_constant(tmp_path: Path, pool: Path) -> None:
    short = trainer(tmp_path / "run", config(3))
    short.run(batches(pool, config(3)), show_progress=False)
    longer = trainer(tmp_path / "run", config(5))
    longer.resume()
    longer.run(batches(pool, config(5)), show_progress=False)
    straight = trainer(tmp_path / "straight", config(5))
    straight.run(batches(pool, config(5)), show_progress=False)
    assert losses_of(tmp_path / "run") == losses_of(tmp_path / "straight")


def test_what_a_run_leaves_behind(tmp_path: Path, pool: Path) -> None:
    configuration = config(4, validate_steps=2, checkpoint_steps=1)
    held_out = held_out_batches(Pool(pool, held_out=True), 4, configuration.batch, input_size=(96, 80))
    run = trainer(tmp_path / "run", configuration, held_out=held_out)
    run.run(batches(pool, configuration), show_progress=False)
    folder = tmp_path / "run"
    assert [path.name for path in state_paths(folder)] == ["state-00000003.pt", "state-00000004.pt"]
    loaded = checkpoint.load(folder / "network.safetensors")
    averaged = run.ema.network.state_dict()
    assert all(torch.equal(value, averaged[name]) for name, value in loaded.state_dict().items())
    saved = torch.load(state_paths(folder)[-1], weights_only=True)
    assert json.loads(saved["training_config"])["batch"]["batch_size"] == 2
    validations = [row for row in read_log(folder / "log.jsonl") if row["kind"] == "validation"]
    assert [row["step"] for row in validations] == [2, 4]
    assert set(validations[0]) >= {"recall", "precision", "mpjpe_mm", "distance_error", "fov_error_deg"}
    pytest.importorskip("matplotlib")
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_torn_state_is_passed_over(tmp_path: Path, pool: Path, caplog: pytest.LogCaptureFixture) -> None:
    configuration = config(2, checkpoint_steps=1)
    trainer(tmp_path / "run", configuration).run(batches(pool, configuration), show_progress=False)
    newest = state_paths(tmp_path / "run")[-1]
    newest.write_bytes(newest.read_bytes()[:5000])
    again = trainer(tmp_path / "run", configuration)
    again.resume()
    assert again.progress.step == 1
    assert "is passed over, it is not a whole state" in caplog.text


def test_resuming_needs_a_run_of_the_same_network(tmp_path: Path, pool: Path) -> None:
    with pytest.raises(UserError, match="no state of a training run"):
        trainer(tmp_path / "empty", config()).resume()
    trainer(tmp_path / "run", config(1)).run(batches(pool, config(1)), show_progress=False)
    other = MultiHMR2(dataclasses.replace(SMALL_WITH_STEM, decoder_depth=1))
    with pytest.raises(UserError, match="decoder_depth 2, not 1"):
        Trainer(other, body(), config(), tmp_path / "run", torch.device("cpu")).resume()


def test_a_loss_that_is_not_finite_stops_with_its_values_and_images(tmp_path: Path, pool: Path) -> None:
    run = trainer(tmp_path / "run", config())
    with torch.no_grad():
        run.network.camera.field_of_view[2].bias.fill_(float("nan"))
    with pytest.raises(UserError, match=r"not finite at step 0 \(.*field_of_view nan.*images: seeds-0000000"):
        run.run(batches(pool, config()), show_progress=False)


def test_a_step_without_a_finite_gradient_is_left_out(tmp_path: Path, pool: Path) -> None:
    run = trainer(tmp_path / "run", config())
    before = {name: value.clone() for name, value in run.network.named_parameters()}
    run.network.detection.score[0].weight.register_hook(lambda gradient: gradient * float("inf"))
    batch = batches(pool, config())[0]
    run.step(batch)
    assert all(torch.equal(value, before[name]) for name, value in run.network.named_parameters())
    for _ in range(18):
        run.step(batch)
    with pytest.raises(UserError, match="20 steps in a row had no finite gradient"):
        run.step(batch)


def test_consistency_holds_on_to_another_model(tmp_path: Path, pool: Path) -> None:
    weights = LossConfig(consistency_pose=1.0, consistency_joints=1.0)
    torch.manual_seed(5)
    run = trainer(tmp_path / "run", config(1, losses=weights), reference=MultiHMR2(SMALL_WITH_STEM))
    terms, _ = run.step(batches(pool, config())[1])
    assert terms["consistency_pose"] > 0
    assert terms["consistency_joints"] > 0
    assert len(list(run._objective.parameters())) == len(list(run.network.parameters()))


def test_the_average_follows_weights_and_normalisation() -> None:
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
    course = OptimisationConfig(warmup_steps=10, decay_fraction=0.2)
    assert rate_factor(step, 100, course) == pytest.approx(factor)


def test_weight_decay_spares_norms_biases_and_tokens() -> None:
    network = MultiHMR2(SMALL_WITH_STEM)
    optimiser = make_optimiser(network, OptimisationConfig(encoder_factor=0.5, learning_rate=1e-3))
    decay = {id(value): group for group in optimiser.param_groups for value in group["params"]}
    assert len(decay) == len(list(network.parameters()))
    for name, value in network.named_parameters():
        group = decay[id(value)]
        tokens = ("backbone.class_token", "backbone.register_tokens", "decoder.queries")
        spared = value.ndim == 1 or name in tokens
        assert (group["weight_decay"] == 0) == spared, name
        assert group["peak"] == (5e-4 if name.startswith("backbone.") else 1e-3)


@pytest.mark.parametrize("folder", ["good", "broken"])
def test_logs_are_read_whatever_their_last_line_is(tmp_path: Path, folder: str) -> None:
    records = Records(tmp_path)
    records.add(1, "train", {"loss": 2.0, "views": float("nan")})
    records.add(1, "train", {"loss": 1.0})  # a resumed run goes over the same steps again
    if folder == "broken":
        with (tmp_path / "log.jsonl").open("a") as file:
            file.write('{"step": 2, "ki')
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1, "kind": "train", "loss": 1.0}]


def test_no_curves_without_figures(tmp_path: Path) -> None:
    draw_curves([], tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_validation_of_the_truth_itself_is_perfect(pool: Path) -> None:
    from multihmr2_ros.network.model import Prediction
    from multihmr2_ros.training.validation import compare

    batch = held_out_batches(Pool(pool, held_out=True), 4, BatchConfig(4, 160), input_size=(160, 128))[0]
    t = batch.targets
    truth = Prediction(
        horizontal_fov=2 * torch.atan(80 / t.k[:, 0, 0]),
        k=t.k,
        query_score=t.present.float(),
        query_location=t.location,
        query_depth=t.centre[..., 2],
        score=t.present.float(),
        centre=t.centre,
        shape=torch.nn.functional.pad(t.shape, (0, 5)),
        rotations=t.rotations,
        track_feature=torch.zeros(*t.present.shape, 4),
    )
    figures = compare(truth, t, body(), 160, 0.4).figures()
    assert figures["recall"] == figures["precision"] == 1.0
    assert figures["mpjpe_mm"] < 1e-3
    assert figures["distance_error"] < 1e-6
    assert figures["fov_error_deg"] < 1e-4
    moved = dataclasses.replace(truth, centre=t.centre * 1.1, horizontal_fov=truth.horizontal_fov + 0.1)
    worse = compare(moved, t, body(), 160, 0.4).figures()
    assert worse["distance_error"] == pytest.approx(0.1, rel=1e-4)
    assert worse["fov_error_deg"] == pytest.approx(np.degrees(0.1), rel=1e-4)
    nobody = dataclasses.replace(truth, score=torch.zeros_like(truth.score))
    assert compare(nobody, t, body(), 160, 0.4).figures()["recall"] == 0.0


def test_nobody_is_validated_without_an_error() -> None:
    assert np.isnan(list(Tally().figures().values())).all()
    network = MultiHMR2(SMALL_WITH_STEM).eval()
    assert np.isnan(validate(network, body(), [], torch.device("cpu"))["recall"])


@pytest.mark.parametrize(
    ("found", "wanted", "pairs"),
    [
        ([[0, 0]], [[4, 0]], [(0, 0)]),
        ([[0, 0]], [[6, 0]], []),  # further than half the box's larger side
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


# ---- the command ----


def network_file(folder: Path) -> Path:
    path = folder / "network.json"
    path.write_text(json.dumps(vars(SMALL_WITH_STEM)))
    return path


def arguments(folder: Path, pool: Path, *more: str) -> list[str]:
    small = ["--network", str(network_file(folder)), "--cache", str(pool), "--batch-size", "2", "--log-steps", "1"]
    return ["train", "--out", str(folder / "run"), "--loader-workers", "0", "--device", "cpu", *small, *more]


def test_the_command_trains_resumes_and_fine_tunes(
    tmp_path: Path, pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tmp_path, pool, "--steps", "1")) == 0
    assert capsys.readouterr().out.startswith("done: step 1 of 1")
    assert main(arguments(tmp_path, pool, "--steps", "2")) == 2
    assert "already holds a run; add --resume" in capsys.readouterr().err
    assert main(arguments(tmp_path, pool, "--steps", "2", "--resume")) == 0
    weights = str(tmp_path / "run" / "network.safetensors")
    tune = ["train", "--out", str(tmp_path / "tuned"), "--from", weights, "--consistency-with", weights]
    assert main([*tune, "--cache", str(pool), "--steps", "1", "--batch-size", "2", "--loader-workers", "0"]) == 0
    row = read_log(tmp_path / "tuned" / "log.jsonl")[0]
    assert row["consistency_pose"] is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--out is missing"),
        (["--out", "{tmp}/run"], "nothing to train on"),
        (["--out", "{tmp}/run", "--cache", "{tmp}/cache"], "holds no images and nothing renders any"),
        (["--out", "{tmp}/file/run", "--cache", "{tmp}/cache"], "cannot make the folder"),
        (["--out", "{tmp}/run", "--network", "huge"], "--network takes nano"),
        (["--out", "{tmp}/run", "--cache", "{tmp}/cache", "--loss", "sc0re=1"], "--loss takes NAME=NUMBER"),
        (["--out", "{tmp}/run", "--cache", "{tmp}/cache", "--motions", "{tmp}/none"], "--motions must be a folder"),
        (["--out", "{tmp}/run", "--render-workers", "1"], "--render-workers needs --cache"),
        (["--render-only"], "--render-only needs --cache"),
        (["--out", "{tmp}/run", "--from", "{tmp}/none.safetensors"], "none.safetensors"),
        (["--out", "{tmp}/run", "--cache", "{tmp}/cache", "--resume"], "holds no images"),
        (["--out", "{tmp}/run", "--coco", "{tmp}/x", "{tmp}/y"], "is not there"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    (tmp_path / "file").touch()
    assert main(["train", "--device", "cpu", *(option.format(tmp=tmp_path) for option in options)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert error.startswith("multihmr2 train: ")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends(tmp_path: Path, pool: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "multihmr2_ros.cli.main", *arguments(tmp_path, pool, "--steps", "100000")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as run:
        log, deadline = tmp_path / "run" / "log.jsonl", time.monotonic() + 60
        while not log.is_file() and time.monotonic() < deadline:
            time.sleep(0.1)
        run.send_signal(number)
        output, errors = run.communicate(timeout=60)
    assert run.returncode == 0, errors
    assert output.startswith(f"stopped, because {number.name} came: step ")
    assert state_paths(tmp_path / "run")


TWO_PROCESSES = """
import sys
from pathlib import Path
import torch
from multihmr2_ros.training.distributed import processes
from test.test_training_trainer import batches, config, trainer
torch.set_num_threads(1)
folder, pool = Path(sys.argv[1]), Path(sys.argv[2])
with processes("cpu") as others:
    run = trainer(folder, config(3), processes=others)
    data = batches(pool, config(3))
    data.rank = others.rank
    run.run(data, show_progress=False)
    torch.save(run.network.state_dict(), folder / f"rank{others.rank}.pt")
"""


def test_two_processes_train_one_network(tmp_path: Path, pool: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    (tmp_path / "run").mkdir()
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, str(tmp_path / "run"), str(pool)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / "run" / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    parameters = dict(MultiHMR2(SMALL_WITH_STEM).named_parameters())
    assert all(torch.equal(first[name], second[name]) for name in parameters)
    assert [row["images"] for row in read_log(tmp_path / "run" / "log.jsonl")] == [4, 8, 12]


@pytest.mark.slow
def test_thirty_two_renders_are_learned_by_heart(tmp_path: Path) -> None:
    from multihmr2_ros.network.initialise import initialise
    from multihmr2_ros.simulation.scene import SceneOptions
    from multihmr2_ros.training.rendering import PoolConfig, fill, open_folder, scene_renderer
    from multihmr2_ros.training.session import mean_rotations

    torch.set_num_threads(os.cpu_count() or 1)
    scene = SceneOptions(width=160, height=120, people=(1, 2), distance_m=(1.5, 4.0))
    cache = PoolConfig(tmp_path / "cache", scene, held_out_images=0)
    open_folder(cache)
    with torch.no_grad():
        assert sum(fill(cache, scene_renderer(scene), images=32)) == 32
    source = Pool(cache.folder)
    network = dataclasses.replace(
        SMALL_WITH_STEM,
        image_size=160,
        max_grid=10,
        encoder_width=128,
        decoder_width=128,
        decoder_head_width=32,
        decoder_heads=4,
        decoder_mlp_width=256,
        head_width=256,
        stem_widths=(16, 32, 64, 96),
    )
    drawn = BatchConfig(16, 160, aspects=(4 / 3,), aspect_weights=(1.0,), k_given=1.0, augmentation=NO_AUGMENTATION)
    course = OptimisationConfig(learning_rate=1e-3, weight_decay=0.0, warmup_steps=50, decay_fraction=0.4)
    configuration = config(1500, batch=drawn, optimisation=course, ema_decay=0.98, log_steps=100)
    torch.manual_seed(0)
    model = initialise(MultiHMR2(network), mean_rotations(cache.folder))
    (tmp_path / "run").mkdir()
    run = Trainer(model, body(), configuration, tmp_path / "run", torch.device("cpu"))
    run.run(Batches([(source, 1.0)], drawn, 0), show_progress=False)
    seen = held_out_batches(source, 32, drawn, input_size=(160, 128))
    figures = validate(run.ema.network, run.body, seen, torch.device("cpu"))
    assert figures["recall"] == 1.0, figures
    assert figures["mpjpe_mm"] < 20, figures
