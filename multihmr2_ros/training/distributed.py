"""Several processes that train one network, as torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed


@dataclass(frozen=True)
class Processes:
    """rank: which of `count` processes this is; local_rank: on its machine, which is also its GPU."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set in any process; all must ask."""
        if self.count == 1:
            return flag
        value = torch.tensor(float(flag), device=device)
        distributed.all_reduce(value, distributed.ReduceOp.MAX)
        return bool(value)

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.count > 1:
            distributed.barrier()


@contextmanager
def processes(device_type: str) -> Iterator[Processes]:
    """The processes that torchrun started (RANK, WORLD_SIZE and LOCAL_RANK say so), connected; or one alone."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Processes()
        return
    distributed.init_process_group("nccl" if device_type == "cuda" else "gloo")
    try:
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        yield Processes(distributed.get_rank(), distributed.get_world_size(), local_rank)
    finally:
        distributed.destroy_process_group()
