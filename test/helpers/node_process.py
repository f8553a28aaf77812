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

"""Node process with an estimator of known output that takes the given time: `python -m test.helpers.node_process
SECONDS [--ros-args …]`."""

from __future__ import annotations

import sys

from multihmr2_ros.ros.node import main
from test.helpers.stand_in_estimator import StandInEstimator

if __name__ == "__main__":
    program, seconds_s, *arguments = sys.argv
    sys.exit(main([program, *arguments], lambda parameters: StandInEstimator(parameters, float(seconds_s))))
