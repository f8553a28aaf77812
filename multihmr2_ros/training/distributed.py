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

"""Processes started by torchrun that train one network together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed

from multihmr2_ros.errors import UserError


@dataclass(frozen=True)
class ProcessGroup:
    """The group of processes of a run.

    rank        index of this process
    count       number of processes
    local_rank  index of this process on its machine, also of its GPU
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def reduce_any(self, flag: bool, device: torch.device) -> bool:
        """Return whether the flag is set in any process; a collective call of all processes."""
        if self.count == 1:
            return flag
        value = torch.tensor(float(flag), device=device)
        distributed.all_reduce(value, distributed.ReduceOp.MAX)
        return bool(value)

    def wait(self) -> None:
        """Wait until all processes have made this call."""
        if self.count > 1:
            distributed.barrier()


@contextmanager
def connect_processes(device: torch.device | str) -> Iterator[ProcessGroup]:
    """Join the process group of torchrun (RANK, WORLD_SIZE and LOCAL_RANK), or yield a single process without it.

    device: of this process, from `choose_device`; a GPU also becomes the current one.
    """
    device = torch.device(device)
    is_gpu = device.type == "cuda"
    if is_gpu:
        torch.cuda.set_device(device)  # before the group is made: NCCL uses the current device
    if not _has_others(os.environ):
        yield ProcessGroup()
        return
    distributed.init_process_group("nccl" if is_gpu else "gloo", device_id=device if is_gpu else None)
    try:
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        yield ProcessGroup(distributed.get_rank(), distributed.get_world_size(), local_rank)
    finally:
        distributed.destroy_process_group()


def choose_device(chosen: torch.device, environment: Mapping[str, str]) -> torch.device:
    """Return the device of this process, with an index if it is a GPU.

    It is the chosen one, or the GPU of the local rank if several processes share this machine's GPUs. Raises UserError
    if one GPU was chosen for several processes, or if there are more processes than GPUs.
    """
    if chosen.type != "cuda":
        return chosen
    local_count = int(environment.get("LOCAL_WORLD_SIZE", 1)) if _has_others(environment) else 1
    if local_count == 1:
        return chosen if chosen.index is not None else torch.device("cuda", torch.cuda.current_device())
    if chosen.index is not None:
        raise UserError(
            f"--device {chosen} is one GPU, but torchrun starts {local_count} processes on this machine; pass --device "
            "cuda, and choose GPUs with CUDA_VISIBLE_DEVICES"
        )
    if local_count > torch.cuda.device_count():
        raise UserError(
            f"torchrun starts {local_count} processes on this machine, but it has {torch.cuda.device_count()} GPUs; "
            "pass a smaller --nproc-per-node, or --device cpu"
        )
    return torch.device("cuda", int(environment.get("LOCAL_RANK", 0)))


def _has_others(environment: Mapping[str, str]) -> bool:
    return "RANK" in environment and "WORLD_SIZE" in environment
