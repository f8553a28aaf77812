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

"""Measurements of `multihmr2 bench`: whole frames and their stages, for each precision, mode and number of people.

The time of a frame is measured from a uint8 image in host memory to `People` in host memory, including tracking. The
score threshold is 0, so that the requested number of people is computed for any image. Stages are measured one by one
in eager mode, with a GPU synchronization after each; their sum is therefore longer than a frame, which has only one.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import functools
import itertools
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from multihmr2_ros import __version__
from multihmr2_ros.body import Mesh, import_anny
from multihmr2_ros.caches import find_body_cache
from multihmr2_ros.camera import ResizePad
from multihmr2_ros.errors import UserError
from multihmr2_ros.estimator import Estimator, EstimatorConfig
from multihmr2_ros.hardware import list_bf16_instructions, read_cpu_description, read_processor_name
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.inference import (
    Inference,
    Mode,
    Precision,
    Runtime,
    convert_network,
    copy_without_tensors,
    limit_threads,
)
from multihmr2_ros.network.model import MultiHMR2, place_bodies
from multihmr2_ros.progress import make_progress_bar

Row = dict[str, Any]
PLAIN = "plain"  # reference: autocast, unmodified Anny, people selected by a mask, each result copied separately


@dataclass(frozen=True)
class BenchmarkConfig:
    """Settings of a benchmark; size (width, height) of the image in px, input_size as in `EstimatorConfig`."""

    device: str
    size: tuple[int, int]
    precisions: tuple[str, ...]
    modes: tuple[str, ...]
    people: tuple[int, ...]
    mesh: Mesh
    repeats: int
    threads: int = 0
    input_size: int | None = None

    @property
    def warm_up(self) -> int:
        """Number of untimed frames per row."""
        return 10 if self.device.startswith("cuda") else 1

    @classmethod
    def for_device(
        cls,
        device: str,
        size: tuple[int, int],
        precisions: tuple[str, ...] | None,
        modes: tuple[str, ...] | None,
        people: tuple[int, ...],
        mesh: Mesh,
        repeats: int | None,
        threads: int = 0,
        input_size: int | None = None,
    ) -> BenchmarkConfig:
        """Return the configuration with the device's defaults for arguments that are None.

        Raises UserError for invalid arguments, before anything slow begins.
        """
        resolved = Runtime(device, threads=threads).resolve()
        device, threads = resolved.device, resolved.threads
        gpu = device.startswith("cuda")
        if precisions is None:
            precisions = ("fp32", "bf16", "fp16") if gpu else ("fp32", "bf16") if _has_cpu_bf16() else ("fp32",)
        if modes is None:
            modes = ("eager", "compiled", "graph", "compiled-graph") if gpu else ("eager",)
        for precision in precisions:
            for mode in modes:
                Runtime(device, cast(Precision, precision), cast(Mode, mode)).resolve()
        repeats = (200 if gpu else 5) if repeats is None else repeats
        if repeats < 1:
            raise UserError(f"--repeats must be at least 1, got {repeats}")
        return cls(device, size, precisions, modes, people, mesh, repeats, threads, input_size)


def measure(weights: Path, config: BenchmarkConfig) -> Row:
    """Load a weights file and call `measure_network`."""
    return measure_network(checkpoint.load_network(weights), config)


def measure_network(network: MultiHMR2, config: BenchmarkConfig) -> Row:
    """Measure and return all figures: milliseconds (least, p50, p95), frames per second, MiB.

    Raises UserError for no people, or more than the network can find.
    """
    impossible = [count for count in config.people if not 1 <= count <= network.config.queries]
    if impossible:
        raise UserError(
            f"--people must be from 1 to {network.config.queries}, the number of queries of this network, got "
            f"{impossible[0]}"
        )
    is_gpu = config.device.startswith("cuda")
    with torch.cuda.device(config.device) if is_gpu else contextlib.nullcontext():
        return _measure_on_device(network, config)


def _measure_on_device(network: MultiHMR2, config: BenchmarkConfig) -> Row:
    image = np.random.default_rng(0).integers(0, 256, (config.size[1], config.size[0], 3), np.uint8)
    rows, frames = _prepare_frames(network, image, config)
    bar = make_progress_bar(name="bench", unit="frame", total=len(frames) * (config.repeats + config.warm_up))
    with bar:
        times = _measure_in_turn(frames, config, bar.update)
    stages: list[Row] = []
    for precision in config.precisions:
        estimator = _make_estimator(network, config, precision, "eager", config.people[-1])
        stages += [{"precision": precision, **stage} for stage in _measure_stages(estimator, image, config)]
    return {
        "version": __version__,
        "date": datetime.date.today().isoformat(),
        "machine": _describe_machine(config.device, config.threads),
        "size": list(config.size),
        "input_size": config.input_size,
        "mesh": config.mesh,
        "repeats": config.repeats,
        "frames": [
            {**row, **_compute_percentiles(time), "frames_per_s": 1e3 / float(np.mean(time))}
            for row, time in zip(rows, times, strict=True)
        ],
        "stages": stages,
        **_read_memory(config.device),
    }


def _prepare_frames(
    network: MultiHMR2, image: NDArray[np.uint8], config: BenchmarkConfig
) -> tuple[list[Row], list[Callable[[], object]]]:
    """Return rows and timed functions, one per precision, mode and number of people.

    On GPUs, the last one is the plain reference.
    """
    rows: list[Row] = []
    frames: list[Callable[[], object]] = []
    for precision in config.precisions:
        # Converted once, so that the estimators share the memory.
        copied = convert_network(
            copy_without_tensors(network), Runtime(config.device, cast(Precision, precision)).resolve()
        )
        for mode in config.modes:
            for people in config.people:
                estimator = _make_estimator(copied, config, precision, mode, people)
                rows.append({"precision": precision, "mode": mode, "people": people})
                frames.append(functools.partial(_step, estimator, image, itertools.count()))
    if config.device.startswith("cuda"):
        body, local_changes = load_plain_body()
        rows.append(
            {"precision": "fp16", "mode": PLAIN, "people": config.people[-1], "anny_local_changes": local_changes}
        )
        frames.append(make_plain_frame(network, body, image, config))
    return rows, frames


def _step(estimator: Estimator, image: NDArray[np.uint8], index: Iterator[int]) -> None:
    estimator.step(image, stamp=next(index) / 30.0)


def _make_estimator(network: MultiHMR2, config: BenchmarkConfig, precision: str, mode: str, people: int) -> Estimator:
    chosen = EstimatorConfig(
        score_threshold=0.0, nms_distance_m=0.0, max_people=people, mesh=config.mesh, input_size=config.input_size
    )
    runtime = Runtime(config.device, cast(Precision, precision), cast(Mode, mode), config.threads)
    return Estimator(network, chosen, runtime)


def _measure_stages(estimator: Estimator, image: NDArray[np.uint8], config: BenchmarkConfig) -> list[Row]:
    inference = estimator.inference
    assert isinstance(inference, Inference)
    network = inference.network
    resize = estimator.make_resize(*config.size)
    with torch.inference_mode(), limit_threads(config.threads), inference.use_full_precision():
        pixels = inference.prepare(image, resize)
        normalized = (pixels.float() / 255.0 - network.image_mean) / network.image_std
        encoded = network.backbone(normalized)
        eye, no = torch.eye(3, device=inference.device)[None], torch.tensor([False], device=inference.device)
        prediction = network(pixels, eye, no, inference.max_people)
        decoded = network.decode(encoded, prediction.k)
        selected = decoded.queries[:, : prediction.score.shape[1]]
        outputs = inference.predict(pixels, eye, no)
        people = estimator.step(image)
        stamp = itertools.count(1)
        detections = estimator.make_detections(people, resize.k_to_input(people.k).astype(np.float32))
        tracked = estimator.tracker.update(detections, next(stamp) / 30.0)
        work: dict[str, Callable[[], object]] = {
            "upload, resize, pad": lambda: inference.prepare(image, resize),
            "encoder": lambda: network.backbone(normalized),
            "decoder": lambda: network.decode(encoded, prediction.k),
            "heads": lambda: (
                network.detection(decoded.queries, decoded.reference_point, decoded.score),
                network.person(selected),
                network.person.track_feature(network.describe_appearance(pixels, selected, prediction.keypoints)),
            ),
            "body": lambda: place_bodies(inference.body, prediction),
            "download": lambda: inference.copy_to_host(outputs),
            "tracking": lambda: estimator.tracker.update(detections, next(stamp) / 30.0),
        }
        if tracked.bone_rotations is not None:
            work["smoothing"] = lambda: estimator.smooth_bodies(people, tracked)
        times = [_measure_in_turn([run], config)[0] for run in work.values()]
        return [{"stage": name, **_compute_percentiles(time)} for name, time in zip(work, times, strict=True)]


def load_plain_body() -> tuple[Any, bool]:
    """Return unmodified Anny, and whether it has local changes, which may be missing from its data and its cache."""
    anny = import_anny()
    for local_changes in (True, False):
        with contextlib.suppress(FileNotFoundError, ImportError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations, and the missing Warp
            body = anny.create_fullbody_model(
                local_changes=local_changes, pose_parameterization="root_relative", remove_unattached_vertices=False
            )
            return body, local_changes
    raise UserError(
        f"Anny's data files are missing in {find_body_cache()}; reinstall anny, or set ANNY_CACHE_DIR to the folder "
        "with these files"
    )


def make_plain_frame(
    network: MultiHMR2, body: Any, image: NDArray[np.uint8], config: BenchmarkConfig
) -> Callable[[], list[NDArray[np.float32]]]:
    """Return the reference for GPUs: the same computation without this package's optimizations.

    Its image already has the size of the network's input.
    """
    device = torch.device(config.device)
    network = copy.deepcopy(network).to(device)
    body = body.to(device, torch.float32)
    people = config.people[-1]
    resize = ResizePad.fit(*config.size, network.config.image_size, network.config.patch_size)
    image = np.resize(image, (resize.padded_height, resize.padded_width, 3))

    def step() -> list[NDArray[np.float32]]:
        pixels = torch.from_numpy(image).to(device).permute(2, 0, 1)[None]
        with torch.inference_mode(), torch.autocast(device.type, torch.float16):
            eye, no = torch.eye(3, device=device)[None], torch.tensor([False], device=device)
            prediction = network(pixels, eye, no, people)
        with torch.inference_mode():
            present = prediction.score > 0
            deltas = torch.eye(4, device=device).repeat(int(present.sum()), len(body.bone_labels), 1, 1)
            deltas[..., :3, :3] = prediction.rotations[present].float()
            shape = prediction.shape[present][:, :6].float()
            phenotypes = {label: shape[:, i] for i, label in enumerate(body.phenotype_labels)}
            posed = body(pose_parameters=deltas, phenotype_kwargs=phenotypes)
        return [value.cpu().numpy() for value in (present, prediction.k, posed["vertices"], posed["bone_poses"])]

    return step


def _measure_in_turn(
    frames: list[Callable[[], object]], config: BenchmarkConfig, tick: Callable[[], object] = lambda: None
) -> NDArray[np.float64]:
    """Return milliseconds (frames, repeats) after a warm-up.

    All functions take turns, so that drifts of the machine's speed affect all of them equally. The GPU is synchronized
    before and after each call.
    """
    gpu = config.device.startswith("cuda")
    times = np.empty((len(frames), config.warm_up + config.repeats))
    for repeat in range(times.shape[1]):
        for row, run in enumerate(frames):
            if gpu:
                torch.cuda.synchronize()
            begin = time.perf_counter()
            run()
            if gpu:
                torch.cuda.synchronize()
            times[row, repeat] = 1e3 * (time.perf_counter() - begin)
            tick()
    return times[:, config.warm_up :]


def _compute_percentiles(times: NDArray[np.float64]) -> Row:
    p50, p95 = np.percentile(times, (50, 95))
    return {"least_ms": float(times.min()), "p50_ms": float(p50), "p95_ms": float(p95)}


def _read_memory(device: str) -> Row:
    row = {"peak_host_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if device.startswith("cuda"):
        row["peak_gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return row


def _has_cpu_bf16() -> bool:
    return bool(list_bf16_instructions(read_cpu_description()))


def _describe_machine(device: str, threads: int) -> str:
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(torch.device(device))}, PyTorch {torch.__version__}"
    bf16 = ", ".join(list_bf16_instructions(read_cpu_description()) or ()) or "no bf16 instructions"
    thread_unit = "thread" if threads == 1 else "threads"
    return f"{read_processor_name()}, {threads} {thread_unit}, {bf16}, PyTorch {torch.__version__}"


def format_table(report: Row) -> str:
    """Format the report as text: milliseconds, and the ratio of each row's least time to the first row's.

    The least time is least affected by other programs on the machine.
    """
    first = report["frames"][0]["least_ms"]
    lines = [
        f"multihmr2 {report['version']}, {report['date']}: {report['machine']}",
        "image {} x {} px, {} mesh, {} frames per row".format(*report["size"], report["mesh"], report["repeats"]),
        "",
        f"{'precision':10}{'mode':16}{'people':>7}"
        f"{'least ms':>10}{'p50 ms':>10}{'p95 ms':>10}{'frames/s':>10}{'ratio':>8}",
    ]
    for row in report["frames"]:
        lines.append(
            f"{row['precision']:10}{row['mode']:16}{row['people']:7d}{row['least_ms']:10.1f}{row['p50_ms']:10.1f}{row['p95_ms']:10.1f}"
            f"{row['frames_per_s']:10.2f}{row['least_ms'] / first:8.3f}"
        )
    memory = ", ".join(
        f"{report[f'peak_{kind}_mib']:.0f} MiB {kind}" for kind in ("host", "gpu") if f"peak_{kind}_mib" in report
    )
    lines += ["", f"peak memory of all rows together: {memory}"]
    lines += ["", f"{'precision':10}{'stage':24}{'p50 ms':>10}{'p95 ms':>10}"]
    for row in report["stages"]:
        lines.append(f"{row['precision']:10}{row['stage']:24}{row['p50_ms']:10.2f}{row['p95_ms']:10.2f}")
    return "\n".join(lines)
