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

"""Settings of simulated scenes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from multihmr2_ros.errors import UserError

MAX_PIXELS = 100_000_000  # as in images that can be read
MAX_DURATION_S = 86_400.0
MAX_FRAME_RATE_HZ = 1000.0


@dataclass(frozen=True)
class SceneOptions:
    """Settings of the scenes to sample; every range is (minimum, maximum). All folders are optional.

    motions: BVH files. backgrounds: photographs without people. textures: surfaces and fabrics. garments: MakeHuman
    clothes (.obj with .mhclo).
    """

    width: int = 320
    height: int = 240
    people: tuple[int, int] = (0, 8)
    duration_s: float = 0.0
    frame_rate_hz: float = 10.0
    moving_camera: bool = False
    vertical_fov_deg: tuple[float, float] = (25.0, 100.0)
    camera_height_m: tuple[float, float] = (0.3, 2.5)
    distance_m: tuple[float, float] = (0.7, 15.0)
    motions: Path | None = None
    backgrounds: Path | None = None
    textures: Path | None = None
    garments: Path | None = None

    def __post_init__(self) -> None:
        """Raise UserError for values with which no scene can be sampled."""
        if self.width < 1 or self.height < 1:
            raise UserError(f"images must have at least 1 x 1 px, got {self.width} x {self.height} px; enlarge them")
        if self.width * self.height > MAX_PIXELS:
            raise UserError(
                f"images must have at most {MAX_PIXELS} pixels, got {self.width} x {self.height} px; make them smaller"
            )
        for name, minimum, maximum in (
            ("people", 0, 100),
            ("vertical_fov_deg", 1.0, 170.0),
            ("camera_height_m", 0.05, 20.0),
            ("distance_m", 0.1, 100.0),
        ):
            low, high = getattr(self, name)
            if not (minimum <= low <= high <= maximum):
                raise UserError(
                    f"{name} must be (minimum, maximum) within {minimum} to {maximum}, got ({low}, {high}); correct it"
                )
        if not 0 <= self.duration_s <= MAX_DURATION_S:
            raise UserError(f"duration_s must be 0 to {MAX_DURATION_S:g}, got {self.duration_s:g}; correct it")
        if not 0 < self.frame_rate_hz <= MAX_FRAME_RATE_HZ:
            raise UserError(
                f"frame_rate_hz must be above 0 and at most {MAX_FRAME_RATE_HZ:g}, got {self.frame_rate_hz:g}; "
                "correct it"
            )
