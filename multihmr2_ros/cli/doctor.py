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

"""`multihmr2 doctor`: reports installed and missing parts, with the commands to install them.

It also works with an incomplete installation.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import importlib.util
import io
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

from multihmr2_ros import __version__, caches
from multihmr2_ros import weights as registry
from multihmr2_ros.cli.requirements import Requirement, find_installed_version, is_in_range, list_requirements
from multihmr2_ros.hardware import count_available_cores, list_bf16_instructions, read_cpu_description
from multihmr2_ros.weights import find_weights_folder, format_size

HELP = "check the installation, and print the commands that install missing parts"

Status = Literal["ok", "missing", "optional"]

BODY_CACHE_BYTES = 950_000_000  # of Anny 0.6.2, measured: 930 MB with the full mesh, 18 MB more with the low one
MODULES = {  # of packages whose module has another name
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "rosbags-image": "rosbags.image",
}
DEFAULT_DISTRO = "jazzy"
MESSAGE_PACKAGES = (
    "std_msgs",
    "std_srvs",
    "geometry_msgs",
    "sensor_msgs",
    "diagnostic_msgs",
    "visualization_msgs",
    "tf2_msgs",
)


@dataclass(frozen=True)
class Check:
    """One line of the report.

    status   "ok"; "missing": required by `multihmr2 run`; "optional": not required by `run`
    command  command that installs or repairs it; "" if no action is needed
    """

    section: str
    name: str
    status: Status
    detail: str
    command: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    checks = run_checks()
    can_run = all(check.status != "missing" for check in checks)
    if args.json:
        report = {
            "version": __version__,
            "can_run": can_run,
            "checks": [dataclasses.asdict(check) for check in checks],
        }
        print(json.dumps(report, indent=2))
    else:
        print(format_report(checks, can_run))
    return 0 if can_run else 2


def run_checks() -> list[Check]:
    """Run all checks of this machine. An exception in a check becomes a line of the report; the others continue."""
    # The status of the line if the check raises: "missing" if `run` needs the checked item.
    probes: tuple[tuple[str, Status, Callable[[], Iterable[Check]]], ...] = (
        ("system", "optional", check_system),
        ("packages", "missing", check_packages),
        ("gpu", "optional", check_gpu),
        ("body model", "missing", check_body_model),
        ("body model", "missing", check_kernels),
        ("weights", "missing", check_weights),
        ("ros", "optional", check_ros),
        ("extras", "optional", check_extras),
    )
    checks: list[Check] = []
    for section, failed, probe in probes:
        try:
            checks.extend(probe())
        except Exception as error:  # a failing check must not end the report
            checks.append(Check(section, section, failed, f"this check failed: {_to_one_line(error)}"))
    return checks


def format_report(checks: list[Check], can_run: bool) -> str:
    width = max(len(check.name) for check in checks)
    lines = [f"multihmr2 {__version__}"]
    section = ""
    for check in checks:
        if check.section != section:
            section = check.section
            lines += ["", section]
        lines.append(f"  {check.status:<8}  {check.name:<{width}}  {check.detail}")
        if check.command:
            lines.append(f"  {'':<8}  {'':<{width}}  -> {check.command}")
    missing = sum(check.status == "missing" for check in checks)
    lines += ["", "`multihmr2 run` is ready" if can_run else f"`multihmr2 run` is not ready: {missing} missing"]
    return "\n".join(lines)


# --- system ---------------------------------------------------------------------------------------------------------


def check_system() -> Iterator[Check]:
    python = f"{platform.python_version()} ({platform.python_implementation()})"
    yield Check("system", "python", "ok", f"{python}, {platform.platform(terse=True)}, {platform.machine()}")
    yield Check(
        "system",
        "cpu",
        "ok",
        f"{count_available_cores()} cores; {describe_bf16(list_bf16_instructions(read_cpu_description()))}",
    )


def describe_bf16(instructions: tuple[str, ...] | None) -> str:
    """Describe the processor's bf16 instruction sets; None: unknown."""
    if instructions is None:
        return "instruction sets unknown"
    return f"bf16 with {', '.join(instructions)}" if instructions else "no bf16 instructions; fp32 is used"


# --- packages -------------------------------------------------------------------------------------------------------


def check_packages() -> Iterator[Check]:
    """Check the required packages: installed, in range, and importable (which finds broken shared libraries)."""
    for requirement in list_requirements():
        if not requirement.extra:
            yield check_package(requirement)


def check_package(requirement: Requirement) -> Check:
    name, wanted = requirement.name, requirement.version_range or "any version"
    module, error = _try_import(MODULES.get(name, name.replace("-", "_")))
    # The package of a Linux distribution may have another name (python3-opencv): then the module's version is used.
    version = find_installed_version(name) or getattr(module, "__version__", None)
    command = requirement.install_command()
    if error is not None and version is None:
        return Check("packages", name, "missing", f"not installed, needs {wanted}", command)
    if error is not None:
        reinstall = command.replace("pip install", "pip install --force-reinstall", 1)
        return Check("packages", name, "missing", f"{version}, cannot be imported: {error}", reinstall)
    fits = is_in_range(version, requirement.version_range)
    if fits is None:
        return Check("packages", name, "ok", f"{version or 'version unknown'} (not compared with {wanted})")
    if not fits:
        return Check("packages", name, "missing", f"{version}, needs {wanted}", command)
    return Check("packages", name, "ok", f"{version}")


def _try_import(module: str) -> tuple[ModuleType | None, str | None]:
    """Import a module without its output. Returns the module and None, or None and the error."""
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        try:
            with caches.ensure_home():
                if module != "anny":
                    return importlib.import_module(module), None
                from multihmr2_ros.body import import_anny  # without PyTorch's compiler, in half the time

                return import_anny(), None
        except Exception as error:  # compiled packages fail in ways other than ImportError
            return None, _to_one_line(error)


def check_extras() -> Iterator[Check]:
    """Check the packages of the extras, by their metadata only."""
    for requirement in list_requirements():
        if not requirement.extra or requirement.name == "multihmr2_ros":
            continue
        version = find_installed_version(requirement.name)
        fits = version is not None and is_in_range(version, requirement.version_range) is not False
        yield Check(
            "extras",
            requirement.name,
            "ok" if fits else "optional",
            f"{version or 'not installed'} [{requirement.extra}]"
            + ("" if fits else f", needs {requirement.version_range or 'any version'}"),
            "" if fits else requirement.install_command(),
        )


# --- gpu ------------------------------------------------------------------------------------------------------------


def check_gpu() -> Iterator[Check]:
    torch, error = _try_import("torch")
    driver = _read_driver_version()
    if torch is None:
        yield Check("gpu", "gpu", "optional", f"unknown without torch ({error})")
    elif torch.cuda.is_available():
        yield from _check_cuda(driver)
    elif driver is not None and torch.version.cuda is None:
        again = "pip install --force-reinstall torch"
        yield Check(
            "gpu", "gpu", "optional", f"driver {driver} is installed, but this torch is built without CUDA", again
        )
    elif driver is not None:
        yield Check("gpu", "gpu", "optional", f"driver {driver} is installed, but torch cannot use it", "nvidia-smi")
    else:
        yield Check("gpu", "gpu", "optional", "none found; the CPU is used")


def _check_cuda(driver: str | None) -> Iterator[Check]:
    import torch

    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        yield Check(
            "gpu",
            f"cuda:{index}",
            "ok",
            f"{device.name}, {format_size(device.total_memory)}, compute {device.major}.{device.minor}, "
            f"CUDA {torch.version.cuda}, driver {driver or 'version unknown'}",
        )


def _read_driver_version() -> str | None:
    """Return the version of NVIDIA's kernel driver; None if it is not loaded."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", text)
    return found[1] if found else "version unknown"


# --- files ----------------------------------------------------------------------------------------------------------


def check_body_model() -> Iterator[Check]:
    """Check Anny's cache: whether it exists and is complete, otherwise the time and space needed at first use."""
    folder = caches.find_body_cache()
    files = sorted(folder.glob("v*/*.safetensors"))
    damaged = [file for file in files if _is_damaged(file)]
    free_bytes = _measure_free_bytes(folder)
    place = f"{_shorten_path(folder)}, {format_size(free_bytes)} free"
    if damaged:
        command = f"rm {' '.join(shlex.quote(str(file)) for file in damaged)}"
        yield Check("body model", "cache", "missing", f"{len(damaged)} damaged files in {place}", command)
    elif files:
        size = sum(file.stat().st_size for file in files)
        yield Check("body model", "cache", "ok", f"{format_size(size)} in {place}")
    elif free_bytes < BODY_CACHE_BYTES or not caches.is_writable(folder):
        needed = f"the first use builds it and needs {format_size(BODY_CACHE_BYTES)} in a writable folder"
        command = "export ANNY_CACHE_DIR=/path/to/writable/folder"
        yield Check("body model", "cache", "missing", f"{needed}: {place}", command)
    else:
        needed = f"the first use builds it (less than a minute, {format_size(BODY_CACHE_BYTES)})"
        yield Check("body model", "cache", "optional", f"{needed}, in {place}")


def check_kernels() -> Iterator[Check]:
    """Check Warp, which the body model needs, and its kernel cache. Starts Warp as `run` does."""
    folder = caches.find_kernel_cache()
    quiet = io.StringIO()
    try:
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            import warp  # noqa: F401

            from multihmr2_ros.body import start_warp

            start_warp()
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
    except ImportError:
        return  # reported by check_packages
    except OSError as error:
        detail = f"Warp's cache folder {_shorten_path(folder)} is not writable: {error.strerror or error}"
        yield Check("body model", "kernels", "missing", detail, "export WARP_CACHE_PATH=/path/to/writable/folder")
    else:
        yield Check("body model", "kernels", "ok", f"Warp works, cache in {_shorten_path(folder)}")


def _is_damaged(file: Path) -> bool:
    """Return whether a .safetensors file is truncated, for example after a killed build."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        return False
    try:
        with safe_open(str(file), framework="numpy"):
            return False
    except (SafetensorError, OSError):
        return True


def check_weights() -> Iterator[Check]:
    """Check which checkpoints exist; `multihmr2 weights verify` reads them."""
    some_here = any(weights.is_downloaded() for weights in registry.REGISTRY)
    for weights in registry.REGISTRY:
        if weights.is_downloaded():
            detail = f"{format_size(weights.path().stat().st_size)}, {_shorten_path(weights.path())}"
            yield Check("weights", weights.name, "ok", detail)
        else:
            terms = "" if weights.commercial_use else ", for non-commercial use only"
            detail = f"not on this machine ({format_size(weights.size_bytes)}{terms})"
            command = f"multihmr2 weights fetch {weights.name}"
            yield Check("weights", weights.name, "optional" if some_here else "missing", detail, command)
    folder = find_weights_folder()
    yield Check("weights", "folder", "ok", f"{_shorten_path(folder)}, {format_size(_measure_free_bytes(folder))} free")


def _measure_free_bytes(folder: Path) -> int:
    """Return the free space at the folder, or at its parent if it will be created."""
    return shutil.disk_usage(_find_existing_folder(folder)).free


def _find_existing_folder(folder: Path) -> Path:
    """Return the folder, or its nearest existing parent."""
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


def _shorten_path(path: Path) -> str:
    """Return the path with the home folder as ~, so that reports can be shared."""
    home = caches.find_home_folder()
    return str(path) if home is None or not path.is_relative_to(home) else f"~/{path.relative_to(home)}"


# --- ros ------------------------------------------------------------------------------------------------------------


def check_ros() -> Iterator[Check]:
    """Check the requirements of the node; all other commands work without them."""
    distro = os.environ.get("ROS_DISTRO", DEFAULT_DISTRO)
    if importlib.util.find_spec("rclpy") is None:
        yield Check(
            "ros", "rclpy", "optional", "not sourced in this shell; only the node needs it", find_ros_command(distro)
        )
        return
    yield check_rclpy(distro)
    for package in MESSAGE_PACKAGES:
        if importlib.util.find_spec(package) is None:
            command = f"sudo apt install ros-{distro}-{package.replace('_', '-')}"
            yield Check("ros", package, "optional", "not installed; the node needs it", command)
    if importlib.util.find_spec("multihmr2_ros.msg") is None:
        build = "colcon build --packages-select multihmr2_ros && source install/setup.bash"
        yield Check("ros", "multihmr2_ros.msg", "optional", "not built, or not sourced; the node needs it", build)
    else:
        yield Check("ros", "multihmr2_ros.msg", "ok", "built")


def find_ros_command(distro: str) -> str:
    installed = sorted(Path("/opt/ros").glob("*/setup.bash"))
    return f"source {installed[-1]}" if installed else f"sudo apt install ros-{distro}-ros-base"


def check_rclpy(distro: str) -> Check:
    """Check rclpy and its middleware in a separate process: rcl exits if RMW_IMPLEMENTATION cannot be loaded."""
    program = "import rclpy.utilities as u; print(u.get_rmw_implementation_identifier())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    if done.returncode == 0:
        detail = f"ROS_DISTRO={os.environ.get('ROS_DISTRO', 'not set')}, middleware {done.stdout.strip()}"
        return Check("ros", "rclpy", "ok", detail)
    errors = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    middleware = os.environ.get("RMW_IMPLEMENTATION", "")
    if middleware and middleware in done.stderr:
        command = f"sudo apt install ros-{distro}-{middleware.replace('_', '-')}"
    else:
        command = find_ros_command(distro)
    return Check("ros", "rclpy", "optional", f"cannot be loaded; the node needs it: {errors[-1]}", command)


def _to_one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
