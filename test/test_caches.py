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

"""Cache locations: from environment variables, in the home folder, and for users without a writable folder."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from multihmr2_ros import caches
from multihmr2_ros.cli import doctor

VARIABLES = ("XDG_CACHE_HOME", "ANNY_CACHE_DIR", "WARP_CACHE_PATH", "MULTIHMR2_WEIGHTS", "ROS_LOG_DIR", "ROS_HOME")
needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become a user without a home"
)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Set up a writable home, no variables, a temporary folder for the test, and no warnings printed yet."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(caches.tempfile, "tempdir", str(tmp_path / "tmp"))
    caches._find_writable.cache_clear()


def without_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a user who is unknown to the system."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(caches.Path, "home", staticmethod(_no_home))


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def put_cache(folder: Path) -> Path:
    (folder / "v14").mkdir(parents=True)
    (folder / "v14" / "model.safetensors").touch()
    return folder


def test_the_order_of_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert (caches.find_body_cache(), caches.find_kernel_cache()) == (
        home / ".cache" / "anny",
        home / ".cache" / "warp",
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert (caches.find_body_cache(), caches.find_kernel_cache()) == (
        tmp_path / "xdg" / "anny",
        tmp_path / "xdg" / "warp",
    )
    monkeypatch.setenv("ANNY_CACHE_DIR", "~/bodies")
    monkeypatch.setenv("WARP_CACHE_PATH", str(tmp_path / "kernels"))
    assert (caches.find_body_cache(), caches.find_kernel_cache()) == (home / "bodies", tmp_path / "kernels")


def test_a_cache_that_is_there_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In ~/.cache, if it was built before XDG_CACHE_HOME was set; also if it is read-only."""
    there = put_cache(tmp_path / "home" / ".cache" / "anny")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert caches.find_body_cache() == there
    monkeypatch.setattr(caches, "is_writable", lambda folder: False)
    assert caches.find_body_cache() == there


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "ANNY_CACHE_DIR", "no home"])
def test_a_temporary_folder_is_used_and_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, variable: str
) -> None:
    if variable == "no home":
        without_home(monkeypatch)
        expected = "there is no home folder"
    else:
        (tmp_path / "home").rmdir()
        (tmp_path / "home").touch()  # a file: not even root can create anything in it
        monkeypatch.setenv(variable, str(tmp_path / "home" / "below"))
        expected = "is not writable"
    found = [caches.find_body_cache() for _ in range(2)]
    assert found == [tmp_path / "tmp" / f"multihmr2-{os.getuid()}" / "anny"] * 2
    assert stat.S_IMODE(found[0].parent.stat().st_mode) == 0o700
    assert len(caplog.messages) == 1
    assert expected in caplog.messages[0]
    assert "set XDG_CACHE_HOME or ANNY_CACHE_DIR" in caplog.messages[0]


def test_a_folder_that_others_prepared_is_not_used(tmp_path: Path) -> None:
    """A link, or a folder that others may write: they could place files there for the package to read."""
    place = tmp_path / "tmp" / f"multihmr2-{os.getuid()}"
    (tmp_path / "elsewhere").mkdir()
    place.symlink_to(tmp_path / "elsewhere")
    assert caches.make_temporary_cache() != place
    place.unlink()
    place.mkdir()
    place.chmod(0o777)
    assert caches.make_temporary_cache() != place


def test_imports_need_no_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    with caches.ensure_home():
        assert os.environ["HOME"].endswith("home")
    without_home(monkeypatch)
    with caches.ensure_home():
        assert Path(os.environ["HOME"]).is_dir()
    assert "HOME" not in os.environ


@pytest.fixture(scope="module", autouse=True)
def start_warp_first(warp_started: None) -> None: ...


def test_the_doctor_tries_the_kernels_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (check,) = doctor.check_kernels()
    assert (check.status, check.detail) == ("ok", "Warp works, cache in ~/.cache/warp")
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setattr(caches, "find_kernel_cache", lambda: blocked / "warp")
    (check,) = doctor.check_kernels()
    assert check.status == "missing"
    assert "is not writable" in check.detail


COMMAND_END = "--- end of a command\n"
RUN_COMMANDS = f"""
import json, sys
from multihmr2_ros.cli.main import main
for command in json.loads(sys.argv[1]):
    status = main(command)
    sys.stderr.write({COMMAND_END!r})
    if status:
        sys.exit(status)
"""


@needs_root
@pytest.mark.parametrize("home", ["/", None], ids=["HOME=/", "no HOME"])
def test_run_and_doctor_as_a_user_without_a_home(home: str | None, small_checkpoint: Path, tmp_path: Path) -> None:
    """As with `docker run --user 12345`: the body model's cache exists, and only the temporary folder is writable."""
    import pwd

    real = Path(pwd.getpwuid(os.geteuid()).pw_dir)
    out = tmp_path / "out"
    out.mkdir(mode=0o777)
    out.chmod(0o777)
    (tmp_path / "tmp").chmod(0o777)
    kept = {name: value for name, value in os.environ.items() if name not in (*VARIABLES, "HOME", "USER", "LOGNAME")}
    environment = kept | {"ANNY_CACHE_DIR": str(real / ".cache" / "anny"), "TMPDIR": str(tmp_path / "tmp")}
    if home is not None:
        environment["HOME"] = home
    reading = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", "--inh-caps=+dac_read_search",
               "--ambient-caps=+dac_read_search"]  # fmt: skip
    image = out / "image.png"
    _write_image(image)
    options = ["--checkpoint", str(small_checkpoint), "--device", "cpu", "--mesh", "low", "--save", "params"]
    commands = ["run", str(image), "--out", str(out), *options], ["doctor"]
    command = [*reading, sys.executable, "-c", RUN_COMMANDS, json.dumps(commands)]
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (out / "image.npz").is_file()
    assert "is ready" in done.stdout
    by_run, by_doctor = done.stderr.split(COMMAND_END)[:2]
    assert "Traceback" not in by_run
    assert "temporary cache folder" not in by_run  # only rendering needs Warp's cache
    assert by_doctor.count("temporary cache folder") == 1


def _write_image(path: Path) -> None:
    import cv2
    import numpy as np

    assert cv2.imwrite(str(path), np.zeros((48, 64, 3), np.uint8))
