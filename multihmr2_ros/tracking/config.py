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

"""Settings of the tracker.

`TrackerConfig.reference()` returns the settings published with Multi-HMR 2 (section "Tracking in videos"; the released
settings if the two differ). `TrackerConfig()` returns the defaults, chosen for robots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from multihmr2_ros.errors import UserError

FRAME_RESOLUTION = 1024
"""Frame numbers are rounded to 1/1024 of a frame, so that stamps in seconds give exact whole frames."""


def compute_frame_number(elapsed_s: float, nominal_rate_hz: float) -> float:
    """Convert seconds to nominal frames, rounded to 1/FRAME_RESOLUTION."""
    return round(elapsed_s * nominal_rate_hz * FRAME_RESOLUTION) / FRAME_RESOLUTION


def _require_numbers(config: Any, positive: tuple[str, ...] = (), not_negative: tuple[str, ...] = ()) -> None:
    """Raise a UserError that names the first field that is not a finite number above (or at least) zero."""
    for name in positive + not_negative:
        value = getattr(config, name)
        is_number = isinstance(value, int | float) and math.isfinite(value)
        if not is_number or value < 0 or (name in positive and value == 0):
            limit = "above 0" if name in positive else "of at least 0"
            raise UserError(f"{type(config).__name__}.{name}: expected a finite number {limit}, got {value!r}")


def _require_counts(config: Any, names: tuple[str, ...]) -> None:
    """Raise a UserError that names the first field that is not a whole number of at least 1."""
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{type(config).__name__}.{name}: expected a whole number of at least 1, got {value!r}")


@dataclass(frozen=True)
class VelocityConfig:
    """Noise of the Kalman filters of the pelvis, and of the three modes of motion.

    The modes are standing, walking steadily and changing the motion. They are used in a fixed frame only; relative to
    the camera, every person is in the mode "changing".

    depth_sigma_ratio             standard deviation of the pelvis along the viewing ray, as a fraction of the distance
    unmeasured_sigma_ratio        standard deviation of the distance without depth image and ground plane, as a
                                  fraction of the distance; an error that stays constant, and shows when the distance
                                  is measured in another way
    lateral_sigma_ratio           standard deviation of the pelvis across the viewing ray, as a fraction of the distance
    acceleration_density          power spectral density of the white acceleration while changing, m²/s³
    initial_speed_sigma_m_s       standard deviation of each velocity component before the first measurement, m/s
    walking_acceleration_density  power spectral density of the white acceleration while walking steadily, m²/s³
    standing_speed_sigma_m_s      standard deviation of each velocity component while standing, m/s
    mode_duration_s               mean time that a person stays in one mode, s
    stature_share                 share of the log stature's deviation from the track's mean that is subtracted from the
                                  log distance before the velocity is estimated; 0 disables this
    """

    depth_sigma_ratio: float = 0.03
    unmeasured_sigma_ratio: float = 0.13
    lateral_sigma_ratio: float = 0.0025
    acceleration_density: float = 1.0
    initial_speed_sigma_m_s: float = 1.5
    walking_acceleration_density: float = 0.02
    standing_speed_sigma_m_s: float = 0.03
    mode_duration_s: float = 20.0
    stature_share: float = 0.0

    def __post_init__(self) -> None:
        names = tuple(field.name for field in fields(self) if field.name != "stature_share")
        _require_numbers(self, positive=names, not_negative=("stature_share",))


@dataclass(frozen=True)
class SmoothingConfig:
    """Smoothing of poses over time: a One-Euro filter (Casiez, Roussel, Vogel 2012) for each bone's rotation.

    The time constant of the low-pass filter is 1 / (1 / time_constant_s + gain_per_rad · angular speed): short during
    fast movements, so that poses do not lag behind.

    time_constant_s        of a bone that does not rotate, s
    gain_per_rad           see above, 1/rad; 0: the time constant is always the same
    speed_time_constant_s  of the low-pass filter of the angular velocity, s
    """

    time_constant_s: float = 0.05
    gain_per_rad: float = 4.0
    speed_time_constant_s: float = 0.16

    def __post_init__(self) -> None:
        _require_numbers(self, positive=("time_constant_s",), not_negative=("gain_per_rad", "speed_time_constant_s"))


@dataclass(frozen=True)
class TrackerConfig:
    """Settings of the tracker. Lengths in the image are fractions of the side of the padded network input.

    The defaults are chosen for robots. They differ from `reference()` in five points:

    - The memory is 60 frames instead of 50.
    - A lower temperature gives near features clearly more votes than far ones.
    - A lower pixel temperature is stricter about positions in the image; in return, appearance has more weight.
    - The score threshold is adapted to these.
    - A track stores a feature every 0.1 s only, which takes a third of the time.

    On the golden sequences the defaults remove both id switches. In simulated rooms that were not used to choose them,
    they raise IDF1 and switch ids less often (test_tracking_reference.py).

    nominal_rate_hz           rate of the nominal frame, the unit of time of the motion model
    memory_s                  a track ends when its newest stored feature is this old. The person was then last seen
                              between memory_s − feature_interval_s and memory_s ago. After slow updates, it lasts
                              for three of the last interval between updates
    feature_interval_s        minimum time between two stored features of one track, below memory_s; 0 stores every
                              feature
    bank_capacity             maximum number of stored features; the oldest are dropped. It also bounds the tracks
    nearest_neighbours        K, number of stored features that vote for each detection
    appearance_temperature    temperature of the softmax over the distances of the K nearest features
    motion_history            observations per track that the motion model is fitted to
    slope_penalty             ridge penalty on the slope of the motion model, frames²
    pixel_temperature         distance in the image that divides the motion similarity by e
    nearness_temperature      difference in log(1/z) that divides the motion similarity by e
    angle_temperature_rad     rotation that divides the motion similarity by e
    appearance_weight         weight of the appearance similarity in the score
    motion_weight             weight of the motion similarity in the score
    score_threshold           minimum score of an association, in [0, 1]
    weak_score_threshold      the same for weak detections, in [0, 1]
    confirm_hits              number of detections that confirm a track
    shape_window_s            time constant of the running body shape
    velocity                  noise of the velocity filters
    smoothing                 smoothing of poses and distances; None: off, as published
    """

    nominal_rate_hz: float = 30.0
    memory_s: float = 2.0
    feature_interval_s: float = 0.1
    bank_capacity: int = 2048
    nearest_neighbours: int = 35
    appearance_temperature: float = 0.1
    motion_history: int = 8
    slope_penalty: float = 20.0
    pixel_temperature: float = 0.3
    nearness_temperature: float = 3.0
    angle_temperature_rad: float = 20.0
    appearance_weight: float = 2.0
    motion_weight: float = 8.0
    score_threshold: float = 0.6
    weak_score_threshold: float = 0.8
    confirm_hits: int = 3
    shape_window_s: float = 10.0
    velocity: VelocityConfig = VelocityConfig()
    smoothing: SmoothingConfig | None = None

    @classmethod
    def reference(cls, nominal_rate_hz: float = 1.0) -> TrackerConfig:
        """Return the published settings of the association, for frames at `nominal_rate_hz`.

        The capacity is never exceeded: the network proposes at most 100 people in each of 50 frames.
        """
        return cls(
            nominal_rate_hz=nominal_rate_hz,
            memory_s=50 / nominal_rate_hz,
            feature_interval_s=0.0,
            bank_capacity=5000,
            nearest_neighbours=35,
            appearance_temperature=15.0,
            motion_history=8,
            slope_penalty=20.0,
            pixel_temperature=1.0,
            nearness_temperature=3.0,
            angle_temperature_rad=20.0,
            appearance_weight=1.0,
            motion_weight=8.0,
            score_threshold=0.69,
        )

    def __post_init__(self) -> None:
        _require_counts(self, ("bank_capacity", "nearest_neighbours", "motion_history", "confirm_hits"))
        _require_numbers(
            self,
            positive=(
                "nominal_rate_hz",
                "memory_s",
                "appearance_temperature",
                "pixel_temperature",
                "nearness_temperature",
                "angle_temperature_rad",
                "shape_window_s",
            ),
            not_negative=(
                "feature_interval_s",
                "slope_penalty",
                "appearance_weight",
                "motion_weight",
                "score_threshold",
                "weak_score_threshold",
            ),
        )
        if self.feature_interval_s >= self.memory_s:
            raise UserError(
                f"TrackerConfig.feature_interval_s: expected less than memory_s ({self.memory_s!r}), got "
                f"{self.feature_interval_s!r}; people would lose their ids between two stored features"
            )
        if self.appearance_weight + self.motion_weight == 0:
            raise UserError(
                "TrackerConfig.appearance_weight and motion_weight: expected a sum above 0, got 0 and 0; raise one"
            )
        for name in ("score_threshold", "weak_score_threshold"):
            if getattr(self, name) > 1:
                raise UserError(f"TrackerConfig.{name}: expected 0 to 1, got {getattr(self, name)!r}")

    @property
    def memory_frames(self) -> float:
        """`memory_s` in nominal frames."""
        return compute_frame_number(self.memory_s, self.nominal_rate_hz)

    @property
    def feature_interval_frames(self) -> float:
        """`feature_interval_s` in nominal frames."""
        return compute_frame_number(self.feature_interval_s, self.nominal_rate_hz)
