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

"""Weights files: reading, writing, and the messages for unusable files."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import save_file

from multihmr2_ros.errors import UserError
from multihmr2_ros.network import checkpoint, released_weights
from multihmr2_ros.network.config import NetworkConfig
from multihmr2_ros.network.model import MultiHMR2
from test import paths
from test.helpers.full_disk import no_file_above
from test.helpers.small_network import SMALL, save_small_network, small_network

GOLDEN = paths.GOLDEN


def assert_refused(path: Path, *words: str) -> None:
    """Assert that reading raises a UserError of one line with the file's name and the words."""
    with pytest.raises(UserError) as caught:
        checkpoint.load_network(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in (path.name, *words):
        assert word in message, message


def test_our_files_come_back(small_checkpoint: Path) -> None:
    network, expected = checkpoint.load_network(small_checkpoint), small_network()
    assert network.config == SMALL
    state = network.state_dict()
    assert state.keys() == expected.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in expected.state_dict().items())
    assert not any(buffer.is_meta for buffer in network.buffers())
    image = torch.randint(0, 256, (1, 3, 96, 128), dtype=torch.uint8)
    arguments = (image, torch.eye(3)[None], torch.tensor([False]), 3)
    torch.testing.assert_close(network(*arguments).rotations, expected(*arguments).rotations)


def test_weights_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    save_small_network(tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_is_reported_in_one_line_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write") as caught, no_file_above(1000):
        save_small_network(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_released_names_cover_the_whole_layout() -> None:
    layout = json.loads((GOLDEN / "state_dict_layout.json").read_text())
    with torch.device("meta"):
        released = {name: torch.empty(shape) for name, shape in layout.items()}
        ours = {name: tuple(value.shape) for name, value in MultiHMR2(NetworkConfig()).state_dict().items()}
    translated = {
        released_weights.translate_name(name): tuple(value.shape)
        for name, value in released.items()
        if not released_weights.RELEASED_CONSTANTS.match(name)
    }
    assert translated == ours
    constants = [name for name in layout if released_weights.RELEASED_CONSTANTS.match(name)]
    assert len(constants) + len(ours) == len(layout) == 555


@pytest.mark.parametrize("mask", ["absent", "nan", "as in the file"])
def test_the_key_bias_is_silenced(mask: str) -> None:
    bias = torch.arange(1.0, 7.0)
    name = "encoder.backbone.blocks.0.attn.qkv.bias"
    state = {name: bias}
    if mask == "nan":
        state[f"{name}_mask"] = torch.full((6,), torch.nan)
    if mask == "as in the file":
        state[f"{name}_mask"] = torch.tensor([1.0, 1, 0, 0, 1, 1])
    translated = released_weights.convert_released(state)
    assert translated == {"backbone.blocks.0.attention.qkv.bias": pytest.approx(torch.tensor([1.0, 2, 0, 0, 5, 6]))}


def write_released_file(path: Path, change: dict[str, Any]) -> Path:
    """Write a released file with all entries as views of one number: small on disk, with the right shapes."""
    layout = json.loads((GOLDEN / "state_dict_layout.json").read_text())
    state = {name: torch.zeros(1).expand(shape) for name, shape in layout.items()}
    state.update(change)
    torch.save({"model_state_dict": {name: value for name, value in state.items() if value is not None}}, path)
    return path


def test_constants_may_be_absent_and_unknown_names_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layout = json.loads((GOLDEN / "state_dict_layout.json").read_text())
    constants = [name for name in layout if released_weights.RELEASED_CONSTANTS.match(name)]
    change: dict[str, Any] = dict.fromkeys(constants)
    change |= {"criterion.weight": torch.zeros(3), "decoder.extra": torch.zeros(2)}
    checkpoint.load_network(write_released_file(tmp_path / "r.pt", change))
    (record,) = caplog.records
    assert "2 tensors" in record.getMessage()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"full_body_decoder.queries.weight": None}, ("missing", "decoder.queries")),
        ({"full_body_decoder.queries.weight": torch.zeros(50, 1024)}, ("misshapen", "(50, 1024)", "(100, 1024)")),
        ({"encoder.backbone.cls_token": torch.zeros(1, 1, 768)}, ("misshapen", "class_token")),
    ],
)
def test_another_architecture_is_refused(tmp_path: Path, change: dict[str, Any], words: tuple[str, ...]) -> None:
    assert_refused(write_released_file(tmp_path / "other.pt", change), *words)


QKV_BIAS = "encoder.backbone.blocks.0.attn.qkv.bias"
ROW = torch.zeros(4, 4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({QKV_BIAS: torch.tensor(1.0)}, ("misshapen", "qkv.bias ()")),
        ({QKV_BIAS: torch.zeros(3, 1024)}, ("misshapen", "qkv.bias (3, 1024)")),
        ({"a": torch.quantize_per_tensor(ROW, 0.1, 0, torch.qint8)}, ("dense tensors of real numbers",)),
        ({"a": ROW.to_sparse()}, ("dense tensors of real numbers",)),
        ({"a": ROW.to("meta")}, ("dense tensors of real numbers",)),
        ({"a": ROW.to(torch.complex64)}, ("dense tensors of real numbers",)),
    ],
    ids=["scalar", "matrix", "quantized", "sparse", "without values", "complex"],
)
def test_unusual_tensors_are_refused(tmp_path: Path, change: dict[str, Any], words: tuple[str, ...]) -> None:
    assert_refused(write_released_file(tmp_path / "other.pt", change), *words)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    state = small_network().state_dict()
    state["person.pose.2.bias"] = torch.full_like(state["person.pose.2.bias"], value)
    header = read_header(save_small_network(tmp_path / "a.safetensors"))
    save_file(state, tmp_path / "broken.safetensors", metadata=header)
    assert_refused(tmp_path / "broken.safetensors", "not finite in person.pose.2.bias")


def read_header(path: Path) -> dict[str, str]:
    with safetensors.safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def test_a_network_with_shared_tensors_is_saved(tmp_path: Path) -> None:
    network = small_network()
    network.backbone.norm.bias = network.backbone.norm.weight
    checkpoint.save_network(network, tmp_path / "a.safetensors")
    again = checkpoint.load_network(tmp_path / "a.safetensors")
    assert torch.equal(again.backbone.norm.bias, network.backbone.norm.weight)


class Malice:
    """Object that runs code if it is unpickled without protection."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.witness,))


@pytest.mark.parametrize("raw", [False, True], ids=["torch.save", "bare pickle"])
def test_code_in_a_file_is_never_run(tmp_path: Path, raw: bool) -> None:
    witness, path = tmp_path / "witness", tmp_path / "malice.pt"
    content = {"model_state_dict": {"a": torch.zeros(1)}, "extra": Malice(witness)}
    if raw:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    assert_refused(path)
    assert not witness.exists()
    if not raw:
        assert_refused(path, "--accept-risk", "weights convert")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.pt", b"<!DOCTYPE html><html>404</html>", "web page"),
        ("a.safetensors", b"\n <html><head>", "web page"),
        ("a.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n", "git lfs pull"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        ("a.pt", b"", "is empty"),
        ("a.safetensors", b"", "is empty"),
        ("a.bin", b"\x1f\x8b\x08\x00 of gzip", "not a PyTorch file"),
        ("a.pt", b'{"error": "not found"}', "not a PyTorch file"),
        ("a.pth", b"cposix\nsystem\n(S'true'\ntR.", "not a PyTorch file"),
        ("a.safetensors", b"PK\x03\x04 of a zip file", "rename it to a.pt"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    """Results of a wrong download, clone or name: the message never suggests accepting a risk."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as caught:
        checkpoint.load_network(tmp_path / name)
    assert "accept-risk" not in str(caught.value)
    with pytest.raises(UserError, match=words):
        checkpoint.convert_weights(tmp_path / name, tmp_path / "out.safetensors", allow_pickle=True)


def test_safetensors_under_another_name(small_checkpoint: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "weights.v1.pt"
    renamed.write_bytes(small_checkpoint.read_bytes())
    with pytest.raises(UserError, match=r"is a safetensors file; rename it to weights\.v1\.safetensors"):
        checkpoint.load_network(renamed)


def test_names_of_parallel_training() -> None:
    state = {"full_body_decoder.queries.weight": torch.zeros(2), "encoder.backbone.cls_token": torch.zeros(3)}
    parallel = {f"module.{name}": value for name, value in state.items()}
    assert released_weights.convert_released(parallel).keys() == released_weights.convert_released(state).keys()


def test_convert_takes_a_risky_file_only_when_told(tmp_path: Path) -> None:
    source, target = tmp_path / "source.pt", tmp_path / "target.safetensors"
    layout = json.loads((GOLDEN / "state_dict_layout.json").read_text())
    state = {name: torch.zeros(1).expand(shape) for name, shape in layout.items()}
    torch.save({"model_state_dict": state, "options": Malice(tmp_path / "witness")}, source)
    with pytest.raises(UserError):
        checkpoint.convert_weights(source, target)
    assert not (tmp_path / "witness").exists()
    assert not target.exists()
    assert released_weights.read_released(source, allow_pickle=True).keys() == layout.keys()
    assert (tmp_path / "witness").exists(), "the risk that --accept-risk names is real"


def test_convert_from_ours(small_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint.convert_weights(small_checkpoint, tmp_path / "copy.safetensors")
    assert checkpoint.load_network(tmp_path / "copy.safetensors").config == SMALL
    assert [path.name for path in tmp_path.iterdir()] == ["copy.safetensors"]
    with pytest.raises(UserError, match=r"\.safetensors"):
        checkpoint.convert_weights(small_checkpoint, tmp_path / "copy.pt")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x80\x02}q", b"just text", bytes(1000)])
def test_damaged_released_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.pt"
    path.write_bytes(content)
    assert_refused(path)


def test_truncated_files(small_checkpoint: Path, tmp_path: Path) -> None:
    released = write_released_file(tmp_path / "whole.pt", {})
    for source in (small_checkpoint, released):
        content = source.read_bytes()
        for length in (1, 7, 100, len(content) // 2, len(content) - 1):
            path = tmp_path / f"cut_{length}{source.suffix}"
            path.write_bytes(content[:length])
            assert_refused(path)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, {"model_state_dict": {"a": 1}}, torch.zeros(3)])
def test_other_contents_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.pt")
    assert_refused(tmp_path / "other.pt", "released layout")


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (None, ("not written by multihmr2",)),
        ({"format": "pt"}, ("not written by multihmr2",)),
        ({"format": "multihmr2_ros", "format_version": "2"}, ("not written by multihmr2",)),
        ({"format": "a\nb" + "c" * 999}, ("not written by multihmr2", "'a\\nbccc")),
        ({"format": "multihmr2_ros", "format_version": "1"}, ("no readable network configuration",)),
        (
            {"format": "multihmr2_ros", "format_version": "1", "network": f'{{"queries": {"9" * 5000}}}'},
            ("no readable",),
        ),
        ({"format": "multihmr2_ros", "format_version": "1", "network": "{"}, ("no readable network configuration",)),
        ({"format": "multihmr2_ros", "format_version": "1", "network": "[" * 9999}, ("no readable",)),
        ({"format": "multihmr2_ros", "format_version": "1", "network": '{"depth": 3}'}, ()),
        ({"format": "multihmr2_ros", "format_version": "1", "network": '{"queries": -1}'}, ()),
        ({"format": "multihmr2_ros", "format_version": "1", "network": "{}"}, ("missing",)),
    ],
)
def test_safetensors_of_others(tmp_path: Path, metadata: dict[str, str] | None, words: tuple[str, ...]) -> None:
    path = tmp_path / "theirs.safetensors"
    save_file({"a": torch.zeros(2)}, path, metadata=metadata)
    with pytest.raises(UserError) as caught:
        checkpoint.load_network(path)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert_refused(tmp_path / "nothing.pt", "does not exist")
    assert_refused(tmp_path, "does not exist")


def test_our_files_hold_no_code(tmp_path: Path) -> None:
    with safetensors.safe_open(save_small_network(tmp_path / "a.safetensors"), framework="np") as file:
        assert set(file.metadata()) == {"format", "format_version", "network"}
        assert NetworkConfig.from_dict(json.loads(file.metadata()["network"])) == SMALL
        assert all(file.get_tensor(name).dtype == np.float32 for name in file.keys())  # noqa: SIM118


def test_unknown_names_are_reported_at_bounded_length() -> None:
    with pytest.raises(UserError, match="unknown names 'depth', 'layers'; ") as caught:
        NetworkConfig.from_dict({"layers": 3, "depth": 1})
    assert "newer version" in str(caught.value)
    with pytest.raises(UserError) as caught:
        NetworkConfig.from_dict({f"name_{number}": 0 for number in range(1000)})
    assert len(str(caught.value)) < 320


@pytest.mark.parametrize(
    "values",
    [{"queries": 0}, {"queries": 1.5}, {"queries": True}, {"encoder_heads": 5}, {"image_size": 2000}, {"layers": 3}],
)
def test_impossible_configurations_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        NetworkConfig.from_dict(values)
