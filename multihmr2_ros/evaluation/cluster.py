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

"""Evaluation of many sequences in parallel with Dask: on this machine, or on a cluster with the same file system."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.run import SequenceResult, describe_failure
from multihmr2_ros.evaluation.totals import Totals
from multihmr2_ros.media.sources import make_source_name
from multihmr2_ros.progress import make_progress_bar

CONNECT_TIMEOUT_S = 15


class Job(Protocol):
    """The attributes of a job that name it if it fails."""

    @property
    def path(self) -> Path: ...

    @property
    def kind(self) -> str: ...

    @property
    def folder(self) -> str: ...


AnyJob = TypeVar("AnyJob", bound=Job)


def run_in_cluster(
    function: Callable[[AnyJob], SequenceResult],
    jobs: Sequence[AnyJob],
    workers: int = 0,
    scheduler: str | None = None,
    start: Callable[[], None] = lambda: None,
) -> list[SequenceResult]:
    """Call function(job) for every job in parallel; the results are in the order of the jobs.

    function   evaluates one job
    jobs       the jobs
    workers    number of processes on this machine
    scheduler  address of a Dask scheduler, used instead of processes on this machine
    start      called before the first job, when Dask is ready

    A job that fails, or whose process dies, gives a result with a problem; the others continue. Raises UserError if
    Dask is missing or the scheduler does not answer.
    """
    with _connect_client(workers, scheduler) as client:
        from distributed import as_completed

        start()
        futures: list[Any] = []
        running = as_completed()

        def submit_next() -> None:
            """Submit jobs until each thread has one.

            If a worker process dies, Dask blames all jobs that were submitted to it.
            """
            while len(futures) < len(jobs) and running.count() < max(1, sum(client.nthreads().values())):
                futures.append(client.submit(function, jobs[len(futures)], pure=False, retries=0))
                running.add(futures[-1])

        submit_next()
        for _ in make_progress_bar(running, name="bags", unit="bag", total=len(jobs)):
            submit_next()
        return [_get_result(job, future) for job, future in zip(jobs, futures, strict=True)]


@contextlib.contextmanager
def _connect_client(workers: int, scheduler: str | None) -> Iterator[Any]:
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise UserError(
            "--workers and --scheduler need Dask: pip install 'multihmr2_ros[eval]' (dask[distributed])"
        ) from None
    logging.getLogger("distributed").setLevel(logging.ERROR)  # the command prints its own messages
    with contextlib.ExitStack() as stack:
        if scheduler is None:
            if workers < 1:
                raise UserError(f"--workers must be at least 1, got {workers}")
            cluster = LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=logging.ERROR
            )
            scheduler = str(stack.enter_context(cluster).scheduler_address)
        try:
            client = stack.enter_context(Client(scheduler, timeout=CONNECT_TIMEOUT_S))
        except (OSError, ValueError) as error:  # no answer, or an invalid address
            reason = " ".join(str(error).split()) or "no answer"
            raise UserError(
                f"no Dask scheduler at {scheduler} ({reason}); start one with `dask scheduler`, or use --workers"
            ) from error
        yield client


def _get_result(job: Job, future: Any) -> SequenceResult:
    error = future.exception()
    if error is None:
        result: SequenceResult = future.result()
        return result
    problem = describe_failure(job.path, error)
    return SequenceResult(make_source_name(job.path), str(job.path), job.kind, job.folder, Totals(), (problem,))
