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

"""Runs the network on a device: uint8 image in host memory → arrays of the people of highest score in host memory.

The host is synchronized with the GPU once per image or batch, to read the results. Images are uploaded on a stream of
their own. For each size of the batch and of its images, the same kernels run on the same memory, so they can be
captured in a CUDA graph.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from multihmr2_ros.body import Body, PosedBody
from multihmr2_ros.camera import ResizePad
from multihmr2_ros.errors import UserError
from multihmr2_ros.hardware import (
    choose_default_threads,
    keep_freed_memory,
    list_bf16_instructions,
    read_cpu_description,
)
from multihmr2_ros.network.cuda_graph import CaptureError, CudaGraph
from multihmr2_ros.network.fused_movenet import fuse_encoder
from multihmr2_ros.network.keypoint_fitting import KeypointFitter
from multihmr2_ros.network.model import PHENOTYPES, MultiHMR2, place_bodies
from multihmr2_ros.network.transfers import VERTICES, Downloader, Outputs, PackedOutputs, Uploader

logger = logging.getLogger(__name__)

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Mode = Literal["auto", "eager", "compiled", "graph", "compiled-graph"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

FUSED = ("cpu", "fp32", "eager")  # device, precision and mode in which a pretrained encoder is fused
MAX_THREADS = 1024

# Maximum number of image sizes whose CUDA graph is kept, for each batch size; a camera has one image size, a folder of
# photographs many.
MAX_GRAPHS = 4
CAPTURE_LOCK = threading.Lock()  # all estimators of a process capture one graph at a time


@dataclass(frozen=True)
class Runtime:
    """Device, precision, mode and threads of the network; `resolve` replaces "auto" by the best for this machine."""

    device: str = "auto"
    precision: Precision = "auto"
    mode: Mode = "auto"
    threads: int = 0  # of the CPU; 0: `choose_default_threads`

    def resolve(self) -> Runtime:
        """Return the runtime without "auto". Raises UserError for choices that this machine does not have."""
        for name, choices in (("precision", get_args(Precision)), ("mode", get_args(Mode))):
            if getattr(self, name) not in choices:
                raise UserError(f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        device = _resolve_device(self.device)
        precision: Precision = _choose_precision(device) if self.precision == "auto" else self.precision
        mode: Mode = ("graph" if device.type == "cuda" else "eager") if self.mode == "auto" else self.mode
        if "graph" in mode and device.type != "cuda":
            raise UserError(f"mode {mode!r} needs an NVIDIA GPU, got device {device}; use eager or compiled")
        if precision == "fp16" and device.type == "cpu":
            raise UserError("precision 'fp16' needs a GPU; on a CPU use bf16, fp32 or auto")
        if not 0 <= self.threads <= MAX_THREADS:
            raise UserError(f"threads must be from 0 (automatic) to {MAX_THREADS}, got {self.threads}")
        return Runtime(str(device), precision, mode, self.threads or choose_default_threads())


def convert_network(network: MultiHMR2, runtime: Runtime) -> MultiHMR2:
    """Convert the network in place to the device and precision of a resolved runtime, and return it."""
    return network.set_precision(DTYPES[runtime.precision]).to(runtime.device)


def copy_without_tensors(network: MultiHMR2) -> MultiHMR2:
    """Return a network with new parameters on the same memory; converting it does not change the original."""
    shared: dict[int, object] = {
        id(value): nn.Parameter(value.detach(), requires_grad=value.requires_grad) for value in network.parameters()
    }
    shared |= {id(value): value.detach() for value in network.buffers()}
    return copy.deepcopy(network, shared)


@contextlib.contextmanager
def limit_threads(count: int) -> Iterator[None]:
    """Let PyTorch use `count` CPU threads within the block, in the calling thread."""
    before = torch.get_num_threads()
    if before != count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if before != count:
            torch.set_num_threads(before)


class Tf32Switch:
    """Switches TF32 off for float32 convolutions on GPUs. The setting is the process's, which threads share."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks, self._before = 0, True

    @contextlib.contextmanager
    def disable(self) -> Iterator[None]:
        """Switch TF32 off within the block; the last of overlapping blocks restores the setting before the first."""
        with self._lock:
            if not self._blocks:
                self._before = torch.backends.cudnn.allow_tf32
                torch.backends.cudnn.allow_tf32 = False
            self._blocks += 1
        try:
            yield
        finally:
            with self._lock:
                self._blocks -= 1
                if not self._blocks:
                    torch.backends.cudnn.allow_tf32 = self._before


TF32 = Tf32Switch()


@dataclass(frozen=True, eq=False)
class InferenceResult:
    """The detections of highest score in one image, in descending order, before the score threshold.

    Arrays in host memory. Units and frames as in `People`; V vertices, F features. P is `max_people`, or fewer if the
    others are known to be below the threshold.

    horizontal_fov  () float32, rad, predicted, of the network's input
    k               (3, 3) float32, px of the network's input, given or predicted
    score           (P,) float32 in [0, 1]
    shape           (P, 6) float32 in [0, 1]
    rotations       (P, 163, 3, 3) float32
    track_feature   (P, F) float32
    bone_poses      (P, 163, 4, 4) float32
    joints          (P, 163, 3) float32, m, camera frame
    vertices        (P, V, 3) float32, m, camera frame; (P, 0, 3) if they were not requested
    stature         (P,) float32, m
    """

    horizontal_fov: NDArray[np.float32]
    k: NDArray[np.float32]
    score: NDArray[np.float32]
    shape: NDArray[np.float32]
    rotations: NDArray[np.float32]
    track_feature: NDArray[np.float32]
    bone_poses: NDArray[np.float32]
    joints: NDArray[np.float32]
    vertices: NDArray[np.float32]
    stature: NDArray[np.float32]

    def select(self, rows: NDArray[np.int64]) -> InferenceResult:
        """Return a copy of the given rows (n,)."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        for name, value in values.items():
            values[name] = value.copy() if name in IMAGE_FIELDS else value[rows]
        return InferenceResult(**values)


IMAGE_FIELDS = ("horizontal_fov", "k")  # fields of an InferenceResult without a row per person


class PosedArrays(NamedTuple):
    """n posed bodies in host memory; units and frames as in `PosedBody`.

    bone_poses  (n, 163, 4, 4) float32
    vertices    (n, V, 3) float32; (n, 0, 3) if they were not requested
    stature     (n,) float32
    """

    bone_poses: NDArray[np.float32]
    vertices: NDArray[np.float32]
    stature: NDArray[np.float32]


class UploadedImage(NamedTuple):
    """The network's inputs on the device, for one image.

    image    (1, 3, H, W) uint8 RGB
    k        (1, 3, 3) px
    k_given  (1,) bool; if false, k is ignored and predicted
    ready    event after the copies; None on a CPU
    """

    image: Tensor
    k: Tensor
    k_given: Tensor
    ready: torch.cuda.Event | None = None


class Inference:
    """The network and the body model on one device, for `max_people` people. The given network does not change."""

    def __init__(self, network: MultiHMR2, body: Body, runtime: Runtime, max_people: int) -> None:
        self.runtime = runtime.resolve()
        keep_freed_memory()
        self.device = _add_device_index(torch.device(self.runtime.device))
        self.network = convert_network(copy_without_tensors(network), self.runtime).eval()
        if _is_emulated(self.runtime):
            logger.warning(
                "precision bf16 is slower than fp32 on this CPU, which has no bf16 instructions; use fp32 or auto"
            )
        encoder = self.network.backbone.pretrained
        if encoder is not None and (self.device.type, self.runtime.precision, self.runtime.mode) == FUSED:
            fuse_encoder(encoder)
        self._set_body(body, max_people)
        # Import SymPy now; otherwise the first pose does, and the first image takes six times as long as the next ones.
        torch.broadcast_shapes((1,), (1,))
        self._graphs: OrderedDict[tuple[int, ...], CudaGraph[Outputs | PackedOutputs]] = OrderedDict()
        self._upload = Uploader(self.device)
        self._download = Downloader(self.device)
        self._forward: Callable[..., Outputs] = self._predict_people
        if self.runtime.mode.startswith("compiled"):
            self._forward = torch.compile(self._predict_people, dynamic=False)

    def __call__(
        self,
        image: NDArray[np.uint8],
        resize: ResizePad,
        k: NDArray[np.float64] | None,
        min_score: float = 0.0,
        *,
        vertices: bool = True,
    ) -> InferenceResult:
        """Run the network on one image. The result's arrays are views of memory that the next call overwrites.

        image      (H, W, 3) uint8 RGB
        resize     mapping from the image to the network's input
        k          (3, 3) px of the network's input; None: predicted
        min_score  no body is computed for lower scores where this saves time: in mode eager on a CPU. Elsewhere, fixed
                   shapes save more.
        vertices   whether the result has vertices
        """
        return self.compute([self.upload(image, resize, k)], min_score, vertices=vertices)[0]

    def upload(self, image: NDArray[np.uint8], resize: ResizePad, k: NDArray[np.float64] | None) -> UploadedImage:
        """Copy an image to the device and prepare it, beside the network on another image. Thread-safe.

        Arguments as in `__call__`.
        """
        with torch.inference_mode(), self._on_device():
            if self.device.type != "cuda":
                return UploadedImage(self.prepare(image, resize), *self._prepare_camera(k))
            with self._upload.on_stream():
                inputs = (self.prepare(image, resize), *self._prepare_camera(k))
                ready = torch.cuda.Event()
                ready.record()
            return UploadedImage(*inputs, ready)

    def compute(
        self, images: Sequence[UploadedImage], min_score: float = 0.0, *, vertices: bool = True
    ) -> list[InferenceResult]:
        """Run the network on images of one size as one batch. Arguments and results as in `__call__`."""
        with torch.inference_mode(), self._on_device(), self.use_full_precision():
            if self.device.type == "cuda":
                _wait_for_uploads(images)
            inputs: tuple[Any, ...] = _stack(images)
            if self.device.type == "cpu" and self.runtime.mode == "eager":
                inputs += (min_score,)
            outputs = self.copy_to_host(self._run(*inputs), vertices=vertices)
        return [InferenceResult(**{name: value[row] for name, value in outputs.items()}) for row in range(len(images))]

    def pose_bodies(
        self, shape: NDArray[np.float32], rotations: NDArray[np.float32], *, vertices: bool = True
    ) -> PosedArrays:
        """Pose n bodies, beside the network on another image. Thread-safe.

        shape      (n, 6) in [0, 1]
        rotations  (n, 163, 3, 3), as in `Body.forward`
        vertices   whether the result has vertices
        """
        with torch.inference_mode(), self._on_device(), self.use_full_precision():
            inputs = [torch.from_numpy(values).to(self.device) for values in (shape, rotations)]
            if vertices:
                posed = self.body(*inputs)
            else:
                bone_poses, stature = self.body.pose_bones(*inputs), self.body.compute_stature(inputs[0])
                posed = PosedBody(bone_poses.new_empty(len(shape), 0, 3), bone_poses, stature)
            arrays = (posed.bone_poses, posed.vertices, posed.stature)
            return PosedArrays(*(values.cpu().numpy() for values in arrays))

    def reconfigure(self, body: Body, max_people: int) -> None:
        """Change the body or the number of people. The next image captures its graph again."""
        self._set_body(body, max_people)
        self._graphs.clear()
        self._download.clear()

    def _set_body(self, body: Body, max_people: int) -> None:
        self.body, self.max_people = body.to(self.device), max_people
        self.fitter = KeypointFitter(self.body).to(self.device)

    def prepare(self, image: NDArray[np.uint8], resize: ResizePad) -> Tensor:
        """Resize (bicubic, antialiased) and pad with black; return (1, 3, H, W) uint8 on the device."""
        pixels = self._to_device(image).permute(2, 0, 1)[None]
        size = (resize.resized_height, resize.resized_width)
        if pixels.shape[-2:] != size:
            pixels = _resize(pixels, size)
        right = resize.padded_width - resize.resized_width - resize.pad_left
        bottom = resize.padded_height - resize.resized_height - resize.pad_top
        return functional.pad(pixels, (resize.pad_left, right, resize.pad_top, bottom))

    def _prepare_camera(self, k: NDArray[np.float64] | None) -> tuple[Tensor, Tensor]:
        """Copy k to the device; return k (1, 3, 3) and whether it is given, (1,) bool."""
        given = torch.full((1,), k is not None, device=self.device)
        matrix = np.eye(3, dtype=np.float32) if k is None else np.array(k, np.float32)
        return self._to_device(matrix)[None], given

    def _to_device(self, values: NDArray[Any]) -> Tensor:
        if self.device.type == "cuda":
            return self._upload(values)
        # PyTorch needs writable arrays; arrays from Pillow and from messages are read-only.
        return torch.from_numpy(np.require(values, requirements=("C", "W"))).to(self.device)

    @contextlib.contextmanager
    def _on_device(self) -> Iterator[None]:
        """Set the number of CPU threads, or make the GPU the current device, within the block."""
        if self.device.type != "cuda":
            with limit_threads(self.runtime.threads):
                yield
            return
        with torch.cuda.device(self.device):
            yield

    def use_full_precision(self) -> contextlib.AbstractContextManager[None]:
        """With fp32 on a GPU, switch TF32 off: by default, cuDNN may round inputs of convolutions to it (10 bits)."""
        is_exact = self.device.type == "cuda" and self.runtime.precision == "fp32"
        return TF32.disable() if is_exact else contextlib.nullcontext()

    def _predict_people(self, image: Tensor, k: Tensor, k_given: Tensor, min_score: float | None = None) -> Outputs:
        prediction = self.fitter(self.network(image, k, k_given, self.max_people, min_score))
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

    def predict(self, *inputs: Any) -> Outputs | PackedOutputs:
        """Run network and body on the inputs of a batch, without a CUDA graph; on a GPU, the outputs are packed."""
        outputs = self._forward(*inputs)
        return outputs if self.device.type == "cpu" else PackedOutputs.pack(outputs)

    def _run(self, *inputs: Any) -> Outputs | PackedOutputs:
        if "graph" not in self.runtime.mode:
            return self.predict(*inputs)
        size = tuple(inputs[0].shape)
        if size not in self._graphs and not self._capture(inputs):
            return self.predict(*inputs)
        self._graphs.move_to_end(size)
        return self._graphs[size](inputs)

    def _capture(self, inputs: tuple[Tensor, ...]) -> bool:
        """Capture and keep a graph for inputs of this size. Return False if it fails; it is then not tried again."""
        size = tuple(inputs[0].shape)
        same_batch = [kept for kept in self._graphs if kept[0] == size[0]]
        if len(same_batch) == MAX_GRAPHS:
            del self._graphs[same_batch[0]]
        try:
            with CAPTURE_LOCK:
                self._graphs[size] = CudaGraph(self.predict, inputs)
        except CaptureError as error:
            mode: Mode = "compiled" if self.runtime.mode.startswith("compiled") else "eager"
            logger.warning("the CUDA graph cannot be captured (%s); the network runs in mode %s", error, mode)
            self.runtime = dataclasses.replace(self.runtime, mode=mode)
            self._graphs.clear()
            return False
        return True

    def copy_to_host(
        self, outputs: Outputs | PackedOutputs, *, vertices: bool = True
    ) -> dict[str, NDArray[np.float32]]:
        """Return the outputs as arrays (B, …); without vertices, these are empty."""
        on_host = self._download(outputs, vertices=vertices) if isinstance(outputs, PackedOutputs) else outputs
        arrays = {name: value.numpy() for name, value in on_host.items()}
        if not vertices:
            arrays[VERTICES] = np.empty((*arrays["score"].shape, 0, 3), np.float32)
        return arrays


def _stack(images: Sequence[UploadedImage]) -> tuple[Tensor, Tensor, Tensor]:
    """Return image, k and k_given of a batch."""
    if len(images) == 1:
        return images[0].image, images[0].k, images[0].k_given
    return (
        torch.cat([each.image for each in images]),
        torch.cat([each.k for each in images]),
        torch.cat([each.k_given for each in images]),
    )


def _wait_for_uploads(images: Sequence[UploadedImage]) -> None:
    """Make the current stream wait for uploads, whose memory is then not reused before this stream has read it."""
    stream = torch.cuda.current_stream()
    for image, k, k_given, ready in images:
        assert ready is not None
        stream.wait_event(ready)
        for tensor in (image, k, k_given):
            tensor.record_stream(stream)


def _resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    if pixels.device.type == "cpu":
        return functional.interpolate(pixels, size, mode="bicubic", antialias=True)
    # The GPU kernel does not support uint8; the CPU kernel rounds and clamps in the same way.
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
            f"device {name!r} does not exist: PyTorch finds {torch.cuda.device_count()} NVIDIA GPUs; choose the device "
            "cpu, or run `multihmr2 doctor`"
        )
    return device


def _add_device_index(device: torch.device) -> torch.device:
    """Return cuda as cuda:N with the index of the current GPU, because the current GPU may change later."""
    if device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", torch.cuda.current_device())


def _is_emulated(runtime: Runtime) -> bool:
    """Return whether the CPU emulates the runtime's bf16; False if its instructions are unknown."""
    if (runtime.device, runtime.precision) != ("cpu", "bf16"):
        return False
    return list_bf16_instructions(read_cpu_description()) == ()


def _choose_precision(device: torch.device) -> Precision:
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return "bf16" if list_bf16_instructions(read_cpu_description()) else "fp32"
