"""Identities, velocities and running body shapes of people from frame to frame; NumPy and SciPy only.

>>> tracker = Tracker(TrackerConfig())
>>> tracked = tracker.update(detections, stamp_s=12.5)     # once per image
>>> tracked.track_id, tracked.velocity, tracked.ended_ids
"""

from .config import OneEuroConfig, TrackerConfig, VelocityConfig
from .detections import Detections, TrackedFrame, TrackSnapshot
from .tracker import Tracker
from .velocity import measurement_noise

__all__ = [
    "Detections",
    "OneEuroConfig",
    "TrackSnapshot",
    "TrackedFrame",
    "Tracker",
    "TrackerConfig",
    "VelocityConfig",
    "measurement_noise",
]
