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

"""`multihmr2 doctor`: its report on this machine and on broken ones, and its exit status."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import multihmr2_ros
from multihmr2_ros import weights
from multihmr2_ros.cli import doctor, requirements
from multihmr2_ros.cli.doctor import Check
from multihmr2_ros.cli.main import main
from multihmr2_ros.cli.requirements import Requirement
from multihmr2_ros.hardware import list_bf16_instructions

SOURCE = Path(multihmr2_ros.__file__).parents[1]

# Runs at interpreter startup: hides modules, and ends the process at the first connection.
SITE_CUSTOMIZE = """
import os, socket, sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if {name, name.partition(".")[0]} & set(os.environ["HIDDEN"].split()):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
def connect(*_):
    os._exit(99)
socket.socket.connect = socket.socket.connect_ex = connect
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home folder that contains the released checkpoint's file (the doctor does not read it)."""
    home = tmp_path_factory.mktemp("doctor") / "home"
    folder = home / ".cache" / "multihmr2"
    folder.mkdir(parents=True)
    (folder / "multihmr2.pt").write_bytes(bytes(2_500_000))
    return home


def run_doctor(home: Path, *options: str, hidden: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command in its own process, with those modules hidden and without a network."""
    site = home.parent / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(SITE_CUSTOMIZE)
    kept = {name: value for name, value in os.environ.items() if name not in ("MULTIHMR2_WEIGHTS", "ANNY_CACHE_DIR")}
    environment = kept | {
        "HOME": str(home),
        "XDG_CACHE_HOME": "",
        "HIDDEN": hidden,
        "PYTHONPATH": os.pathsep.join([str(site), str(SOURCE), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "multihmr2_ros.cli.main", "doctor", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def by_name(report: str) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in json.loads(report)["checks"]}


@pytest.fixture(scope="module")
def text(home: Path) -> str:
    done = run_doctor(home, hidden="torch._dynamo")  # the report does not wait for PyTorch's compiler
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_report_of_this_machine(text: str, home: Path) -> None:
    assert text.startswith(f"multihmr2 {multihmr2_ros.__version__}\n")
    assert text.endswith("\n`multihmr2 run` is ready\n")
    lines = [line.split() for line in text.splitlines()]
    assert ["ok", "torch", metadata.version("torch")] in lines
    assert ["ok", "opencv-python-headless", metadata.version("opencv-python-headless")] in lines
    assert any(line[:3] == ["ok", "python", platform.python_version()] for line in lines)
    assert ["ok", "multihmr2", "2", "MB,", "~/.cache/multihmr2/multihmr2.pt"] in lines
    assert str(home) not in text  # reports are shared: the home folder, which contains the user's name, is shown as ~
    for section in ("system", "packages", "gpu", "body model", "weights", "ros", "extras"):
        assert f"\n\n{section}\n" in text


def test_json_says_the_same(
    text: str,
    home: Path,
    warp_started: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("MULTIHMR2_WEIGHTS", "ANNY_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["can_run"] is True
    assert len(report["checks"]) > 15
    for check in report["checks"]:
        assert set(check) == {field.name for field in dataclasses.fields(Check)}
        assert check["status"] in ("ok", "missing", "optional")
        assert check["name"] in text
        if "free" not in check["detail"]:  # the free space changes between the two reports
            assert check["detail"] in text
        assert check["command"] in text


def test_report_without_the_large_packages(home: Path) -> None:
    done = run_doctor(home, "--json", hidden="torch anny cv2 av requests safetensors tqdm trimesh packaging")
    assert (done.returncode, done.stderr) == (2, "")
    checks = by_name(done.stdout)
    for name in ("torch", "anny", "opencv-python-headless", "av", "requests", "safetensors", "tqdm", "trimesh"):
        assert checks[name]["status"] == "missing"
        assert "ModuleNotFoundError" in checks[name]["detail"]
        assert checks[name]["command"].startswith("pip install --force-reinstall ")
    assert checks["numpy"]["status"] == "ok"
    assert "not compared with" in checks["numpy"]["detail"]
    assert checks["gpu"]["detail"].startswith("unknown without torch")

    text = doctor.format_report([Check(**check) for check in checks.values()], can_run=False)
    missing = sum(check["status"] == "missing" for check in checks.values())
    assert text.endswith(f"`multihmr2 run` is not ready: {missing} missing")
    assert "-> pip install --force-reinstall 'torch>=" in text


# --- one probe at a time ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requirement", "status", "detail", "command"),
    [
        (Requirement("numpy", ">=1,<100"), "ok", np.__version__, ""),
        (Requirement("numpy", ""), "ok", np.__version__, ""),
        (Requirement("numpy", "<1"), "missing", f"{np.__version__}, needs <1", "pip install 'numpy<1'"),
        (Requirement("no-such", ">=1,<2"), "missing", "not installed, needs >=1,<2", "pip install 'no-such>=1,<2'"),
        (Requirement("no-such", ""), "missing", "not installed, needs any version", "pip install no-such"),
        # Installed under another distribution's name, as on Ubuntu: the version is read from the module.
        (Requirement("not-by-pip", ">=4"), "ok", "4.6.0", ""),
        (Requirement("not-by-pip", ">=5"), "missing", "4.6.0, needs >=5", "pip install 'not-by-pip>=5'"),
        (Requirement("without-version", ">=5"), "ok", "version unknown (not compared with >=5)", ""),
    ],
)
def test_package_check(
    requirement: Requirement,
    status: str,
    detail: str,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "not_by_pip.py").write_text("__version__ = '4.6.0'\nprint('a banner')")
    (tmp_path / "without_version.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    check = doctor.check_package(requirement)
    assert (check.status, check.detail, check.command) == (status, detail, command)


def test_package_that_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken_package.py").write_text(
        "print('noise')\n__version__ = '1.0'\nraise OSError('libGL.so.1: cannot open shared object file\\nmore')"
    )
    (tmp_path / "broken_package-1.0.dist-info").mkdir()
    (tmp_path / "broken_package-1.0.dist-info" / "METADATA").write_text("Name: broken-package\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    check = doctor.check_package(Requirement("broken-package", ">=1"))
    assert check.status == "missing"
    assert check.detail == "1.0, cannot be imported: OSError: libGL.so.1: cannot open shared object file"
    assert check.command == "pip install --force-reinstall 'broken-package>=1'"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("line", "requirement"),
    [
        ("anny==0.6.2", Requirement("anny", "==0.6.2")),
        ("numpy>=1.26,<3", Requirement("numpy", ">=1.26,<3")),
        ("rosbags", Requirement("rosbags", "")),
        ("torch (>=2.6,<3)", Requirement("torch", ">=2.6,<3")),  # metadata of older tools
        ('opencv-python-headless<6,>=4.9; extra == "eval"', Requirement("opencv-python-headless", "<6,>=4.9", "eval")),
        ("mypy>=1 ; extra == 'test'", Requirement("mypy", ">=1", "test")),
        ("ros-rclpy[fastrtps]==7.1.6", Requirement("ros-rclpy", "==7.1.6")),
    ],
)
def test_requirement_lines(line: str, requirement: Requirement) -> None:
    assert requirements.parse_requirement(line) == requirement


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('tomli>=2,<3; python_version < "3.11"', sys.version_info < (3, 11)),
        ('tomli<3,>=2; python_version < "3.11" and extra == "eval"', sys.version_info < (3, 11)),
        ("tomli<3,>=2; python_version < '4.0'", True),
        ('other; python_version >= "3.10"', True),
        ('other; extra == "eval"', True),
    ],
)
def test_lines_for_other_pythons_do_not_count(line: str, expected: bool) -> None:
    assert requirements.is_for_this_python(line) == expected


def test_requirements_are_those_of_the_source_tree() -> None:
    listed = requirements.list_requirements()
    assert Requirement("anny", "==0.6.2") in listed
    assert [one.name for one in listed if not one.extra].count("torch") == 1
    assert any(one.extra == "test" and one.name == "pytest" for one in listed)


@pytest.mark.parametrize("installed", ["pip", "colcon", "nowhere"])
def test_requirements_of_an_installation(installed: str, tmp_path: Path) -> None:
    folder = tmp_path / "lib"
    shutil.copytree(SOURCE / "multihmr2_ros", folder / "multihmr2_ros")
    share = tmp_path / "prefix" / "share" / "multihmr2_ros"
    if installed == "colcon":
        share.mkdir(parents=True)
        shutil.copy(SOURCE / "setup.cfg", share)
    if installed == "pip":
        information = folder / "multihmr2_ros-0.1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: multihmr2_ros\nVersion: 0.1.0\n"
            'Requires-Dist: anny==0.6.2\nRequires-Dist: pytest<10,>=8; extra == "test"\n'
        )
    program = (
        "from multihmr2_ros.cli.requirements import list_requirements as r; print(*(q.name + q.extra for q in r()))"
    )
    environment = os.environ | {"PYTHONPATH": str(folder), "AMENT_PREFIX_PATH": f"/nowhere:{tmp_path / 'prefix'}"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    if installed == "nowhere":
        assert "reinstall multihmr2_ros" in done.stderr
    else:
        assert {"anny", "pytesttest"} <= set(done.stdout.split())


@pytest.mark.parametrize(
    ("description", "text"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse2 avx512f avx512_bf16 amx_bf16\n", "bf16 with amx_bf16, avx512_bf16"),
        ("flags\t\t: fpu avx512f avx512_bf16\n\nflags\t\t: fpu\n", "bf16 with avx512_bf16"),
        ("Features\t: fp asimd bf16 i8mm\n", "bf16 with bf16"),
        ("flags\t\t: fpu sse2 avx2\n", "no bf16 instructions; fp32 is used"),
        ("vmx flags\t: avx512_bf16\nflags\t\t: fpu\n", "no bf16 instructions; fp32 is used"),
        ("", "instruction sets unknown"),
    ],
)
def test_bf16(description: str, text: str) -> None:
    assert doctor.describe_bf16(list_bf16_instructions(description)) == text


def body_model_check() -> Check:
    (check,) = doctor.check_body_model()
    return check


def test_body_model_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANNY_CACHE_DIR", str(tmp_path / "anny"))
    monkeypatch.setattr(doctor, "BODY_CACHE_BYTES", 1000)
    absent = body_model_check()
    assert absent.status == "optional"
    assert "the first use builds it (less than a minute" in absent.detail

    monkeypatch.setattr(doctor, "BODY_CACHE_BYTES", 10**18)
    without_room = body_model_check()
    assert without_room.status == "missing"
    assert without_room.command.startswith("export ANNY_CACHE_DIR=")

    file = tmp_path / "anny" / "v14" / "load_data.safetensors"
    file.parent.mkdir(parents=True)
    save_file({"x": np.zeros(1000, np.float32)}, file)
    present = body_model_check()
    assert present.status == "ok"
    assert present.detail.startswith("4.1 kB in ")

    whole = file.read_bytes()
    for length in (0, 5, 100, len(whole) - 1):  # an interrupted build
        file.write_bytes(whole[:length])
        damaged = body_model_check()
        assert damaged.status == "missing"
        assert damaged.command == f"rm {file}"


def test_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTIHMR2_WEIGHTS", str(tmp_path / "not" / "made" / "yet"))
    released = weights.find_weights("multihmr2")
    small = dataclasses.replace(released, name="small", file_name="__init__.py", bundled=True, url=None)

    monkeypatch.setattr(weights, "REGISTRY", (released,))
    check, folder = doctor.check_weights()
    assert (check.status, check.command) == ("missing", "multihmr2 weights fetch multihmr2")
    assert "1.6 GB, for non-commercial use only" in check.detail
    assert folder.detail.endswith(" free")

    monkeypatch.setattr(weights, "REGISTRY", (released, small))  # one that is present is enough to run
    assert [check.status for check in doctor.check_weights()] == ["optional", "ok", "ok"]


@pytest.mark.parametrize(
    ("program", "status", "detail", "command"),
    [
        ("", "ok", "ROS_DISTRO=humble, middleware rmw_some_cpp", ""),
        # rcl's behavior if RMW_IMPLEMENTATION names a middleware that is not installed
        (
            "sys.exit(print(\"Expected 'rmw_other_cpp'\", file=sys.stderr) or 102)",
            "optional",
            "cannot be loaded; the node needs it: Expected 'rmw_other_cpp'",
            "sudo apt install ros-humble-rmw-other-cpp",
        ),
        ("os.abort()", "optional", "cannot be loaded; the node needs it: exit status -6", None),
        (
            "raise ImportError('compiled for another Python')",
            "optional",
            "cannot be loaded; the node needs it: ImportError: compiled for another Python",
            None,
        ),
    ],
)
def test_rclpy_that_ends_its_process_is_a_line(
    program: str, status: str, detail: str, command: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rclpy").mkdir()
    (tmp_path / "rclpy" / "__init__.py").write_text(f"import os, sys\n{program}")
    (tmp_path / "rclpy" / "utilities.py").write_text("def get_rmw_implementation_identifier(): return 'rmw_some_cpp'")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("ROS_DISTRO", "humble")
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_other_cpp")
    check = doctor.check_rclpy("humble")
    assert (check.status, check.detail) == (status, detail)
    assert check.command == (doctor.find_ros_command("humble") if command is None else command)


def test_ros_is_not_needed_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "rclpy", raising=False)
    (check,) = doctor.check_ros()
    assert (check.name, check.status) == ("rclpy", "optional")
    assert check.command.startswith(("source /opt/ros/", "sudo apt install ros-"))


def test_a_probe_that_fails_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[Check]:
        raise RuntimeError("CUDA error 999\nsecond line")

    for name in (
        "check_system", "check_packages", "check_body_model", "check_kernels", "check_ros", "check_extras"
    ):  # fmt: skip
        monkeypatch.setattr(doctor, name, list)
    monkeypatch.setattr(doctor, "check_gpu", broken)
    monkeypatch.setattr(doctor, "check_weights", broken)
    assert doctor.run_checks() == [
        Check("gpu", "gpu", "optional", "this check failed: RuntimeError: CUDA error 999"),
        Check("weights", "weights", "missing", "this check failed: RuntimeError: CUDA error 999"),
    ]
