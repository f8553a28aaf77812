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

"""Steps of `scripts/gpu_check.sh` that measure frames, stages, copies and kernels."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from gpu_check_step import Step, compute_difference, device_ms, make_estimator, make_image

from multihmr2_ros.benchmark import BenchmarkConfig, load_plain_body, make_plain_frame, measure_network
from multihmr2_ros.network.model import MultiHMR2


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
        people = tuple({min(count, network.config.queries): 0 for count in people})
    else:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    config = BenchmarkConfig.for_device(
        step.device, size, precisions, modes, people, "full", step.count(repeats, 1), step.count(0, 1)
    )
    report = measure_network(network, config)
    if step.dry:  # the plain reference is measured on GPUs only
        make_plain_frame(network, load_plain_body()[0], make_image(size), config)()
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
            apart = compute_difference(estimator.step(image, stamp=0.1), expected)
            times = []
            for index in range(step.count(40, 2)):
                start = time.perf_counter()
                estimator.step(image, stamp=0.2 + index / 30)
                times.append(1e3 * (time.perf_counter() - start))
            step.write(
                network=name, mode=mode, people=people, size=size, first_frame_s=ready, difference_from_eager=apart,
                p50_ms=float(np.median(times)), least_ms=min(times),
            )  # fmt: skip
