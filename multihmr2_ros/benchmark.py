"""What `multihmr2 bench` measures: whole frames and their stages, for each precision, mode and number of people.

A frame is the whole way from a uint8 picture in host memory to `People` in host memory, tracking included. The score
threshold is 0, so that the people asked for are really made, whatever the picture shows. The stages are measured one by
one in eager mode, each waited for; their sum is more than a frame, in which the GPU is waited for once.
"""

from __future__ import annotations

import copy
import datetime
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from multihmr2_ros import __version__
from multihmr2_ros.body import Mesh
from multihmr2_ros.errors import UserError
from multihmr2_ros.estimator import Estimator, EstimatorConfig
from multihmr2_ros.hardware import bf16_instructions, cpu_description
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.inference import Mode, Precision, Runtime
from multihmr2_ros.network.model import MultiHMR2, place_bodies

Row = dict[str, Any]
PLAIN = "plain"  # the peer: autocast, Anny as it comes, people chosen by a mask, each result copied by itself


@dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure; sizes in px (width, height)."""

    device: str
    size: tuple[int, int]
    precisions: tuple[str, ...]
    modes: tuple[str, ...]
    people: tuple[int, ...]
    mesh: Mesh
    repeats: int

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
    ) -> BenchmarkConfig:
        """Fill in what the device suggests and check the rest before anything slow begins."""
        device = Runtime(device).resolve().device
        gpu = device.startswith("cuda")
        if precisions is None:
            precisions = ("fp32", "bf16", "fp16") if gpu else ("fp32", "bf16") if _cpu_has_bf16() else ("fp32",)
        if modes is None:
            modes = ("eager", "compiled", "graph", "compiled-graph") if gpu else ("eager",)
        for precision in precisions:
            for mode in modes:
                Runtime(device, cast(Precision, precision), cast(Mode, mode)).resolve()
        repeats = (200 if gpu else 5) if repeats is None else repeats
        if repeats < 1:
            raise UserError(f"--repeats must be at least 1, got {repeats}")
        return cls(device, size, precisions, modes, people, mesh, repeats)


def measure(weights: Path, config: BenchmarkConfig) -> Row:
    """All figures: milliseconds (p50, p95), frames per second, MiB."""
    network = checkpoint.load(weights)
    picture = np.random.default_rng(0).integers(0, 256, (config.size[1], config.size[0], 3), np.uint8)
    frames: list[Row] = []
    stages: list[Row] = []
    steps = [(p, m, n) for p in config.precisions for m in config.modes for n in config.people]
    for precision, mode, people in tqdm(steps, desc="bench", unit="row", disable=None):
        runtime = Runtime(config.device, cast(Precision, precision), cast(Mode, mode))
        estimator = _estimator(network, config, runtime, people)
        _reset_peak(config.device)
        row = {"precision": precision, "mode": mode, "people": people}
        frames.append({**row, **_frame_figures(estimator, picture, config), **_memory(config.device)})
        if mode == config.modes[0] and people == config.people[-1]:
            stages += [{"precision": precision, **stage} for stage in _stages(estimator, picture, config)]
        del estimator
    if config.device.startswith("cuda"):
        frames.append(_plain_frame(network, picture, config))
    return {
        "version": __version__,
        "date": datetime.date.today().isoformat(),
        "machine": _machine(config.device),
        "size": list(config.size),
        "mesh": config.mesh,
        "repeats": config.repeats,
        "frames": frames,
        "stages": stages,
    }


def _estimator(network: MultiHMR2, config: BenchmarkConfig, runtime: Runtime, people: int) -> Estimator:
    chosen = EstimatorConfig(
        score_threshold=0.0, nms_distance_m=0.0, max_people=people, mesh=config.mesh, input_size=config.size
    )
    return Estimator(copy.deepcopy(network), chosen, runtime)


def _frame_figures(estimator: Estimator, picture: NDArray[np.uint8], config: BenchmarkConfig) -> Row:
    stamps = iter(range(10**9))
    times = _times(lambda: estimator.step(picture, stamp=next(stamps) / 30.0), config)
    return {**_percentiles(times), "frames_per_s": 1e3 / float(np.mean(times))}


def _stages(estimator: Estimator, picture: NDArray[np.uint8], config: BenchmarkConfig) -> list[Row]:
    infer, network = estimator._infer, estimator._infer.network
    resize = estimator._resize(*config.size)
    with torch.inference_mode():
        pixels = infer.prepare(picture, resize)
        normalised = (pixels.float() / 255.0 - network.image_mean) / network.image_std
        _, patches = network.backbone(normalised)
        queries = network.decoder(patches)
        eye, no = torch.eye(3, device=infer.device)[None], torch.tensor([False], device=infer.device)
        prediction = network(pixels, eye, no, infer.max_people)
        outputs = infer._people(pixels, eye, no)
        people = estimator.step(picture)
        k_input = resize.k_to_input(people.k).astype(np.float32)
        stamps = iter(range(10**9))
        work: dict[str, Callable[[], object]] = {
            "upload, resize, pad": lambda: infer.prepare(picture, resize),
            "encoder": lambda: network.backbone(normalised),
            "decoder": lambda: network.decoder(patches),
            "heads": lambda: (network.detection(queries), network.person(queries[:, : infer.max_people])),
            "body": lambda: place_bodies(infer.body, prediction),
            "download": lambda: infer._to_host(outputs),
            "tracking": lambda: estimator.tracker.update(
                estimator._detections(people, k_input), 1e3 + next(stamps) / 30.0
            ),
        }
        return [{"stage": name, **_percentiles(_times(run, config))} for name, run in work.items()]


def _plain_frame(network: MultiHMR2, picture: NDArray[np.uint8], config: BenchmarkConfig) -> Row:
    """The same arithmetic written without any of this package's care for speed: what to compare with on a GPU."""
    import anny

    device = torch.device(config.device)
    network = copy.deepcopy(network).to(device)
    body = anny.create_fullbody_model(
        local_changes=True, pose_parameterization="root_relative", remove_unattached_vertices=False
    ).to(device, torch.float32)
    people = config.people[-1]

    def step() -> list[NDArray[np.float32]]:
        pixels = torch.from_numpy(picture).to(device).permute(2, 0, 1)[None]
        with torch.inference_mode(), torch.autocast("cuda", torch.float16):
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

    times = _times(step, config)
    row = {"precision": "fp16", "mode": PLAIN, "people": people, **_percentiles(times)}
    return {**row, "frames_per_s": 1e3 / float(np.mean(times)), **_memory(config.device)}


def _times(run: Callable[[], object], config: BenchmarkConfig) -> NDArray[np.float64]:
    """Milliseconds of each repeat, after a warm-up; the GPU's work included."""
    gpu = config.device.startswith("cuda")
    for _ in range(10 if gpu else 1):
        run()
    times = []
    for _ in range(config.repeats):
        if gpu:
            torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        if gpu:
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - begin))
    return np.array(times)


def _percentiles(times: NDArray[np.float64]) -> Row:
    p50, p95 = np.percentile(times, (50, 95))
    return {"p50_ms": float(p50), "p95_ms": float(p95)}


def _reset_peak(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()


def _memory(device: str) -> Row:
    row = {"peak_host_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if device.startswith("cuda"):
        row["peak_gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
    return row


def _cpu_has_bf16() -> bool:
    return bool(bf16_instructions(cpu_description()))


def _machine(device: str) -> str:
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(torch.device(device))}, PyTorch {torch.__version__}"
    names = [line.split(":", 1)[1].strip() for line in cpu_description().splitlines() if line.startswith("model name")]
    bf16 = ", ".join(bf16_instructions(cpu_description()) or ()) or "no bf16 instructions"
    name = names[0] if names else platform.machine()
    return f"{name}, {torch.get_num_threads()} threads, {bf16}, PyTorch {torch.__version__}"


def table(report: Row) -> str:
    """The report for people to read: milliseconds, and each row's time over the first row's."""
    first = report["frames"][0]["p50_ms"]
    lines = [
        f"multihmr2 {report['version']}, {report['date']}: {report['machine']}",
        "picture {} × {} px, {} mesh, {} frames a row".format(*report["size"], report["mesh"], report["repeats"]),
        "",
        f"{'precision':10}{'mode':16}{'people':>7}{'p50 ms':>10}{'p95 ms':>10}{'frames/s':>10}{'ratio':>8}{'MiB':>8}",
    ]
    for row in report["frames"]:
        memory = row.get("peak_gpu_mib", row["peak_host_mib"])
        lines.append(
            f"{row['precision']:10}{row['mode']:16}{row['people']:7d}{row['p50_ms']:10.1f}{row['p95_ms']:10.1f}"
            f"{row['frames_per_s']:10.2f}{row['p50_ms'] / first:8.3f}{memory:8.0f}"
        )
    lines += ["", f"{'precision':10}{'stage':24}{'p50 ms':>10}{'p95 ms':>10}"]
    for row in report["stages"]:
        lines.append(f"{row['precision']:10}{row['stage']:24}{row['p50_ms']:10.2f}{row['p95_ms']:10.2f}")
    return "\n".join(lines)
