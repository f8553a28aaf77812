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

"""Compare the time and the peak memory of a training step: matching on places against matching on joints.

    python -m test.benchmarks.training [--images 16] [--people 4] [--steps 4]

Measures three variants, each in its own process:
- matching on places, with bodies posed for matched queries only (this project);
- matching on joints, with all bodies first posed without gradients;
- matching on joints, with the bodies of all queries posed with gradients (the usual method, with which the paper
  compares in section 3: 0.35 s and 7 GB against 0.48 s and 27 GB on its GPU and with its sizes).
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from multihmr2_ros.body import Body
from multihmr2_ros.network.config import SCRATCH
from multihmr2_ros.network.initialization import initialize
from multihmr2_ros.network.model import PHENOTYPES, MultiHMR2
from multihmr2_ros.training.keypoints import regress_low_mesh_keypoints
from multihmr2_ros.training.loss_config import LossConfig
from multihmr2_ros.training.losses import compute_losses
from multihmr2_ros.training.matching import MatchingConfig
from test.helpers.nano_network import make_random_targets

SIZE = (240, 320)
WAYS = {"matched only": "location", "joints": "joints", "all queries posed": "joints"}


def measure(way: str, options: argparse.Namespace, result: Connection) -> None:
    torch.manual_seed(0)
    network, body = initialize(MultiHMR2(SCRATCH)).train(), Body("low")
    targets = make_random_targets(options.images, options.people, SIZE, SCRATCH.track_feature_width)
    image = torch.randint(0, 256, (options.images, 3, *SIZE), dtype=torch.uint8)
    given = torch.arange(options.images) % 2 == 0
    config = LossConfig(matching=MatchingConfig(cost=WAYS[way]))  # type: ignore[arg-type]
    regress_low_mesh_keypoints(
        body, torch.zeros(1, body.vertex_count, 3)
    )  # excludes memory that is allocated once from the step
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    start = memory_kib("VmRSS")
    times = []
    for _ in range(options.steps + 1):
        begin = time.perf_counter()
        outputs = network.predict_for_training(image, targets.k, given)
        total = torch.stack(list(compute_losses(network, outputs, targets, body, config).values())).sum()
        if way == "all queries posed":
            shape, rotations, _ = network.person(outputs.queries.flatten(0, 1))
            total = total + 0 * body(shape[:, :PHENOTYPES], rotations).vertices.sum()
        network.zero_grad()
        total.backward()
        times.append(time.perf_counter() - begin)
    result.send((min(times[1:]), sorted(times[1:])[options.steps // 2], (memory_kib("VmHWM") - start) / 1024))


def memory_kib(name: str) -> int:
    """Return a value in KiB of /proc (Linux only): VmRSS is the memory in use, VmHWM its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--people", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print(f"{options.images} images of {SIZE[1]} x {SIZE[0]}, {options.people} people each, {SCRATCH.queries} queries")
    for way in WAYS:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=measure, args=(way, options, sender))
        process.start()
        best, median, memory = receiver.recv()
        process.join()
        rate = options.images / median
        print(f"{way:18s} {best:.2f} s best, {median:.2f} s median, {rate:.1f} images/s, +{memory:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
