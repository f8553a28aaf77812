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

"""A stand-in for `torch.cuda` on machines without a GPU: graphs, streams and copies on the CPU, with their order
recorded.

A capture records PyTorch's operations and their memory; a replay runs them again on that memory, independently of the
surrounding Python code. A graph that reads values on the host or uses freed memory therefore gives wrong numbers, as on
a GPU. Nothing is asynchronous: effects of missing synchronization cannot be observed, only whether the code
synchronizes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from multihmr2_ros.estimator import Estimator
from multihmr2_ros.network.inference import Inference, Mode
from multihmr2_ros.network.transfers import Downloader, Uploader

GPU = torch.device("cuda", 0)
REPLACED = ("device", "Stream", "Event", "stream", "set_stream", "current_stream", "CUDAGraph", "graph", "synchronize")


class StandInCuda:
    """Replacement of `torch.cuda` that records the calls as text in `notes`. Each thread must use `with
    cuda.memory():`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.notes: list[str] = []
        self.pinned: dict[int, Tensor] = {}  # by address
        self.kept: set[int] = set()  # addresses of memory that is kept until another stream has read it
        self.captures, self.most_captures = 0, 0  # number of simultaneous captures
        self._here = threading.local()
        self._main = _Stream(self, "main")
        self._events: list[_Event] = []
        for name in REPLACED:
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: self.kept.add(tensor.data_ptr()))

    def take_notes(self) -> list[str]:
        """Return the notes since the last call and clear them."""
        notes, self.notes = self.notes, []
        return notes

    def memory(self) -> _Memory:
        return _Memory(self)

    def use(self, estimator: Estimator, mode: Mode = "graph") -> Estimator:
        """Return the same estimator, created for the CPU, configured as if it were on a GPU."""
        assert isinstance(estimator.inference, Inference)
        self.use_inference(estimator.inference, mode)
        return estimator

    def use_inference(self, infer: Inference, mode: Mode = "graph") -> None:
        infer.device = GPU
        infer._upload, infer._download = Uploader(GPU), Downloader(GPU)
        infer.runtime = dataclasses.replace(infer.runtime, device=str(GPU), mode=mode)
        infer._forward = self._noted(infer._forward)

    @property
    def captures_here(self) -> bool:
        return getattr(self._here, "captures", False)

    def _noted(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*inputs: Tensor) -> Any:
            self.notes.append(f"forward on {self.current_stream().name}")
            return forward(*inputs)

        return noted

    # --- replacements of torch.cuda's functions

    @contextlib.contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        self.notes.append(f"enter {device}")
        self._here.device = device
        try:
            yield
        finally:
            self._here.device = None
            self.notes.append(f"leave {device}")

    def Stream(self) -> _Stream:
        return _Stream(self, "side")

    def Event(self) -> _Event:
        self._events.append(_Event(self))
        return self._events[-1]

    @contextlib.contextmanager
    def stream(self, stream: _Stream) -> Iterator[None]:
        before = self.current_stream()
        self.set_stream(stream)
        yield
        self.set_stream(before)

    def set_stream(self, stream: _Stream) -> None:
        self._here.stream = stream

    def current_stream(self, device: torch.device | None = None) -> _Stream:
        return getattr(self._here, "stream", self._main)

    def CUDAGraph(self) -> _RecordedGraph:
        return _RecordedGraph(self)

    @contextlib.contextmanager
    def graph(self, graph: _RecordedGraph, capture_error_mode: str = "global") -> Iterator[None]:
        assert self._here.device == GPU, "a capture is on the current device"
        self.notes.append(f"capture, {capture_error_mode}")
        before = self.current_stream()
        self.set_stream(_Stream(self, "capture's"))
        self._here.captures = True
        self.captures += 1
        self.most_captures = max(self.most_captures, self.captures)
        try:
            with _Recording() as recording:
                yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # as in PyTorch, the stream remains set
            reason = "CUDA error: operation failed due to a previous error during capture\nCompile with it"
            raise torch.AcceleratorError(reason) from error
        finally:
            self._here.captures = False
            self.captures -= 1
        self.set_stream(before)
        graph.calls = recording.calls
        self.notes.append("captured")

    def synchronize(self, device: torch.device | None = None) -> None:
        raise AssertionError("waiting for the whole device breaks another thread's capture")

    def complete(self) -> None:
        for event in self._events:
            event.is_pending = False


class _Stream:
    def __init__(self, cuda: StandInCuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def wait_stream(self, other: _Stream) -> None:
        self.cuda.notes.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event: _Event) -> None:
        self.cuda.notes.append(f"{self.name} waits for {event.stream}")

    def synchronize(self) -> None:
        self.cuda.notes.append(f"host waits for {self.name}")
        self.cuda.complete()


class _Event:
    def __init__(self, cuda: StandInCuda) -> None:
        self.cuda, self.is_pending, self.stream = cuda, False, ""

    def record(self) -> None:
        self.is_pending, self.stream = True, self.cuda.current_stream().name

    def synchronize(self) -> None:
        if self.is_pending:
            self.cuda.notes.append("host waits for a copy")


class _RecordedGraph:
    def __init__(self, cuda: StandInCuda) -> None:
        self.cuda = cuda
        self.calls: list[Any] = []

    def replay(self) -> None:
        self.cuda.notes.append("replay")
        with torch._C.DisableTorchFunction():  # hidden from `_Memory`
            for function, args, kwargs, result in self.calls:
                again = function(*args, **kwargs)
                for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():  # neither a view nor in place
                        old.copy_(new)


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, result))
        return result


class _Memory(TorchFunctionMode):
    """Dispatch mode that keeps GPU tensors on the CPU and records which are pinned and the copies from and to them."""

    def __init__(self, cuda: StandInCuda) -> None:
        super().__init__()
        self.cuda = cuda

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.Tensor.to and args[1] == GPU:
            return self._upload(args[0], kwargs)
        if function is torch.Tensor.copy_ and not self.cuda.captures_here:
            self._note_copy(args[0], args[1], kwargs)
        is_pinned = kwargs.pop("pin_memory", False)
        if kwargs.get("device") == GPU:
            del kwargs["device"]
        result = function(*args, **kwargs)
        if is_pinned:
            self.cuda.pinned[result.data_ptr()] = result
            self.cuda.notes.append(f"pin {tuple(result.shape)}")
        return result

    def _upload(self, value: Tensor, kwargs: dict[str, Any]) -> Tensor:
        waits = not kwargs.get("non_blocking") or value.data_ptr() not in self.cuda.pinned
        self.cuda.notes.append(f"{'upload and wait' if waits else 'upload'} on {self.cuda.current_stream().name}")
        return value.clone()

    def _note_copy(self, target: Tensor, source: Tensor, kwargs: dict[str, Any]) -> None:
        assert kwargs["non_blocking"], "the host waits for a copy"
        is_download = target.data_ptr() in self.cuda.pinned
        self.cuda.notes.append(f"download {target.numel()}" if is_download else "copy in")
