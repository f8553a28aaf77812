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

"""Which errors are those of the device that the network runs on, and not of one image."""

from __future__ import annotations

import re
from enum import Enum

# What PyTorch says with a plain RuntimeError, where its libraries report the fault and not the device itself.
DEVICE_WORDS = re.compile(
    r"CUDA (driver )?error|HIP error|device-side assert|cu(DNN|dnn) error|NVRTC|cuda\w+ error|cudaError\w+"
    r"|(CUDNN|CUBLAS|CUSOLVER|CUFFT|CUSPARSE)_STATUS_"
)
MEMORY_WORDS = re.compile(r"out of memory|cudaErrorMemoryAllocation|_ALLOC_FAILED")


class DeviceFault(Enum):
    """FAILED: what is on the device is lost. OUT_OF_MEMORY: the work does not fit."""

    FAILED = "failed"
    OUT_OF_MEMORY = "out of memory"


def classify_error(error: BaseException) -> DeviceFault | None:
    """What an exception means for the device; None where it is not about it."""
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
