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

"""Copies between host memory and a GPU through pinned memory; the host does not wait for them."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MAX_UPLOADS = 5  # pinned buffers of a thread, one for each image size and one for k
VERTICES = "vertices"  # the largest output, which is copied only if it is requested

Outputs = dict[str, Tensor]


class Uploader:
    """Copies arrays to one GPU on a stream of its own, so that an image is uploaded while the network runs.

    Thread-safe: each thread has its own pinned memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        self._thread_local = threading.local()

    @contextlib.contextmanager
    def on_stream(self) -> Iterator[None]:
        """Run the operations of the block on the stream for copies."""
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        with torch.cuda.stream(self._stream):
            yield

    def __call__(self, values: NDArray[Any]) -> Tensor:
        """Start the copy of an array to the GPU on the current stream."""
        buffers: OrderedDict[tuple[int, ...], _PinnedBuffers]
        buffers = vars(self._thread_local).setdefault("buffers", OrderedDict())
        if values.shape not in buffers:
            if len(buffers) == MAX_UPLOADS:
                buffers.popitem(last=False)
            buffers[values.shape] = _PinnedBuffers(values)
        buffers.move_to_end(values.shape)
        return buffers[values.shape].upload(values, self._device)


class _PinnedBuffers:
    """Two pinned buffers for arrays of one shape and type: one is written while the other is copied.

    They are reused, because their allocation takes milliseconds.
    """

    def __init__(self, example: NDArray[Any]) -> None:
        dtype = torch.from_numpy(np.empty(0, example.dtype)).dtype
        self._next, self._last = (
            (torch.empty(example.shape, dtype=dtype, pin_memory=True), torch.cuda.Event()) for _ in range(2)
        )

    def upload(self, values: NDArray[Any], device: torch.device) -> Tensor:
        pinned, copied = self._next
        self._next, self._last = self._last, self._next
        copied.synchronize()  # of the copy before the previous one
        np.copyto(pinned.numpy(), values)
        on_device = pinned.to(device, non_blocking=True)
        copied.record()
        return on_device


@dataclass(frozen=True)
class PackedOutputs:
    """The network's outputs in one buffer of a GPU, so that one copy suffices. Vertices are at the end.

    buffer  (N,) float32
    shapes  of the outputs, in the order of the buffer
    """

    buffer: Tensor
    shapes: dict[str, torch.Size]

    @classmethod
    def pack(cls, outputs: Outputs) -> PackedOutputs:
        names = sorted(outputs, key=lambda name: name == VERTICES)
        buffer = torch.cat([outputs[name].flatten() for name in names])
        return cls(buffer, {name: outputs[name].shape for name in names})

    def select_names(self, *, vertices: bool) -> list[str]:
        return [name for name in self.shapes if vertices or name != VERTICES]

    def unpack(self, buffer: Tensor, names: list[str]) -> Outputs:
        """Return the first outputs as views of a buffer with the same content."""
        sizes = [self.shapes[name].numel() for name in names]
        parts = buffer[: sum(sizes)].split(sizes)
        return {name: part.view(self.shapes[name]) for name, part in zip(names, parts, strict=True)}


class Downloader:
    """Copies packed outputs to pinned memory, which the next call overwrites, and waits once for the current stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pinned: dict[int, Tensor] = {}

    def __call__(self, packed: PackedOutputs, *, vertices: bool) -> Outputs:
        """Return the outputs in host memory; vertices: whether they are copied, too."""
        size = packed.buffer.numel()
        if size not in self._pinned:
            self._pinned[size] = torch.empty(size, dtype=packed.buffer.dtype, pin_memory=True)
        names = packed.select_names(vertices=vertices)
        count = sum(packed.shapes[name].numel() for name in names)
        pinned = self._pinned[size][:count]
        pinned.copy_(packed.buffer[:count], non_blocking=True)
        # Only the stream: synchronizing the whole device would break a capture in another thread.
        torch.cuda.current_stream(self._device).synchronize()
        return packed.unpack(pinned, names)

    def clear(self) -> None:
        self._pinned.clear()
