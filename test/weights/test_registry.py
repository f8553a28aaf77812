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

"""Checkpoints: the registry, and the conversion of a name or a file to a path."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from multihmr2_ros import UserError, weights
from multihmr2_ros.weights import Weights, compute_sha256, find_weights_folder, format_size, resolve_checkpoint
from test.helpers.weights_server import CONTENT, entry, one_line

pytestmark = pytest.mark.usefixtures("empty_weights_folder")


def test_registry_entries_are_complete() -> None:
    assert len({known.name for known in weights.REGISTRY}) == len(weights.REGISTRY)
    for known in weights.REGISTRY:
        assert re.fullmatch(r"[0-9a-f]{64}", known.sha256)
        assert Path(known.file_name).name == known.file_name
        assert known.bundled == (known.url is None)
        assert known.url is None or known.url.startswith("https://")
        assert not known.bundled or known.is_downloaded()


def test_released_checkpoint_is_for_non_commercial_use() -> None:
    released = weights.find_weights("multihmr2")
    assert not released.commercial_use
    assert "non-commercial" in released.license_summary


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"MULTIHMR2_WEIGHTS": "/a/b", "XDG_CACHE_HOME": "/c"}, "/a/b"),
        ({"MULTIHMR2_WEIGHTS": "~/w"}, "/home/x/w"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/multihmr2"),
        ({"MULTIHMR2_WEIGHTS": "", "XDG_CACHE_HOME": ""}, "/home/x/.cache/multihmr2"),  # empty means unset
        ({}, "/home/x/.cache/multihmr2"),
    ],
)
def test_weights_folder(environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MULTIHMR2_WEIGHTS")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in {"HOME": "/home/x", **environment}.items():
        monkeypatch.setenv(name, value)
    assert find_weights_folder() == Path(expected)


def test_resolve_prefers_a_name_and_takes_any_file(
    tiny: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny").write_bytes(b"a file that is called like a registry entry")
    with pytest.raises(UserError, match=r"'tiny' is not on this machine: `multihmr2 weights fetch tiny` downloads it"):
        resolve_checkpoint("tiny")
    assert resolve_checkpoint("./tiny") == Path("tiny")
    tiny.path().parent.mkdir()
    tiny.path().write_bytes(CONTENT)
    assert resolve_checkpoint("tiny") == tmp_path / "weights" / "tiny.pt"
    assert resolve_checkpoint(tmp_path / "tiny") == tmp_path / "tiny"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.pt", "'x.pt' does not exist: give a file, or one of the names tiny"),
        (".", "'.' is a folder: expected a .pt or .safetensors file"),
        ("~no-such-user/x.pt", "~no-such-user in ~no-such-user/x.pt is no known home folder"),
        ("", "'' is a folder"),  # Path("") is the current folder
        ("x" * 5000, "does not exist"),  # longer than the limit of file names
        ("a\0b", "does not exist"),
        ("/etc/passwd/x.pt", "does not exist"),  # a file in place of a folder
    ],
)
def test_resolve_refuses(name: str, message: str, tiny: Weights) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as error:
        resolve_checkpoint(name)
    one_line(error)


def test_missing_bundled_file_means_a_broken_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = entry(None, file_name="no-such-file.safetensors", bundled=True)
    monkeypatch.setattr(weights, "REGISTRY", (bundled,))
    assert bundled.path().parent == Path(weights.__file__).parent
    with pytest.raises(UserError, match="reinstall multihmr2_ros"):
        resolve_checkpoint("tiny")


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (None, "size unknown"),
        (0, "0.0 kB"),
        (700_001, "700.0 kB"),
        (35_400_000, "35 MB"),
        (1_613_000_000, "1.6 GB"),
    ],
)
def test_size_text(size_bytes: int | None, text: str) -> None:
    assert format_size(size_bytes) == text


def test_sha256_of_an_empty_and_a_large_file(tmp_path: Path) -> None:
    for content in (b"", CONTENT * 4):  # more than one block
        (tmp_path / "file").write_bytes(content)
        assert compute_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
    with pytest.raises(UserError, match="cannot read"):
        compute_sha256(tmp_path / "absent")
