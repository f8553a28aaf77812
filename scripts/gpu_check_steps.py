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

"""The steps of `scripts/gpu_check.sh`: `python gpu_check_steps.py STEP WORK RESULTS [--dry]`.

Each writes its results to RESULTS as soon as they are known, one JSON object per line. With --dry, the networks are
small, the device is the CPU, and eager mode replaces the modes that need a GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from gpu_check_golden import golden
from gpu_check_step import Image, Step, device_ms, make_estimator, make_image
from numpy.typing import NDArray

from multihmr2_ros.benchmark import BenchmarkConfig, _load_plain_body, _make_plain_frame, measure_network
from multihmr2_ros.body import Body, Mesh
from multihmr2_ros.estimator import Estimator, EstimatorConfig
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.config import NANO, NetworkConfig
from multihmr2_ros.network.inference import MAX_GRAPHS
from multihmr2_ros.network.model import MultiHMR2
from multihmr2_ros.network.shared_inference import SharedInference
from multihmr2_ros.people import People
from multihmr2_ros.training.config import TrainingConfig
from multihmr2_ros.training.data import Batch, BatchConfig
from multihmr2_ros.training.optimizer import OptimizerConfig
from multihmr2_ros.training.trainer import Trainer
from test.helpers.golden_weights import released_state
from test.helpers.nano_network import TINY, random_targets
from test.helpers.small_network import save_small_network


def environment(step: Step) -> None:
    """Write the GPU's name, versions, and the GPU's speed in matrix products and copies."""
    step.write(python=platform.python_version(), torch=torch.__version__, numpy=np.__version__, cuda=torch.version.cuda)
    if not step.dry:
        card = torch.cuda.get_device_properties(0)
        step.write(card=card.name, memory_gib=card.total_memory / 2**30, multiprocessors=card.multi_processor_count)
        driver = Path("/proc/driver/nvidia/version")  # missing in some containers
        step.write(driver=driver.read_text().splitlines()[0] if driver.exists() else "unknown")
    step.write(matmul_tf32=torch.backends.cuda.matmul.allow_tf32, cudnn_tf32=torch.backends.cudnn.allow_tf32)
    size = step.count(8192, 128)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        matrix = torch.randn(size, size, device=step.device).to(dtype)
        product = torch.empty_like(matrix)
        milliseconds = device_ms(step, lambda m=matrix, p=product: torch.mm(m, m, out=p), 5)
        step.write(matrix_product=str(dtype), tflops=2e-9 * size**3 / milliseconds)
    for megabytes in (1, 64):
        host = torch.empty(megabytes << 20, dtype=torch.uint8, pin_memory=not step.dry)
        there = host.to(step.device)
        up = device_ms(step, lambda h=host, t=there: t.copy_(h, non_blocking=True), 10)
        down = device_ms(step, lambda h=host, t=there: h.copy_(t, non_blocking=True), 10)
        step.write(
            copied_mib=megabytes, upload_gb_per_s=host.nbytes / up / 1e6, download_gb_per_s=host.nbytes / down / 1e6
        )


def make_weights(step: Step) -> None:
    """Write the large network's deterministic weights to a file for the other steps."""
    target = step.work / "large.safetensors"
    begin = time.monotonic()
    if step.dry:
        save_small_network(target)
    else:
        state = checkpoint._from_released(released_state())
        checkpoint.save_network(checkpoint._make_network(NetworkConfig(), state, target), target)
    step.write(weights_mib=target.stat().st_size / 2**20, made_in_s=time.monotonic() - begin)


def large(step: Step) -> None:
    """Measure frames, stages, copies and memory of the large network, and the plain reference."""
    network = step.large()
    wide, square = step.count((768, 432), (192, 112)), step.count((768, 768), (192, 192))
    _bench(step, network, wide, ("bf16", "fp16"), ("eager", "graph"), (10,))
    _kernels(step, network, wide, "bf16", 10)
    _bench(step, network, square, ("bf16", "fp16"), ("graph",), (10,))
    _kernels(step, network, wide, "fp16", 10)
    _bench(step, network, wide, ("bf16",), ("eager", "graph"), (1, 20))
    _bench(step, network, wide, ("fp32",), ("graph",), (10,))


def profile(step: Step) -> None:
    """Measure the time of each kind of kernel in one frame's graph of the large network."""
    size = step.count((768, 432), (192, 112))
    estimator = make_estimator(step, step.large(), "bf16", "graph", 10, "full")
    infer, image, repeats = estimator.inference, make_image(size), step.count(10, 1)
    estimator.step(image, stamp=0.0)
    resize = estimator.make_resize(*size)
    activity = torch.profiler.ProfilerActivity.CPU if step.dry else torch.profiler.ProfilerActivity.CUDA
    with torch.inference_mode():
        inputs = (infer.prepare(image, resize), *infer._prepare_camera(None))
        infer._run(*inputs)
        step.wait()
        with torch.profiler.profile(activities=[activity]) as profiler:
            for _ in range(repeats):
                infer._run(*inputs)
            step.wait()
    rows = [(_busy_us(event), event) for event in profiler.key_averages()]
    total = sum(busy for busy, _ in rows)
    step.write(kinds=len(rows), kernels=sum(event.count for _, event in rows) / repeats, ms=1e-3 * total / repeats)
    for busy, event in sorted(rows, key=lambda row: -row[0])[:25]:
        step.write(kernel=event.key[:90], calls=event.count / repeats, ms=1e-3 * busy / repeats, share=busy / total)


def _busy_us(event: Any) -> float:
    """Return the time of all calls of a kernel (in a dry run: of an operation) in µs."""
    return float(event.self_device_time_total or event.self_cpu_time_total)


def nano(step: Step) -> None:
    """Measure the same as `large` for the bundled network."""
    network, size = step.nano(), step.count((640, 480), (192, 144))
    _bench(step, network, size, ("bf16", "fp16"), ("eager", "graph"), (1, 5))
    _kernels(step, network, size, "bf16", 5)
    _bench(step, network, size, ("fp32",), ("graph",), (5,))


def _bench(
    step: Step, network: MultiHMR2, size: tuple[int, int], precisions: tuple[str, ...], modes: tuple[str, ...],
    people: tuple[int, ...], repeats: int = 30,
) -> None:  # fmt: skip
    if step.dry:
        precisions, modes = ("fp32",), tuple({mode.replace("graph", "eager"): 0 for mode in modes})
    else:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    config = BenchmarkConfig.for_device(
        step.device, size, precisions, modes, people, "full", step.count(repeats, 1), step.count(0, 1)
    )
    report = measure_network(network, config)
    if step.dry:  # the plain reference is measured on GPUs only
        _make_plain_frame(network, _load_plain_body()[0], make_image(size), config)()
    memory = {key: value for key, value in report.items() if key.startswith("peak")}
    for row in report["frames"]:
        step.write(size=size, **row)
    for precision in precisions:
        stages = {row["stage"]: row["p50_ms"] for row in report["stages"] if row["precision"] == precision}
        step.write(size=size, precision=precision, people=people[-1], stages_p50_ms=stages, **memory)


def _kernels(step: Step, network: MultiHMR2, size: tuple[int, int], precision: str, people: int) -> None:
    """Measure ms of the device alone (upload, preparation, graph, download), and of the whole step with the host."""
    estimator = make_estimator(step, network, precision, "graph", people, "full")
    infer, image = estimator.inference, make_image(size)
    stamps = iter(range(10_000))
    for _ in range(step.count(10, 1)):
        estimator.step(image, stamp=next(stamps) / 30)
    resize = estimator.make_resize(*size)
    with torch.inference_mode():
        host = torch.from_numpy(image) if step.dry else torch.from_numpy(image).pin_memory()
        there = host.to(step.device)
        inputs = (infer.prepare(image, resize), *infer._prepare_camera(None))
        outputs = infer._run(*inputs)
        shapes = {name: value.shape for name, value in infer.copy_to_host(outputs).items()}
        step.write(
            size=size, precision=precision, people=people, mode="graph",
            upload_ms=device_ms(step, lambda: there.copy_(host, non_blocking=True), 20),
            prepare_ms=device_ms(step, lambda: infer.prepare(image, resize), 20),
            network_and_body_ms=device_ms(step, lambda: infer._run(*inputs), 20),
            download_ms=device_ms(step, lambda: infer.copy_to_host(outputs), 20),
            download_without_vertices_ms=device_ms(step, lambda: infer.copy_to_host(outputs, vertices=False), 20),
            download_mib={name: 4 * int(np.prod(shape)) / 2**20 for name, shape in shapes.items()},
        )  # fmt: skip
    begin = time.perf_counter()
    repeats = step.count(30, 2)
    for _ in range(repeats):
        infer(image, resize, None)
    inferred = time.perf_counter()
    for _ in range(repeats):
        estimator.step(image, stamp=next(stamps) / 30)
    end = time.perf_counter()
    step.write(
        size=size, precision=precision, people=people, mode="graph",
        inference_ms=1e3 * (inferred - begin) / repeats, step_ms=1e3 * (end - inferred) / repeats,
    )  # fmt: skip


def threads(step: Step) -> None:
    """Compare two estimators, each created and used in its own thread, with estimators in one thread."""
    network, size = step.nano(), step.count((640, 480), (192, 144))
    for precision in ("bf16", "fp16"):
        alone = [_frames(step, network, size, seed, precision) for seed in (1, 2)]
        found: dict[int, list[People]] = {}

        def work(seed: int, precision: str = precision, found: dict[int, list[People]] = found) -> None:
            found[seed] = _frames(step, network, size, seed, precision)

        workers = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        apart = [
            max(_apart(one, other) for one, other in zip(alone[seed - 1], found[seed], strict=True))
            if seed in found else float("inf")
            for seed in (1, 2)
        ]  # fmt: skip
        step.write(precision=precision, greatest_difference=apart, ok=max(apart) <= 1e-5)
    if len(found) < 2:
        raise SystemExit("a thread raised an error")


def cameras(step: Step) -> None:
    """Compare the latency of 1, 2 and 4 cameras whose images arrive at the same time, and their people with single
    estimators'. Goal: 4 cameras take at most 1.3 times as long as one."""
    size, least = step.count((768, 432), (96, 64)), float("nan")
    for count in (1, 2, 4):
        shared = SharedInference(step.large(), step.runtime("bf16", "graph"), batch_wait_s=0.003)
        config = EstimatorConfig(score_threshold=0.0, nms_distance_m=0.0, max_people=10)
        estimators = [Estimator(shared.network, config, shared=shared) for _ in range(count)]
        images = [make_image(size, seed) for seed in range(count)]
        times, found = _step_together(estimators, images, step.count(60, 3))
        alone = [make_estimator(step, step.large(), "bf16", "graph", 10, "full").step(each) for each in images]
        p50 = float(np.median(times[len(times) // 3 :]))
        least = p50 if count == 1 else least
        # Descending scores, because low precision changes the order of people with similar scores.
        apart = max(float(np.abs(one.score - other.score).max()) for one, other in zip(alone, found, strict=True))
        step.write(cameras=count, p50_ms=p50, ratio=p50 / least, score_difference_from_alone=apart, ok=apart <= 0.02)


def _step_together(
    estimators: list[Estimator], images: list[Image], frames: int
) -> tuple[NDArray[np.float64], list[People]]:
    """Step all estimators at the same time, each in its thread. Return ms (frames, cameras) and the last people."""
    times = np.zeros((frames, len(estimators)))
    found: dict[int, People] = {}
    barrier = threading.Barrier(len(estimators), timeout=120)

    def work(row: int) -> None:
        try:
            for index in range(frames):
                barrier.wait()
                begin = time.perf_counter()
                found[row] = estimators[row].step(images[row], stamp=index / 30)
                times[index, row] = 1e3 * (time.perf_counter() - begin)
        except Exception:
            barrier.abort()
            raise

    workers = [threading.Thread(target=work, args=(row,)) for row in range(len(estimators))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return times, [found[row] for row in range(len(estimators))]


def _frames(step: Step, network: MultiHMR2, size: tuple[int, int], seed: int, precision: str) -> list[People]:
    """Return people for images of three sizes in turn, so that graphs are captured while the other thread replays."""
    estimator = make_estimator(step, network, precision, "graph", 5)
    sizes = [size, (size[0], size[0]), (size[1], size[0])]
    images = [make_image(size, 10 * seed + index) for index, size in enumerate(sizes)]
    first, count = step.count((20, 90), (1, 4))
    return [estimator.step(images[index % 3 if index > first else 0], stamp=index / 30) for index in range(count)]


def _apart(one: People, other: People) -> float:
    """Return the maximum difference of scores, positions and vertices."""
    if len(one.score) != len(other.score):
        return float("inf")
    return max(
        float(np.abs(getattr(one, name) - getattr(other, name)).max()) for name in ("score", "joints", "vertices")
    )


def soak(step: Step) -> None:
    """Measure the growth of memory over many frames, five image sizes, and changes of max_people and mesh."""
    network, size = step.nano(), step.count((640, 480), (192, 144))
    estimator = make_estimator(step, network, "bf16", "graph", 5)
    image, frames = make_image(size), step.count(2000, 6)
    before = _memory(step)
    begin = time.monotonic()
    for index in range(frames):
        estimator.step(image, stamp=index / 30)
        if index == frames // 3:
            before = _memory(step)
    after = _memory(step)
    growth = {name: after[name] - before[name] for name in after}
    step.write(frames=frames, frames_per_s=frames / (time.monotonic() - begin), growth_mib=growth, memory_mib=after,
               ok=max(growth.values()) < 20)  # fmt: skip
    _pass_sizes(step, estimator)
    _reconfigure(step, network, image)


def _pass_sizes(step: Step, estimator: Estimator) -> None:
    """Process images of five sizes in turn, one more than the number of graphs that are kept."""
    side = step.count(384, 96)
    images = [make_image((side, side * share // 12)) for share in (12, 10, 8, 6, 4)]
    first = [estimator.step(image, stamp=1000.0 + index) for index, image in enumerate(images)]
    memory = []
    for turn in range(1, step.count(6, 2)):
        again = [estimator.step(image, stamp=1000.0 + 5 * turn + index) for index, image in enumerate(images)]
        memory.append(_memory(step))
        apart = max(_apart(one, other) for one, other in zip(first, again, strict=True))
        kept = len(estimator.inference._graphs)
        growth = {name: memory[-1][name] - memory[0][name] for name in memory[0]}
    step.write(sizes=len(images), graphs=kept, greatest_difference=apart, growth_mib=growth, memory_mib=memory[-1],
               ok=apart <= 1e-5 and kept <= MAX_GRAPHS and max(growth.values()) < 50)  # fmt: skip


def _reconfigure(step: Step, network: MultiHMR2, image: Image) -> None:
    """Compare a reconfigured estimator in graph mode with new estimators in eager mode."""
    estimator = make_estimator(step, network, "bf16", "graph", 5)
    estimator.step(image)
    for people, mesh in ((2, "low"), (2, "full"), (7, "full"), (5, "low")):
        chosen = dataclasses.replace(estimator.config, max_people=people, mesh=cast(Mesh, mesh))
        estimator.reconfigure(chosen)
        found = [estimator.step(image) for _ in range(2)][-1]
        expected = make_estimator(step, network, "bf16", "eager", people, cast(Mesh, mesh)).step(image)
        apart = _apart(found, expected)
        step.write(max_people=people, mesh=mesh, found=len(found.score), difference_from_eager=apart,
                   ok=len(found.score) == people and apart <= 1e-3)  # fmt: skip


def _memory(step: Step) -> dict[str, float]:
    """Return the memory in use in MiB, of this process and of the GPU."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    used = {"host": pages * 4096 / 2**20}
    if not step.dry:
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        used |= {"gpu": (total - free) / 2**20, "allocated": torch.cuda.memory_allocated() / 2**20}
    return used


def training(step: Step) -> None:
    """Run the trainer on random batches: compare a float32 step with the CPU's, then measure images per second."""
    config = TINY if step.dry else NANO
    size = (192, 256) if step.dry else (288, 384)
    losses = []
    for device in ("cpu", step.device):
        trainer = _trainer(step, config, device, "fp32")
        losses.append(trainer.step(_batch(4, size))[0])
    apart = {name: abs(value - losses[1][name]) / max(abs(value), 1e-3) for name, value in losses[0].items()}
    most = max(apart, key=apart.__getitem__)
    step.write(loss=losses[1]["loss"], greatest_ratio_from_cpu=apart[most], of=most, ok=apart[most] < 1e-2)
    for precision, images in (("fp32", 128), ("auto", 128), ("auto", 256)):
        trainer = _trainer(step, config, step.device, precision)
        batch = _batch(step.count(images), size)
        count = step.count(20, 2)
        for index in range(count):
            if index == count // 4:
                step.wait()
                begin = time.monotonic()
            terms, norm = trainer.step(batch)
        step.wait()
        rate = len(batch.origins) * (count - count // 4) / (time.monotonic() - begin)
        memory = {} if step.dry else {"peak_gpu_mib": torch.cuda.max_memory_allocated() / 2**20}
        step.write(precision=precision, batch=len(batch.origins), steps=count, images_per_s=rate, loss=terms["loss"],
                   gradient_norm=norm, ok=bool(np.isfinite(norm)), **memory)  # fmt: skip


def _trainer(step: Step, config: NetworkConfig, device: str, precision: str) -> Trainer:
    torch.manual_seed(0)
    network = MultiHMR2(config) if step.dry else step.nano()
    folder = step.work / "training"
    folder.mkdir(exist_ok=True)
    chosen = TrainingConfig(
        steps=1000, precision=precision, loader_workers=0,  # type: ignore[arg-type]
        batch=BatchConfig(), optimisation=OptimizerConfig(),
    )  # fmt: skip
    return Trainer(network, Body("low"), chosen, folder, torch.device(device))


def _batch(images: int, size: tuple[int, int]) -> Batch:
    torch.manual_seed(1)
    pixels = torch.randint(0, 256, (images, 3, *size), dtype=torch.uint8)
    targets = random_targets(images, 4, size, 0)
    return Batch(pixels, targets, torch.arange(images) % 2 == 0, tuple(f"random {index}" for index in range(images)))


def compiled(step: Step) -> None:
    """Measure the compiled modes: seconds to compile, comparison with the golden numbers, frames."""
    for name, network, size, people in (
        ("large", step.large(), step.count((768, 432), (192, 112)), 10),
        ("nano", step.nano(), step.count((640, 480), (96, 64)), 5),
    ):
        if step.dry and name == "nano":
            continue  # takes minutes on a slow CPU
        for mode in ("compiled-graph", "compiled"):
            begin = time.monotonic()
            estimator = make_estimator(step, network, "bf16", mode, people, "full")
            image = make_image(size)
            estimator.step(image, stamp=0.0)
            ready = time.monotonic() - begin
            expected = make_estimator(step, network, "bf16", "eager", people, "full").step(image)
            apart = _apart(estimator.step(image, stamp=0.1), expected)
            times = []
            for index in range(step.count(40, 2)):
                start = time.perf_counter()
                estimator.step(image, stamp=0.2 + index / 30)
                times.append(1e3 * (time.perf_counter() - start))
            step.write(
                network=name, mode=mode, people=people, size=size, first_frame_s=ready, difference_from_eager=apart,
                p50_ms=float(np.median(times)), least_ms=min(times),
            )  # fmt: skip


STEPS: dict[str, Callable[[Step], None]] = {
    "environment": environment,
    "weights": make_weights,
    "golden": golden,
    "large": large,
    "profile": profile,
    "nano": nano,
    "threads": threads,
    "cameras": cameras,
    "soak": soak,
    "training": training,
    "compiled": compiled,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("work", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args()
    STEPS[args.step](Step(args.work, args.results, args.dry))


if __name__ == "__main__":
    main()
