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

"""One network for several cameras: images that arrive at about the same time run as one batch.

On a CPU a batch is not faster than its images one by one, so they run one by one.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from multihmr2_ros.body import Body
from multihmr2_ros.camera import ResizePad
from multihmr2_ros.network.inference import (
    Inference,
    InferenceResult,
    PosedArrays,
    Runtime,
    UploadedImage,
    convert_network,
    copy_without_tensors,
)
from multihmr2_ros.network.model import MultiHMR2

logger = logging.getLogger(__name__)

BATCH_SIZES = (1, 2, 4)  # others are padded to the next one: a CUDA graph has a fixed batch size
BATCH_WAIT_S = 0.003


@dataclass(eq=False)
class _Request:
    """An image of a camera, and its result or error. Images with the same inference and size can run as one batch."""

    inference: Inference
    image: UploadedImage
    min_score: float
    vertices: bool
    result: InferenceResult | None = None
    error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.result is not None or self.error is not None

    def fits(self, other: _Request) -> bool:
        return self.inference is other.inference and self.image.image.shape == other.image.image.shape


class SharedInference:
    """A network on one device for the cameras of a process, each in its own thread.

    network       does not change
    runtime       of all cameras
    batch_wait_s  maximum time that an image waits for images of other cameras
    batch_sizes   sizes of the batches, ascending; None: one image on a CPU, BATCH_SIZES on a GPU

    The thread of the oldest image runs the network for all images of the batch, so there is no thread to stop. Cameras
    with the same mesh and max_people share one `Inference`; others only share the weights.
    """

    def __init__(
        self,
        network: MultiHMR2,
        runtime: Runtime | None = None,
        *,
        batch_wait_s: float = BATCH_WAIT_S,
        batch_sizes: Sequence[int] | None = None,
    ) -> None:
        self._runtime = (runtime or Runtime()).resolve()
        self.network = convert_network(copy_without_tensors(network), self._runtime)
        self.has_failed = False  # the device raised an error other than out of memory
        self.batch_wait_s = batch_wait_s
        self._batch_sizes = tuple(batch_sizes or ((1,) if self._runtime.device == "cpu" else BATCH_SIZES))
        self._inferences: weakref.WeakValueDictionary[tuple[int, int], Inference] = weakref.WeakValueDictionary()
        self._cameras: weakref.WeakSet[CameraInference] = weakref.WeakSet()
        self._waiting: list[_Request] = []  # oldest first
        self._is_running = False
        self._changed = threading.Condition()

    def add_camera(self, body: Body, max_people: int) -> CameraInference:
        """Return the interface for one more camera, with its own mesh and number of people."""
        with self._changed:
            camera = CameraInference(self, body, max_people)
            self._cameras.add(camera)
            return camera

    def get_inference(self, body: Body, max_people: int) -> Inference:
        """Return the `Inference` of this mesh and max_people, which lives as long as a camera uses it."""
        key = (body.vertex_count, max_people)
        with self._changed:
            inference = self._inferences.get(key)
            if inference is None:
                self._inferences[key] = inference = Inference(self.network, body, self._runtime, max_people)
            return inference

    def run(self, request: _Request) -> InferenceResult:
        """Run the network on an image, together with others that arrive in time, and return its own result."""
        with self._changed:
            self._waiting.append(request)
            self._changed.notify_all()
            self._changed.wait_for(lambda: request.is_done or self._is_next(request))
            batch = [] if request.is_done else self._collect(request)
        if batch:
            try:
                self._compute(batch)
            finally:
                with self._changed:
                    self._is_running = False
                    self._changed.notify_all()
        if request.error is not None:
            raise request.error
        assert request.result is not None
        return request.result

    def _is_next(self, request: _Request) -> bool:
        return not self._is_running and self._waiting[0] is request

    def _collect(self, request: _Request) -> list[_Request]:
        """Wait for images of other cameras, and take a batch from the queue."""
        self._is_running = True
        max_images = min(self._batch_sizes[-1], len(self._cameras))
        wait_s = self.batch_wait_s if max_images > 1 else 0
        self._changed.wait_for(lambda: len(self._find_fitting(request)) >= max_images, wait_s)
        batch = self._find_fitting(request)[: self._batch_sizes[-1]]
        self._waiting = [each for each in self._waiting if each not in batch]
        return batch

    def _find_fitting(self, request: _Request) -> list[_Request]:
        return [each for each in self._waiting if each.fits(request)]

    def _compute(self, batch: list[_Request]) -> None:
        """Compute the results of a batch. If that fails, its images run one by one, now and later."""
        if len(batch) > 1:
            try:
                self._compute_at_once(batch)
                return
            except Exception as error:
                reason = str(error).partition("\n")[0]
                logger.warning("a batch of %d images failed (%s); images now run one by one", len(batch), reason)
                self._batch_sizes = (1,)
        for request in batch:
            try:
                self._compute_at_once([request])
            except Exception as error:
                request.error = error
                self.has_failed |= not isinstance(error, torch.OutOfMemoryError)

    def _compute_at_once(self, batch: list[_Request]) -> None:
        inference, images = batch[0].inference, [request.image for request in batch]
        size = next(size for size in self._batch_sizes if size >= len(batch))
        images += [images[-1]] * (size - len(images))
        min_score = min(request.min_score for request in batch)
        results = inference.compute(images, min_score, vertices=any(request.vertices for request in batch))
        for request, result in zip(batch, results, strict=False):
            request.result = result.select(np.arange(len(result.score)))  # the next batch overwrites the memory


class CameraInference:
    """The interface of `Inference` for one camera of a `SharedInference`."""

    def __init__(self, shared: SharedInference, body: Body, max_people: int) -> None:
        self._shared = shared
        self.inference = shared.get_inference(body, max_people)

    @property
    def runtime(self) -> Runtime:
        return self.inference.runtime

    @property
    def max_people(self) -> int:
        return self.inference.max_people

    def __call__(
        self,
        image: NDArray[np.uint8],
        resize: ResizePad,
        k: NDArray[np.float64] | None,
        min_score: float = 0.0,
        *,
        vertices: bool = True,
    ) -> InferenceResult:
        """Run the network on one image. Arguments as in `Inference`; the result is not overwritten."""
        return self._shared.run(_Request(self.inference, self.inference.upload(image, resize, k), min_score, vertices))

    def pose_bodies(
        self, shape: NDArray[np.float32], rotations: NDArray[np.float32], *, vertices: bool = True
    ) -> PosedArrays:
        """Pose n bodies. Arguments as in `Inference`."""
        return self.inference.pose_bodies(shape, rotations, vertices=vertices)

    def reconfigure(self, body: Body, max_people: int) -> None:
        """Change this camera's mesh or number of people; other cameras keep theirs."""
        self.inference = self._shared.get_inference(body, max_people)
