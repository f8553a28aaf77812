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

"""Fuzzing of every parser of outside data: `python -m test.fuzz --inputs 100000 --parser bvh --parser mcap`.

Each input is determined by the seed and its number. A child process parses the inputs and the parent process monitors
it, so that crashes and hangs are reported like any exception other than UserError. Also reported: memory that grows
over thousands of inputs, and an input that takes too much memory or seconds of CPU time.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import logging
import multiprocessing
import os
import random
import resource
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multihmr2_ros.errors import UserError
from test.fuzz.target import Target

PARSERS = {
    "image": "messages.RawImages",
    "compressed": "messages.CompressedImages",
    "camera_info": "messages.Calibrations",
    "human_array": "messages.RecordedPeople",
    "parameters": "messages.Parameters",
    "mcap": "bags.McapBags",
    "db3": "bags.Sqlite3Bags",
    "metadata": "bags.BagMetadata",
    "safetensors": "weights.Checkpoints",
    "pickle": "weights.ReleasedCheckpoints",
    "bvh": "files.Motions",
    "garment": "files.Garments",
    "picture": "files.Images",
    "video": "files.Videos",
    "dataset_pickle": "datasets.Pickles",
    "dataset_npz": "datasets.Archives",
    "dataset_colmap": "datasets.Colmap",
    "dataset_toml": "datasets.Calibrations",
    "dataset_annotations": "datasets.Annotations",
    "dataset_regressor": "datasets.Regressors",
}
SLOW_S = 5.0  # CPU time of one input
HANGS_S = 120.0  # wall time; longer because the machine may be busy
START_S = 300.0  # for creating the target
LARGE_MIB = 700.0  # increase of the peak memory by one input; the largest accepted image needs 400
GROWTH_MIB = 48.0  # over the second half of many inputs
ROUND = 250  # inputs between two reports of the child


@dataclass
class Report:
    """Results of a number of inputs, read in seconds_s (without the time for creating the target).

    findings: description → the numbers of the first few inputs.
    """

    inputs: int = 0
    refused: int = 0
    seconds_s: float = 0.0
    findings: dict[str, list[int]] = field(default_factory=dict)
    memory_mib: list[float] = field(default_factory=list)
    slowest_s: float = 0.0

    @property
    def growth_mib(self) -> float:
        """Memory growth (MiB) over the second half of the inputs."""
        half = self.memory_mib[len(self.memory_mib) // 2 :]
        return half[-1] - half[0] if half else 0.0

    def add(self, what: str, index: int) -> None:
        known = self.findings.setdefault(what, [])
        if len(known) < 5:
            known.append(index)


def load(name: str, folder: Path) -> Target:
    module, _, kind = PARSERS.get(name, name).partition(".")
    return getattr(__import__(f"test.fuzz.{module}", fromlist=[kind]), kind)(folder)


def input_of(target: Target, seed: int, index: int) -> bytes:
    return target.damaged(random.Random((seed << 40) + index))


def outcome(target: Target, data: bytes) -> str:
    """Return "" if the input is read, "refused" for a UserError with one nonempty line, and otherwise the fault."""
    try:
        target.parse(data)
    except UserError as error:
        return "refused" if str(error).strip() else "UserError that says nothing"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)
        ours = [place for place in where if "multihmr2_ros" in place.filename] or where
        return f"{type(error).__name__} in {Path(ours[-1].filename).name}:{ours[-1].name}: {str(error)[:100]!r}"
    return ""


def kept_mib() -> float:
    """Return the memory in use (MiB), without free memory kept by the allocator."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not GNU's C library
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def most_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def scratch() -> tempfile.TemporaryDirectory[str]:
    """Yield a temporary folder for a target, in memory if possible: a disk is slower than most parsers."""
    memory = "/dev/shm"
    return tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory if os.access(memory, os.W_OK) else None)


def _child(name: str, folder: str, seed: int, begin: int, end: int, at: Any, pipe: Any) -> None:
    """Parse the inputs; `at` holds the number of the current one."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders write to it
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    tempfile.tempdir = folder  # for files that the parsers unpack
    target = load(name, Path(folder))
    pipe.send(("made",))
    counts: Counter[str] = Counter()
    slowest_s = 0.0
    for index in range(begin, end):
        at.value = index
        data = input_of(target, seed, index)
        before_mib, before_s = most_mib(), time.process_time()
        what = outcome(target, data)
        taken_s, taken_mib = time.process_time() - before_s, most_mib() - before_mib
        slowest_s = max(slowest_s, taken_s)
        if taken_s > SLOW_S:
            pipe.send(("finding", "takes seconds of the processor", index))
        if taken_mib > LARGE_MIB:
            pipe.send(("finding", "takes much memory", index))
        if what not in ("", "refused"):
            pipe.send(("finding", what, index))
        counts[what] += 1
        if index == begin:
            gc.collect()
            gc.freeze()  # excludes the libraries' own objects from every later garbage collection
        if (index + 1 - begin) % ROUND == 0 or index + 1 == end:
            pipe.send(("round", index + 1, counts["refused"], kept_mib(), slowest_s))
    pipe.send(("end",))


def fuzz(name: str, inputs: int, seed: int = 0, tell: Callable[[str], None] = lambda _: None) -> Report:
    """Run a parser on a number of inputs; after a crash or a hang, continue with the next input in a new child."""
    report, begin = Report(), 0
    while begin < inputs:
        with scratch() as folder:
            begin = _run_child(name, folder, seed, begin, inputs, report, tell)
    report.inputs = inputs
    if inputs >= 20_000 and report.growth_mib > GROWTH_MIB:
        report.add(f"memory grows by {report.growth_mib:.0f} MiB", inputs)
    return report


def _run_child(
    name: str, folder: str, seed: int, begin: int, inputs: int, report: Report, tell: Callable[[str], None]
) -> int:
    """Add the findings of one child to the report and return the number of the next input."""
    context = multiprocessing.get_context("spawn")
    at = context.RawValue("q", begin - 1)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(name, folder, seed, begin, inputs, at, sender), daemon=True)
    child.start()
    sender.close()
    start_s = told_s = since_s = time.monotonic()
    seconds_before_s, refused_before, last, has_ended = report.seconds_s, report.refused, at.value, False
    hangs = False
    while not has_ended:
        try:
            message = receiver.recv() if receiver.poll(0.25) else None
        except EOFError:
            break
        now_s = time.monotonic()
        if message is None:
            if at.value != last:
                last, since_s = at.value, now_s
            elif now_s - since_s > (HANGS_S if at.value >= begin else START_S):
                hangs = True
                report.add("hangs", at.value)
                child.kill()
                break
        elif message[0] == "made":
            start_s = now_s
        elif message[0] == "finding":
            if message[1] not in report.findings:
                tell(f"{name}: {message[1]}: input {message[2]}")
            report.add(message[1], message[2])
        elif message[0] == "round":
            report.inputs, report.refused = message[1], refused_before + message[2]
            report.memory_mib.append(message[3])
            report.slowest_s = max(report.slowest_s, message[4])
        else:
            has_ended = True
        report.seconds_s = seconds_before_s + now_s - start_s
        if now_s - told_s > 30.0:
            told_s = now_s
            tell(summary(name, report))
    child.join(10.0)
    if at.value < begin:
        raise RuntimeError(f"the target {name} cannot be made; try test.fuzz.load")
    if not has_ended and not hangs:  # with any status: a parser may call sys.exit(0)
        report.add(f"the process ends with {child.exitcode}", at.value)
    if not has_ended:
        report.memory_mib.clear()
    return inputs if has_ended else at.value + 1


def summary(name: str, report: Report) -> str:
    rate = report.inputs / max(report.seconds_s, 1e-3)
    return (
        f"{name}: {report.inputs} inputs, {rate:.0f}/s, {report.refused} refused, "
        f"slowest {report.slowest_s:.2f} s, memory grew by {report.growth_mib:.1f} MiB over the second half, "
        f"{len(report.findings)} findings"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--parser", action="append", choices=sorted(PARSERS), help="default: all of them")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = False
    for name in options.parser or PARSERS:
        report = fuzz(name, options.inputs, options.seed, lambda line: print(line, flush=True))
        print("end:", summary(name, report), flush=True)
        for what, indices in report.findings.items():
            found = True
            print(f"  {what}: inputs {', '.join(map(str, indices))}", flush=True)
    return 1 if found else 0
