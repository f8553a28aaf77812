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

"""A stand-in estimator whose device fails in a given way, with PyTorch's own exceptions."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from multihmr2_ros.frame import Frame
from multihmr2_ros.network.inference import Runtime
from multihmr2_ros.people import People
from multihmr2_ros.ros.restarts import make_configuration
from test.helpers.stand_in_estimator import PELVIS, StandInEstimator

ILLEGAL = torch.AcceleratorError(
    "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported"
)
NO_MEMORY = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 1.20 GiB. GPU 0 has a total capacity of 4 GiB"
)


class Counter:
    """Replacement for the tracker that is handed over between estimators: the number of the next person."""

    def __init__(self) -> None:
        self.next_id = 0
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1


class FaultyEstimator(StandInEstimator):
    """Estimator that returns new people in each image, as many as allowed. Each step calls fault(self), which may raise
    or hang."""

    def __init__(self, parameters: Any, fault: Callable[[FaultyEstimator], None]) -> None:
        super().__init__(parameters)
        if parameters is not None:
            self.config = make_configuration(parameters, self.config)
            self.runtime = Runtime(parameters.device, parameters.precision)
        self.tracker: Any = Counter()
        self.fault = fault

    def step(self, frame: Frame, /) -> People:
        self.fault(self)
        n = self.config.max_people
        ids = self.tracker.next_id + np.arange(n)
        self.tracker.next_id += n
        self.people = {"n": n, "pelvis": PELVIS + np.arange(n)[:, None], "track_id": ids}
        return super().step(frame)


class Factory:
    """Factory of FaultyEstimators that records the arguments.

    faults: the faults of successive steps of all estimators: an exception to raise, an event to wait for, or None.
    """

    def __init__(self, *faults: BaseException | threading.Event | None) -> None:
        self.faults = list(faults)
        self.made: list[Any] = []
        self.refusals: list[BaseException] = []  # raised instead of returning an estimator

    def __call__(self, parameters: Any) -> Any:
        self.made.append(SimpleNamespace(**vars(parameters)))
        if self.refusals:
            raise self.refusals.pop(0)
        return FaultyEstimator(parameters, self._next)

    def _next(self, _: FaultyEstimator) -> None:
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, BaseException):
            raise fault
        if fault is not None:
            fault.wait()
