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

"""Loads batches in loader processes, with errors and signals handled in the training process."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.data import DataLoader, Dataset

from multihmr2_ros.errors import UserError
from multihmr2_ros.training.data import Batch


def load_batches(batches: Dataset[Batch], steps: range, workers: int) -> Iterator[Batch]:
    """Yield the batches of the steps, made by a number of loader processes; 0: by this process.

    Raises UserError of the data set, also from a loader process, and if a loader process ends unexpectedly.
    """
    loader: DataLoader[Batch] = DataLoader(
        batches,
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        prefetch_factor=3 if workers else None,
        worker_init_fn=_ignore_worker_signals,
    )
    with _ignore_child_signals(), _stop_opencv_threads():
        loaded = iter(loader)
    try:
        yield from loaded
    except UserError as error:
        # PyTorch puts a loader process's traceback before the message, and UserError a ? for each line break.
        _, is_remote, message = str(error).rpartition("UserError: ")
        raise UserError(message.removesuffix("?") if is_remote else message) from None
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        raise UserError(
            f"a loader process ended unexpectedly ({error}); if memory was full, use fewer --loader-workers; "
            "continue with --resume"
        ) from None
    finally:
        if workers:
            # Otherwise they run as long as this iterator is referred to, for example by the traceback of an error, and
            # Python waits for them at its end.
            loaded._shutdown_workers()  # type: ignore[attr-defined]


@contextmanager
def _ignore_child_signals() -> Iterator[None]:
    """Restore the SIGCHLD handler at the end: DataLoader's would raise anywhere in a step.

    Without it, a dead loader process is noticed when the next batch is read.
    """
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


@contextmanager
def _stop_opencv_threads() -> Iterator[None]:
    """Let OpenCV use one thread in the block, and so in the processes that it starts.

    A child of a process with OpenCV threads has their locks without the threads, and would wait for them forever.
    """
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _ignore_worker_signals(worker: int) -> None:
    """Set up a loader process: one thread, SIGINT, SIGTERM and SIGHUP ignored.

    SLURM and systemd send SIGTERM to every process of a job, and a closed terminal SIGHUP, but only the trainer handles
    them: it ends its loaders, and they also end when it dies.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
