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

"""Measure the cost of sharing the cores with other programs.

    python -m test.benchmarks.busy [--busy 0,2,4,8] [--seconds 2] [--also-plain]

The table gives the time of an image and of a training step beside 0, 2, 4 and 8 busy processes: with the number of
threads that this project chooses, and as a ratio to a single-threaded program that does the same work. A single thread
gets its fair share of the cores; with threads that wait for each other, the ratio must not exceed MAX_RATIO. The
programs take turns, each in its own process, so that the load is the same for all. --also-plain adds a third program
with PyTorch's default number of threads and waiting policy. The exit status is 1 if the ratio is exceeded.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

MAX_RATIO = 1.5
ROUNDS = 3
WORKS = ("image", "training step")
OURS, SINGLE, PLAIN = "ours", "one thread", "PyTorch's own"


def image_step(threads: int) -> Callable[[], object]:
    """Return a step that processes one image of 640 × 480 px with the bundled weights, tracking included."""
    import numpy as np

    from multihmr2_ros import Estimator
    from multihmr2_ros.estimator import EstimatorConfig, Runtime

    config = EstimatorConfig(score_threshold=0.0, max_people=5, mesh="low")
    estimator = Estimator.load("nano", config=config, runtime=Runtime("cpu", threads=threads))
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    number = itertools.count()
    return lambda: estimator.step(image, stamp=next(number) / 30.0)


def training_step(threads: int) -> Callable[[], object]:
    """Return a training step for a network of the bundled size: 2 images of 256 × 192 px, 2 people each, no loader."""
    import torch

    from multihmr2_ros.body import Body
    from multihmr2_ros.hardware import keep_freed_memory
    from multihmr2_ros.network.config import NANO
    from multihmr2_ros.network.initialization import initialize
    from multihmr2_ros.network.model import MultiHMR2
    from multihmr2_ros.training.loss_config import LossConfig
    from multihmr2_ros.training.losses import compute_losses
    from test.helpers.nano_network import make_random_targets

    torch.manual_seed(0)
    torch.set_num_threads(threads)
    keep_freed_memory()
    network, body = initialize(MultiHMR2(NANO)).train(), Body("low")
    targets = make_random_targets(2, 2, (192, 256), NANO.track_feature_width)
    image = torch.randint(0, 256, (2, 3, 192, 256), dtype=torch.uint8)
    given = torch.arange(2) % 2 == 0

    def step() -> None:
        outputs = network.predict_for_training(image, targets.k, given)
        total = torch.stack(list(compute_losses(network, outputs, targets, body, LossConfig()).values())).sum()
        network.zero_grad()
        total.backward()

    return step


def work(kind: str, program: str, orders: Connection) -> None:
    """Run steps for each number of seconds received and send back their times (s), at least two per request."""
    from multihmr2_ros.hardware import choose_training_threads, count_available_cores, make_threads_wait_passively

    if program != PLAIN:
        make_threads_wait_passively()
    ours = 0 if kind == "image" else choose_training_threads(loader_workers=1, render_workers=0)
    threads = {SINGLE: 1, PLAIN: count_available_cores(), OURS: ours}[program]
    step = (image_step if kind == "image" else training_step)(threads)
    for _ in range(3):
        step()
    orders.send([])
    while (seconds := orders.recv()) > 0:
        times: list[float] = []
        while len(times) < 2 or sum(times) < seconds:
            begin = time.perf_counter()
            step()
            times.append(time.perf_counter() - begin)
        orders.send(times)


def spin() -> None:
    while True:
        pass


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    processes = [multiprocessing.get_context("fork").Process(target=spin, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
            process.join()


@contextmanager
def programs(kind: str, names: list[str]) -> Iterator[dict[str, Connection]]:
    """Start one process per program and yield the connections once all are ready."""
    context = multiprocessing.get_context("spawn")
    pipes = {name: context.Pipe() for name in names}
    processes = [context.Process(target=work, args=(kind, name, pipes[name][1]), daemon=True) for name in names]
    for process in processes:
        process.start()
    for here, there in pipes.values():
        there.close()  # so that recv() raises EOFError if a process dies
        here.recv()
    yield {name: here for name, (here, _) in pipes.items()}
    for here, _ in pipes.values():
        here.send(0)
    for process in processes:
        process.join()


def measured(orders: dict[str, Connection], seconds: float) -> dict[str, float]:
    """Return each program's median time per step (s); the programs take turns."""
    times: dict[str, list[float]] = {name: [] for name in orders}
    for _ in range(ROUNDS):
        for name, order in orders.items():
            order.send(seconds / ROUNDS)
            times[name] += order.recv()
    return {name: statistics.median(each) for name, each in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", default="0,2,4,8", help="numbers of busy processes (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.5, help="a row and program (default: %(default)s)")
    parser.add_argument("--also-plain", action="store_true", help="PyTorch's own threads and waiting, too")
    options = parser.parse_args()
    os.environ.pop("OMP_NUM_THREADS", None)  # so that the project's choice of threads is measured
    names = [SINGLE, OURS, *([PLAIN] if options.also_plain else [])]
    worst = 0.0
    print(f"{'work':15}{'busy':>5}" + "".join(f"{name + ' ms':>20}" for name in names) + f"{'ours / one':>12}")
    for kind in WORKS:
        with programs(kind, names) as orders:
            for count in map(int, options.busy.split(",")):
                with busy_processes(count):
                    time.sleep(0.2)
                    times = measured(orders, options.seconds)
                ratio = times[OURS] / times[SINGLE]
                worst = max(worst, ratio)
                cells = "".join(f"{1e3 * times[name]:20.0f}" for name in names)
                print(f"{kind:15}{count:5}{cells}{ratio:12.2f}", flush=True)
    print(f"largest ratio {worst:.2f}, allowed {MAX_RATIO}")
    return int(worst > MAX_RATIO)


if __name__ == "__main__":
    sys.exit(main())
