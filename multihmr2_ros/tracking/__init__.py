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

"""Tracks people from frame to frame: identities, velocities, running body shapes. Requires only NumPy and SciPy.

>>> tracker = Tracker(TrackerConfig())
>>> tracked = tracker.update(detections, stamp_s=12.5)     # once per image
>>> tracked.track_id, tracked.velocity
"""

from .config import SmoothingConfig, TrackerConfig, VelocityConfig
from .detections import Detections, TrackingResult, TrackSnapshot
from .tracker import Tracker
from .velocity import compute_measurement_noise

__all__ = [
    "Detections",
    "SmoothingConfig",
    "TrackSnapshot",
    "Tracker",
    "TrackerConfig",
    "TrackingResult",
    "VelocityConfig",
    "compute_measurement_noise",
]
