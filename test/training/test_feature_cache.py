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

"""Features of the encoder on disk: written, read, and used for training."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path

import pytest
import torch

from multihmr2_ros.cli.main import main
from multihmr2_ros.errors import UserError
from multihmr2_ros.network import checkpoint
from multihmr2_ros.training.feature_cache import (
    SETTINGS_FILE,
    CachedBatches,
    check_encoder,
    check_track_features,
    list_missing_batches,
    read_batch,
    write_batch,
)
from test.helpers.movenet_network import make_batch, make_movenet_network
from test.helpers.nano_network import make_nano_network
from test.helpers.signals import send_signal_to_loop

pytestmark = pytest.mark.usefixtures("one_thread", "without_curves")


def test_training_on_stored_features_equals_training_on_images(tmp_path: Path) -> None:
    model, data = make_movenet_network().eval(), make_batch()
    assert list_missing_batches(tmp_path, 2) == [0, 1]
    path = write_batch(tmp_path, 1, data, model)
    assert list_missing_batches(tmp_path, 2) == [0]
    again = read_batch(path)
    assert again.image.shape == data.image.shape
    torch.testing.assert_close(again.targets.location, data.targets.location)
    torch.testing.assert_close(again.targets.rotations, data.targets.rotations, atol=1e-3, rtol=0)
    with torch.no_grad():
        direct = model.predict_for_training(data.image, data.targets.k, data.k_given)
        kept = model.predict_for_training(again.image, again.targets.k, again.k_given, again.features)
    torch.testing.assert_close(kept.queries, direct.queries, atol=0.05, rtol=0.05)
    torch.testing.assert_close(kept.layers[-1].location, direct.layers[-1].location, atol=1.0, rtol=0)
    features = model.extract_features(data.image)
    with torch.inference_mode():
        direct = model(data.image, data.targets.k, data.k_given, 4)
        kept = model(torch.zeros_like(data.image), data.targets.k, data.k_given, 4, features=features)
    torch.testing.assert_close(kept.center, direct.center)
    torch.testing.assert_close(kept.rotations, direct.rotations)
    assert CachedBatches([tmp_path], 0)[5].origins == again.origins
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="remove it"):
        CachedBatches([tmp_path], 0)[0]
    with pytest.raises(UserError, match="none, found none; write them with --features-only"):
        CachedBatches([tmp_path, tmp_path / "none"], 0)


WRITE = ["--features-only", "--batch-size", "1"]


@pytest.fixture
def features(tmp_path: Path, render_cache: Path) -> tuple[Path, list[str]]:
    """Return a folder with the features of a batch, and the options that they were written with."""
    checkpoint.save_network(make_movenet_network(), tmp_path / "tiny.safetensors")
    data = ["--cache", str(render_cache), "--features", str(tmp_path / "features")]
    options = ["train", "--from", str(tmp_path / "tiny.safetensors"), "--encoder-rate", "0", *data]
    assert main([*options, *WRITE, "--batches", "1"]) == 0
    return tmp_path / "features", options


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--seed", "1"], "expected seed 0 as in the existing files of"),
        (["--augmentation", "flip=0"], "expected augmentation.flip 0.5"),
        (["--encoder-weights", "{tmp}/other.safetensors"], "expected the encoder whose features are in"),
    ],
)
def test_a_folder_of_features_refuses_batches_of_other_options(
    tmp_path: Path,
    features: tuple[Path, list[str]],
    capsys: pytest.CaptureFixture[str],
    change: list[str],
    message: str,
) -> None:
    folder, options = features
    checkpoint.save_network(make_movenet_network(1), tmp_path / "other.safetensors")
    assert main([*options, *WRITE, "--batches", "2"]) == 0
    changed = [*options, *(word.format(tmp=tmp_path) for word in change)]
    assert main([*changed, *WRITE, "--batches", "3"]) == 2
    assert message in capsys.readouterr().err
    assert len(list(folder.glob("batch-*"))) == 2


@pytest.mark.usefixtures("restore_signal_handlers")
def test_interrupted_writing_of_features_is_a_failure(
    features: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    with send_signal_to_loop(signal.SIGINT):
        assert main([*features[1], *WRITE, "--batches", "1000"]) == 128 + signal.SIGINT
    assert "stopped because SIGINT was received: " in capsys.readouterr().out


def test_only_the_encoder_of_the_features_is_trained_on(
    tmp_path: Path,
    features: tuple[Path, list[str]],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, options = features
    checkpoint.save_network(make_movenet_network(1), tmp_path / "other.safetensors")
    other = ["--encoder-weights", str(tmp_path / "other.safetensors"), "--out", str(tmp_path / "run")]
    assert main([*options, *other, "--device", "cpu", "--seed", "1"]) == 2  # another seed would be right
    assert "expected the encoder whose features are in" in capsys.readouterr().err
    check_encoder([folder], make_movenet_network())
    assert not caplog.messages
    (folder / SETTINGS_FILE).unlink()  # a folder of an earlier version
    check_encoder([folder], make_movenet_network(1))
    assert caplog.messages[-1].endswith("its features may be of another encoder")
    assert main([*options, *WRITE, "--batches", "2", "--seed", "1"]) == 0
    assert caplog.messages[-1].endswith("its batches may have other settings")


@pytest.mark.parametrize(
    "more",
    [["--empty-images", "{tmp}/photographs"], ["--augmentation", "flip=0"], ["--batch-size", "1"], ["--k-given", "1"]],
)
def test_options_of_images_are_refused_with_stored_features(
    tmp_path: Path, features: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    options = [*features[1], "--device", "cpu", "--steps", "1", "--out", str(tmp_path / "run")]
    assert main([*options, *(word.format(tmp=tmp_path) for word in more)]) == 2
    assert f"{more[0]} has no effect on the stored batches of --features" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_reference_model_has_the_encoder_of_the_features(
    tmp_path: Path, features: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save_network(make_movenet_network(1), tmp_path / "other.safetensors")
    checkpoint.save_network(make_nano_network(), tmp_path / "without.safetensors")
    options = [*features[1], "--device", "cpu", "--steps", "1", "--loader-workers", "0", "--out", str(tmp_path / "run")]
    for name in ("other", "without"):
        assert main([*options, "--consistency-with", str(tmp_path / f"{name}.safetensors")]) == 2
        assert "expected a model with the encoder of --features for --consistency-with" in capsys.readouterr().err
    assert main([*options, "--consistency-with", str(tmp_path / "tiny.safetensors")]) == 0


def test_features_without_targets_of_tracking_features_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As written with nano, for a network whose tracking features come from queries."""
    model, data = make_movenet_network().eval(), make_batch()
    folders = [tmp_path / name for name in ("with", "without")]
    for folder, width in zip(folders, (16, 0), strict=True):
        folder.mkdir()
        targets = dataclasses.replace(data.targets, track_feature=torch.zeros(2, 3, width))
        write_batch(folder, 0, dataclasses.replace(data, targets=targets), model)
    check_track_features(folders[:1], 16)
    assert not caplog.messages
    check_track_features(folders, 16)
    assert len(caplog.messages) == 1
    assert f"not trained on {folders[1]}," in caplog.messages[0]
    with pytest.raises(UserError, match="expected tracking features of width 8 in"):
        check_track_features(folders, 8)
