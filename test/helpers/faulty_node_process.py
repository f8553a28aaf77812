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

"""Node process with an estimator that processes one image and then only hangs or fails: `python -m
test.helpers.faulty_node_process hang|fail [--ros-args …]`."""

from __future__ import annotations

import sys
import threading

from multihmr2_ros.ros.node import main
from test.helpers.faulty_estimator import ILLEGAL, Factory

if __name__ == "__main__":
    program, fault, *arguments = sys.argv
    faults = [None, threading.Event()] if fault == "hang" else [None, *[ILLEGAL] * 1000]
    sys.exit(main([program, *arguments], Factory(*faults)))
