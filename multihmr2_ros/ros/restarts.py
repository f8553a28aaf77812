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

"""The node's estimator: created from the parameters, and restarted after errors of its device.

If memory does not suffice, it is restarted with less work. The tracker is in host memory and is passed to the new
estimator, so that tracks and their ids are kept. Other errors require a new process: most CUDA errors persist until the
process ends, and a thread that hangs cannot be stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import re
import time
from collections.abc import Callable, Iterator
from enum import Enum
from typing import TYPE_CHECKING, Any

from multihmr2_ros.errors import UserError

from .parameters import NodeParameters

if TYPE_CHECKING:
    from multihmr2_ros.estimator import Estimator, EstimatorConfig
    from multihmr2_ros.frame import Frame
    from multihmr2_ros.people import People

EstimatorFactory = Callable[[NodeParameters], "Estimator"]

MAX_FAULTS = 5  # each within HEALTHY_S of the previous one; one more requires a new process
HEALTHY_S = 60.0
FIRST_WAIT_S, MAX_WAIT_S = 0.5, 30.0  # before the second of successive restarts, and maximum before any restart
HANG_FACTOR = 3.0  # multiple of the watchdog's limit; longer steps require a new process
MAX_HALVINGS = 2
# Texts of PyTorch's RuntimeError for faults that are reported by its libraries, not by the device.
DEVICE_WORDS = re.compile(
    r"CUDA (driver )?error|HIP error|device-side assert|cu(DNN|dnn) error|NVRTC|cuda\w+ error|cudaError\w+"
    r"|(CUDNN|CUBLAS|CUSOLVER|CUFFT|CUSPARSE)_STATUS_"
)
MEMORY_WORDS = re.compile(r"out of memory|cudaErrorMemoryAllocation|_ALLOC_FAILED")


class DeviceFault(Enum):
    """Fault of a device. FAILED: all data on the device are lost. OUT_OF_MEMORY: the memory does not suffice."""

    FAILED = "failed"
    OUT_OF_MEMORY = "out of memory"


def load_estimator(parameters: NodeParameters) -> Estimator:
    """Load the estimator for the parameters. Raises UserError, for example if the weights are missing."""
    from multihmr2_ros.estimator import Estimator, EstimatorConfig, Runtime

    return Estimator.load(
        parameters.checkpoint,
        parameters.device,
        config=make_configuration(parameters, EstimatorConfig()),
        runtime=Runtime(precision=parameters.precision, threads=parameters.threads),
    )


def make_configuration(parameters: NodeParameters, base: EstimatorConfig, *, vertices: bool = True) -> EstimatorConfig:
    """Return base with the values of the node's parameters. vertices: whether an output needs them."""
    return dataclasses.replace(
        base,
        score_threshold=parameters.score_threshold,
        nms_distance_m=parameters.nms_distance_m,
        max_people=parameters.max_people,
        input_size=parameters.input_size or None,
        mesh=parameters.mesh,
        smoothing=parameters.smoothing,
        vertices=vertices,
    )


class RestartingEstimator:
    """An `Estimator` that is created again after a fault of the device.

    make        creates an estimator from parameters
    restarts    number of restarts
    reduced_to  description of the reduced work that fits the memory; "" if not reduced

    `step` and `reset` must be called from one thread; attributes may be read from any thread.
    """

    def __init__(self, make: Callable[[NodeParameters], Estimator], parameters: NodeParameters) -> None:
        self._make = make
        self._parameters = parameters
        self._halvings = 0
        self._max_people = parameters.max_people
        self.reduced_to = ""
        self.restarts = 0
        self._faults = 0
        self._last_fault_s = -float("inf")
        self._not_before_s = 0.0
        self._busy_since_s: float | None = None
        self._tracker: Any = None  # of the estimator that failed
        estimator = self._load_first()
        self._estimator: Estimator | None = estimator
        self.config: EstimatorConfig = estimator.config
        self.runtime = estimator.runtime

    # --- interface of Estimator

    @property
    def body(self) -> Any:
        """Body of the last people. Not available after a fault, because it would keep memory of the device in use."""
        assert self._estimator is not None
        return self._estimator.body

    def reconfigure(self, config: EstimatorConfig) -> None:
        """Store another configuration. The next step applies it, so that faults of the device are handled there."""
        self.config = config

    def reset(self) -> None:
        if self._estimator is not None:
            self._estimator.reset()
        elif self._tracker is not None:
            self._tracker.reset()

    def step(self, frame: Frame) -> People:
        """Call `Estimator.step`. Raises UserError if the device fails, and until the estimator is restarted."""
        estimator = self._estimator or self._restart()
        try:
            with self._watch():
                estimator.reconfigure(self._limit_config(self.config))
                people = estimator.step(frame)
                self.runtime = estimator.runtime
                return people
        except Exception as error:
            fault, reason = classify_error(error), _describe_error(error)
            if fault is None:
                raise
        # Outside the handler, whose traceback would hold the memory that the next estimator needs.
        self._tracker, self._estimator = estimator.tracker, None
        del estimator
        raise self._handle_failure(fault, reason)

    # --- diagnostics

    def find_faults(self, watchdog_s: float) -> list[str]:
        """Return current faults, one line each. watchdog_s: time limit of a step in s; 0: no limit."""
        faults = []
        busy_s = self._get_busy_s()
        if 0 < watchdog_s < busy_s:
            faults.append(f"the estimator has not answered for {busy_s:.0f} s (watchdog_s: {watchdog_s:g})")
        if self._estimator is None:
            faults.append("the estimator's device failed: no people are detected until it is restarted")
        if self.reduced_to:
            faults.append(f"out of GPU memory: reduced to {self.reduced_to}")
        return faults

    def explain_new_process(self, watchdog_s: float) -> str:
        """Return why a new process is needed; "" if it is not. watchdog_s: time limit of a step in s; 0: no limit."""
        busy_s = self._get_busy_s()
        if 0 < HANG_FACTOR * watchdog_s < busy_s:
            return f"the estimator has not answered for {busy_s:.0f} s"
        if self._faults > MAX_FAULTS:
            return f"the estimator failed {self._faults} times in a row"
        return ""

    # --- restart

    def _load_first(self) -> Estimator:
        while True:
            try:
                return self._make(self._parameters)
            except Exception as error:
                if classify_error(error) is not DeviceFault.OUT_OF_MEMORY or not self._reduce():
                    raise
            _release_memory()

    def _restart(self) -> Estimator:
        wait_s = self._not_before_s - time.monotonic()
        if wait_s > 0:
            raise UserError(f"the estimator's device failed; the estimator is restarted in {wait_s:.1f} s")
        try:
            with self._watch():
                estimator = self._make(self._parameters)
        except Exception as error:
            fault, reason = classify_error(error), _describe_error(error)
        else:
            if self._tracker is not None:
                estimator.tracker = self._tracker
            self._estimator = estimator
            self.restarts += 1
            return estimator
        raise self._handle_failure(fault, reason)

    def _handle_failure(self, fault: DeviceFault | None, reason: str) -> UserError:
        """Schedule the next restart and return an error that describes it.

        fault: None if the estimator could not be created for another reason.
        """
        _release_memory()
        if fault is DeviceFault.OUT_OF_MEMORY and self._reduce():
            return UserError(f"out of GPU memory ({reason}); the estimator is restarted with {self.reduced_to}")
        now_s = time.monotonic()
        self._faults = self._faults + 1 if now_s - self._last_fault_s < HEALTHY_S else 1
        wait_s = 0.0 if self._faults == 1 else min(FIRST_WAIT_S * 2.0 ** (self._faults - 2), MAX_WAIT_S)
        self._last_fault_s, self._not_before_s = now_s, now_s + wait_s
        if fault is None:
            return UserError(f"the estimator cannot be restarted ({reason}); next attempt in {wait_s:.1f} s")
        return UserError(f"the estimator's device failed ({reason}); the estimator is restarted in {wait_s:.1f} s")

    def _reduce(self) -> bool:
        """Reduce the work: fewer people, then 16-bit precision, then the CPU. Return False if no step is left."""
        if self._parameters.device == "cpu":
            return False
        if self._halvings < MAX_HALVINGS and self._max_people > 1:
            self._halvings += 1
            self._max_people //= 2
        elif self._parameters.precision == "fp32":
            self._parameters = dataclasses.replace(self._parameters, precision="auto")
        else:
            self._parameters = dataclasses.replace(self._parameters, device="cpu", precision="auto")
        self._parameters = dataclasses.replace(self._parameters, max_people=self._max_people)
        where = "on the CPU" if self._parameters.device == "cpu" else f"precision {self._parameters.precision}"
        self.reduced_to = f"at most {self._max_people} people, {where}"
        return True

    def _limit_config(self, config: EstimatorConfig) -> EstimatorConfig:
        if not self.reduced_to:
            self._max_people = config.max_people
        return dataclasses.replace(config, max_people=min(config.max_people, self._max_people))

    @contextlib.contextmanager
    def _watch(self) -> Iterator[None]:
        self._busy_since_s = time.monotonic()
        try:
            yield
        finally:
            self._busy_since_s = None

    def _get_busy_s(self) -> float:
        since_s = self._busy_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s


def classify_error(error: BaseException) -> DeviceFault | None:
    """Return the device fault that an exception reports; None if it is not about the device."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return DeviceFault.OUT_OF_MEMORY
    if not isinstance(error, RuntimeError):
        return None
    text = str(error)
    is_accelerators = isinstance(error, getattr(torch, "AcceleratorError", ()))  # PyTorch 2.8 and later
    if not is_accelerators and not DEVICE_WORDS.search(text):
        return None
    return DeviceFault.OUT_OF_MEMORY if MEMORY_WORDS.search(text) else DeviceFault.FAILED


def _release_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        with contextlib.suppress(RuntimeError):  # also fails on a failed device
            torch.cuda.empty_cache()


def _describe_error(error: Exception) -> str:
    """Return the first line of the error, because CUDA errors have several."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
