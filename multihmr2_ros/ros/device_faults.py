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

"""Distinguishes errors of the network's device from errors of a single image."""

from __future__ import annotations

import re
from enum import Enum

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
