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

"""An estimator that outlives errors of its device: it is made again, for less work where memory does not suffice.

The tracker lives in host memory and is handed on, so that tracks and their ids survive. What making it again cannot
mend asks for a new process: most errors of CUDA hold until the process ends, and a thread that hangs cannot be ended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from multihmr2_ros.errors import UserError

from .device_faults import DeviceFault, device_fault
from .parameters import NodeParameters

if TYPE_CHECKING:
    from multihmr2_ros.estimator import Estimator, EstimatorConfig
    from multihmr2_ros.people import People

MOST_FAULTS = 5  # each within HEALTHY_S of the one before; after one more, only a new process helps
HEALTHY_S = 60.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0  # before the second restart in a row, and before any
HANGS = 3.0  # times the watchdog's limit; after that, too
MOST_HALVINGS = 2


class RestartingEstimator:
    """What `Estimator` is to the node, made by `make` and, after a fault of the device, made again.

    restarts: how often it was made again. reduced_to: what memory suffices for, in words; "" for all that was asked.
    One thread steps and resets; any may read.
    """

    def __init__(self, make: Callable[[NodeParameters], Estimator], parameters: NodeParameters) -> None:
        self._make = make
        self._parameters = parameters
        self._halvings = 0
        self._most_people = parameters.max_people
        self.reduced_to = ""
        self.restarts = 0
        self._faults = 0
        self._last_fault_s = -float("inf")
        self._not_before_s = 0.0
        self._busy_since_s: float | None = None
        self._tracker: Any = None  # of the one that failed
        estimator = self._first()
        self._estimator: Estimator | None = estimator
        self.config: EstimatorConfig = estimator.config
        self.runtime = estimator.runtime

    # --- what the node knows of an Estimator

    @property
    def body(self) -> Any:
        """That of the last people. There is none while there is no estimator: it would hold memory of the device."""
        assert self._estimator is not None
        return self._estimator.body

    def reconfigure(self, config: EstimatorConfig) -> None:
        """Takes effect with the next step, where faults of the device are looked after."""
        self.config = config

    def reset(self) -> None:
        if self._estimator is not None:
            self._estimator.reset()
        elif self._tracker is not None:
            self._tracker.reset()

    def step(self, *arguments: Any, **known: Any) -> People:
        """As `Estimator.step`. Raises UserError for an image that met with a fault, and while there is no estimator."""
        estimator = self._estimator or self._restarted()
        try:
            with self._watched():
                estimator.reconfigure(self._affordable(self.config))
                people = estimator.step(*arguments, **known)
                self.runtime = estimator.runtime
                return people
        except Exception as error:
            fault, reason = device_fault(error), _in_words(error)
            if fault is None:
                raise
        # Not in the handler: the traceback holds the memory that the next estimator needs.
        self._tracker, self._estimator = estimator.tracker, None
        del estimator
        raise self._failed(fault, reason)

    # --- what the node says of it

    def faults(self, watchdog_s: float) -> list[str]:
        """What is wrong at this moment. watchdog_s: the longest that a step may take; 0: any time."""
        faults = []
        busy_s = self._busy_s()
        if 0 < watchdog_s < busy_s:
            faults.append(f"the estimator has not answered for {busy_s:.0f} s (watchdog_s: {watchdog_s:g})")
        if self._estimator is None:
            faults.append("the estimator's device failed: no people are found until it works again")
        if self.reduced_to:
            faults.append(f"out of GPU memory: reduced to {self.reduced_to}")
        return faults

    def needs_new_process(self, watchdog_s: float) -> str:
        """Why only a new process can help, in words; "" where it need not."""
        busy_s = self._busy_s()
        if 0 < HANGS * watchdog_s < busy_s:
            return f"the estimator has not answered for {busy_s:.0f} s"
        if self._faults > MOST_FAULTS:
            return f"the estimator failed {self._faults} times in a row"
        return ""

    # --- making it again

    def _first(self) -> Estimator:
        while True:
            try:
                return self._make(self._parameters)
            except Exception as error:
                if device_fault(error) is not DeviceFault.OUT_OF_MEMORY or not self._reduce():
                    raise
            _free_memory()

    def _restarted(self) -> Estimator:
        wait_s = self._not_before_s - time.monotonic()
        if wait_s > 0:
            raise UserError(f"the estimator's device failed; the estimator is made again in {wait_s:.1f} s")
        try:
            with self._watched():
                estimator = self._make(self._parameters)
        except Exception as error:
            fault, reason = device_fault(error), _in_words(error)
        else:
            if self._tracker is not None:
                estimator.tracker = self._tracker
            self._estimator = estimator
            self.restarts += 1
            return estimator
        raise self._failed(fault, reason)

    def _failed(self, fault: DeviceFault | None, reason: str) -> UserError:
        """Decide what is done next; it, in words. fault: None where it could not be made, but not by the device."""
        _free_memory()
        if fault is DeviceFault.OUT_OF_MEMORY and self._reduce():
            return UserError(f"out of GPU memory ({reason}); the estimator is made again with {self.reduced_to}")
        now_s = time.monotonic()
        self._faults = self._faults + 1 if now_s - self._last_fault_s < HEALTHY_S else 1
        wait_s = 0.0 if self._faults == 1 else min(FIRST_WAIT_S * 2.0 ** (self._faults - 2), LONGEST_WAIT_S)
        self._last_fault_s, self._not_before_s = now_s, now_s + wait_s
        if fault is None:
            return UserError(f"the estimator cannot be made again ({reason}); it is tried again in {wait_s:.1f} s")
        return UserError(f"the estimator's device failed ({reason}); the estimator is made again in {wait_s:.1f} s")

    def _reduce(self) -> bool:
        """Ask for less: fewer people, then numbers of half the size, then the CPU; whether there was anything left."""
        if self._parameters.device == "cpu":
            return False
        if self._halvings < MOST_HALVINGS and self._most_people > 1:
            self._halvings += 1
            self._most_people //= 2
        elif self._parameters.precision == "fp32":
            self._parameters = dataclasses.replace(self._parameters, precision="auto")
        else:
            self._parameters = dataclasses.replace(self._parameters, device="cpu", precision="auto")
        self._parameters = dataclasses.replace(self._parameters, max_people=self._most_people)
        where = "on the CPU" if self._parameters.device == "cpu" else f"precision {self._parameters.precision}"
        self.reduced_to = f"at most {self._most_people} people, {where}"
        return True

    def _affordable(self, config: EstimatorConfig) -> EstimatorConfig:
        if not self.reduced_to:
            self._most_people = config.max_people
        return dataclasses.replace(config, max_people=min(config.max_people, self._most_people))

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        self._busy_since_s = time.monotonic()
        try:
            yield
        finally:
            self._busy_since_s = None

    def _busy_s(self) -> float:
        since_s = self._busy_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        with contextlib.suppress(RuntimeError):  # a device that failed refuses this, too
            torch.cuda.empty_cache()


def _in_words(error: Exception) -> str:
    """The first line: those of CUDA have several."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
