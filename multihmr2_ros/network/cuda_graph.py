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

"""CUDA graphs of the network, with errors of a capture in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


class CaptureError(Exception):
    """Error if the network cannot be captured in a CUDA graph; the message is one line."""


class CudaGraph(Generic[Result]):
    """A captured CUDA graph. A call copies the inputs, replays the graph, and returns the graph's output memory.

    It is captured on the current device, which must be the inputs' device. During the capture, other threads may use
    the GPU, but not capture.
    """

    def __init__(self, function: Callable[..., Result], inputs: tuple[Tensor, ...]) -> None:
        self._inputs = tuple(value.clone() for value in inputs)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # lazy initialization and autotuning must not be captured
            for _ in range(3):
                function(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with _convert_capture_errors(), torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._outputs = function(*self._inputs)

    def __call__(self, inputs: tuple[Tensor, ...]) -> Result:
        for own, value in zip(self._inputs, inputs, strict=True):
            own.copy_(value, non_blocking=True)
        self._graph.replay()
        return self._outputs


@contextlib.contextmanager
def _convert_capture_errors() -> Iterator[None]:
    """Convert errors of a capture, except out of memory, to CaptureError, and restore the current stream."""
    stream = torch.cuda.current_stream()
    try:
        yield
    except RuntimeError as error:
        torch.cuda.set_stream(stream)  # after a failed capture, PyTorch does not restore the current stream
        reason = error.__context__ or error  # the end of a failed capture raises a second error
        if isinstance(reason, torch.OutOfMemoryError):
            raise reason from None
        raise CaptureError(str(reason).partition("\n")[0]) from error
