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

"""Running the network on a device: uint8 picture in host memory → arrays of the best people in host memory.

The GPU is waited for once per picture, when the results are read. For each picture size the same kernels run on the
same memory, so they can be captured in a CUDA graph.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from multihmr2_ros.body import Body
from multihmr2_ros.camera import ResizePad
from multihmr2_ros.errors import UserError
from multihmr2_ros.hardware import bf16_instructions, cpu_description, default_threads, keep_freed_memory
from multihmr2_ros.network.fused_movenet import fuse_encoder
from multihmr2_ros.network.keypoint_fitting import fit_to_keypoints
from multihmr2_ros.network.model import PHENOTYPES, MultiHMR2, place_bodies

logger = logging.getLogger(__name__)

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Mode = Literal["auto", "eager", "compiled", "graph", "compiled-graph"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

FUSED = ("cpu", "fp32", "eager")  # device, precision and mode in which a pretrained encoder is fused
LARGEST_THREADS = 1024

# Picture sizes whose CUDA graph is kept; a camera has one, a folder of photographs many.
KEPT_GRAPHS = 4
KEPT_UPLOADS = KEPT_GRAPHS + 1  # pinned buffers, one for each picture size and one for k
CAPTURES = threading.Lock()  # a process captures one graph at a time, whichever estimator's

Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class Runtime:
    """Where and how the network runs; `resolve` turns every "auto" into what this machine does best."""

    device: str = "auto"
    precision: Precision = "auto"
    mode: Mode = "auto"
    threads: int = 0  # of the CPU; 0: `default_threads`

    def resolve(self) -> Runtime:
        for name, choices in (("precision", get_args(Precision)), ("mode", get_args(Mode))):
            if getattr(self, name) not in choices:
                raise UserError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        device = _resolve_device(self.device)
        precision: Precision = _best_precision(device) if self.precision == "auto" else self.precision
        mode: Mode = ("graph" if device.type == "cuda" else "eager") if self.mode == "auto" else self.mode
        if "graph" in mode and device.type != "cuda":
            raise UserError(f"mode {mode!r} needs an NVIDIA GPU, got device {device}; use eager or compiled")
        if precision == "fp16" and device.type == "cpu":
            raise UserError("precision 'fp16' needs a GPU; on a CPU use bf16, fp32 or auto")
        if not 0 <= self.threads <= LARGEST_THREADS:
            raise UserError(f"threads must be from 0 (automatic) to {LARGEST_THREADS}, got {self.threads}")
        return Runtime(str(device), precision, mode, self.threads or default_threads())


def convert_network(network: MultiHMR2, runtime: Runtime) -> MultiHMR2:
    """The same network, itself changed to the device and the precision of a resolved runtime."""
    return network.set_precision(DTYPES[runtime.precision]).to(runtime.device)


def copy_without_tensors(network: MultiHMR2) -> MultiHMR2:
    """A network whose parameters are new objects on the same memory: converting it leaves the original as it was."""
    shared: dict[int, object] = {
        id(value): nn.Parameter(value.detach(), requires_grad=value.requires_grad) for value in network.parameters()
    }
    shared |= {id(value): value.detach() for value in network.buffers()}
    return copy.deepcopy(network, shared)


@contextlib.contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """PyTorch on `count` threads of the CPU, in the calling thread, while the block lasts."""
    before = torch.get_num_threads()
    if before != count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if before != count:
            torch.set_num_threads(before)


@contextlib.contextmanager
def exact_convolutions() -> Iterator[None]:
    """Convolutions of a GPU in float32 without TF32 while the block lasts; for the whole process."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


class Inference:
    """The network and the body on one device, for `max_people` people. The network that is given stays as it is."""

    def __init__(self, network: MultiHMR2, body: Body, runtime: Runtime, max_people: int) -> None:
        self.runtime = runtime.resolve()
        keep_freed_memory()
        self.device = _with_index(torch.device(self.runtime.device))
        self.network = convert_network(copy_without_tensors(network), self.runtime).eval()
        encoder = self.network.backbone.pretrained
        if encoder is not None and (self.device.type, self.runtime.precision, self.runtime.mode) == FUSED:
            fuse_encoder(encoder)
        self.body = body.to(self.device)
        self.max_people = max_people
        self._graphs: OrderedDict[tuple[int, ...], _Graph] = OrderedDict()
        self._host: dict[str, Tensor] = {}
        self._uploads: OrderedDict[tuple[int, ...], _Upload] = OrderedDict()
        self._forward: Callable[..., Outputs] = self._people
        if self.runtime.mode.startswith("compiled"):
            self._forward = torch.compile(self._people, dynamic=False)

    def __call__(
        self, image: NDArray[np.uint8], resize: ResizePad, k: NDArray[np.float64] | None
    ) -> dict[str, NDArray[np.float32]]:
        """The best `max_people` people of one picture, in descending score, present or not.

        image (H, W, 3) uint8 RGB; resize: how it becomes the network's input; k (3, 3) px of that input, or None to
        predict it. The arrays are views of memory that the next call writes again: horizontal_fov (), k (3, 3) px of
        the input, and, a row per person, score, shape, rotations, track_feature, bone_poses, joints, vertices,
        stature, as in `People`.
        """
        with torch.inference_mode(), self._on_device():
            return self._to_host(self._run(self.prepare(image, resize), *self._camera(k)))

    def change(self, body: Body, max_people: int) -> None:
        """Another body or number of people from the next picture on, which captures its graph anew."""
        self.body, self.max_people = body.to(self.device), max_people
        self._graphs.clear()
        self._host.clear()

    def prepare(self, image: NDArray[np.uint8], resize: ResizePad) -> Tensor:
        """(1, 3, H, W) uint8: resized (bicubic, antialiased) and padded with black, on the device."""
        pixels = self._upload(image).permute(2, 0, 1)[None]
        size = (resize.resized_height, resize.resized_width)
        if pixels.shape[-2:] != size:
            pixels = _resized(pixels, size)
        right = resize.padded_width - resize.resized_width - resize.pad_left
        bottom = resize.padded_height - resize.resized_height - resize.pad_top
        return functional.pad(pixels, (resize.pad_left, right, resize.pad_top, bottom))

    def _camera(self, k: NDArray[np.float64] | None) -> tuple[Tensor, Tensor]:
        """k (1, 3, 3), and whether it is given (1,), on the device."""
        given = torch.full((1,), k is not None, device=self.device)
        matrix = np.eye(3, dtype=np.float32) if k is None else np.array(k, np.float32)
        return self._upload(matrix)[None], given

    def _upload(self, values: NDArray[Any]) -> Tensor:
        """An array on the device, through pinned memory that is kept: the host does not wait for the copy."""
        if self.device.type != "cuda":
            # PyTorch takes arrays that may be written only; those of Pillow and of messages may not.
            return torch.from_numpy(np.require(values, requirements=("C", "W"))).to(self.device)
        if values.shape not in self._uploads:
            if len(self._uploads) == KEPT_UPLOADS:
                self._uploads.popitem(last=False)
            self._uploads[values.shape] = _Upload(values)
        self._uploads.move_to_end(values.shape)
        return self._uploads[values.shape](values, self.device)

    @contextlib.contextmanager
    def _on_device(self) -> Iterator[None]:
        """A CPU: on its number of threads. A GPU: makes it the current one, since streams and graphs are of the current
        one. fp32 means fp32 in convolutions too: PyTorch lets cuDNN round their inputs to TF32's 10 bits."""
        if self.device.type != "cuda":
            with limited_threads(self.runtime.threads):
                yield
            return
        exact = self.runtime.precision == "fp32"
        with torch.cuda.device(self.device), exact_convolutions() if exact else contextlib.nullcontext():
            yield

    def _people(self, image: Tensor, k: Tensor, k_given: Tensor) -> Outputs:
        prediction = fit_to_keypoints(self.body, self.network(image, k, k_given, self.max_people))
        placed = place_bodies(self.body, prediction)
        return {
            "horizontal_fov": prediction.horizontal_fov,
            "k": prediction.k,
            "score": prediction.score,
            "shape": prediction.shape[..., :PHENOTYPES],
            "rotations": prediction.rotations,
            "track_feature": prediction.track_feature,
            "bone_poses": placed.bone_poses,
            "joints": placed.joints,
            "vertices": placed.vertices,
            "stature": placed.stature,
        }

    def _run(self, *inputs: Tensor) -> Outputs:
        if "graph" not in self.runtime.mode:
            return self._forward(*inputs)
        size = tuple(inputs[0].shape)
        if size not in self._graphs and not self._capture(inputs):
            return self._forward(*inputs)
        self._graphs.move_to_end(size)
        return self._graphs[size](inputs)

    def _capture(self, inputs: tuple[Tensor, ...]) -> bool:
        """Keep a graph for inputs of this size. False where it cannot be captured: no further one is tried then."""
        if len(self._graphs) == KEPT_GRAPHS:
            self._graphs.popitem(last=False)
        try:
            with CAPTURES:
                self._graphs[tuple(inputs[0].shape)] = _Graph(self._forward, inputs)
        except _NotCaptured as error:
            mode: Mode = "compiled" if self.runtime.mode.startswith("compiled") else "eager"
            logger.warning("the CUDA graph cannot be captured (%s); the network runs in mode %s", error, mode)
            self.runtime = dataclasses.replace(self.runtime, mode=mode)
            self._graphs.clear()
            return False
        return True

    def _to_host(self, outputs: Outputs) -> dict[str, NDArray[np.float32]]:
        if self.device.type == "cpu":
            return {name: value[0].numpy() for name, value in outputs.items()}
        for name, value in outputs.items():
            if name not in self._host:
                self._host[name] = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            self._host[name].copy_(value, non_blocking=True)
        # The stream alone: waiting for the whole device would break a capture that another thread makes meanwhile.
        torch.cuda.current_stream(self.device).synchronize()
        return {name: self._host[name][0].numpy() for name in outputs}


class _Upload:
    """Pinned memory for arrays of one shape and type, on its way to a GPU. Allocating it anew takes milliseconds."""

    def __init__(self, like: NDArray[Any]) -> None:
        dtype = torch.from_numpy(np.empty(0, like.dtype)).dtype
        self._pinned = torch.empty(like.shape, dtype=dtype, pin_memory=True)
        self._copied = torch.cuda.Event()

    def __call__(self, values: NDArray[Any], device: torch.device) -> Tensor:
        self._copied.synchronize()  # the copy before; it is over, where its results were waited for
        np.copyto(self._pinned.numpy(), values)
        there = self._pinned.to(device, non_blocking=True)
        self._copied.record()
        return there


class _NotCaptured(Exception):
    """A network's work cannot be captured; why, in one line."""


class _Graph:
    """One captured CUDA graph: copies its inputs in, replays, returns its own output memory.

    On the current device, which must be that of the inputs. Other threads may use the GPU meanwhile, but not capture.
    """

    def __init__(self, function: Callable[..., Outputs], inputs: tuple[Tensor, ...]) -> None:
        self._inputs = tuple(value.clone() for value in inputs)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # lazy initialisation and autotuning must not be captured
            for _ in range(3):
                function(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with _capture_errors(), torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._outputs = function(*self._inputs)

    def __call__(self, inputs: tuple[Tensor, ...]) -> Outputs:
        for own, value in zip(self._inputs, inputs, strict=True):
            own.copy_(value, non_blocking=True)
        self._graph.replay()
        return self._outputs


@contextlib.contextmanager
def _capture_errors() -> Iterator[None]:
    """Turns errors of a capture into _NotCaptured, but for those of memory, and leaves the current stream as it was."""
    stream = torch.cuda.current_stream()
    try:
        yield
    except RuntimeError as error:
        torch.cuda.set_stream(stream)  # PyTorch leaves a failed capture's stream the current one
        reason = error.__context__ or error  # the end of a capture fails after what made it fail
        if isinstance(reason, torch.OutOfMemoryError):
            raise reason from None
        raise _NotCaptured(str(reason).partition("\n")[0]) from error


def _resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    if pixels.device.type == "cpu":
        return functional.interpolate(pixels, size, mode="bicubic", antialias=True)
    # The GPU kernel knows no uint8; rounding and clamping are what the CPU's does.
    resized = functional.interpolate(pixels.float(), size, mode="bicubic", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)


def _resolve_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device {name!r} is not there: PyTorch sees {torch.cuda.device_count()} NVIDIA GPUs; choose the device "
            "cpu, or see `multihmr2 doctor`"
        )
    return device


def _with_index(device: torch.device) -> torch.device:
    """cuda as cuda:N: the GPU that is current now, which may change later."""
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", torch.cuda.current_device())


def _best_precision(device: torch.device) -> Precision:
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return "bf16" if bf16_instructions(cpu_description()) else "fp32"
