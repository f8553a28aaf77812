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

"""One color per track, the same in every image, mesh and marker."""

from __future__ import annotations

# M. Okabe and K. Ito, "Color Universal Design" (2008), without black: distinguishable with any color vision.
OKABE_ITO = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
# The palette is repeated lighter, then darker: (gray level to blend with, its weight).
VARIATIONS = ((0, 0.0), (255, 0.45), (0, 0.35))
UNTRACKED = (160, 160, 160)


def get_track_color(track_id: int) -> tuple[int, int, int]:
    """Return the sRGB color (0-255 each) of a track id: 21 colors that repeat; gray below 0."""
    if track_id < 0:
        return UNTRACKED
    around, position = divmod(int(track_id), len(OKABE_ITO))
    towards, amount = VARIATIONS[around % len(VARIATIONS)]
    red, green, blue = (round((1 - amount) * value + amount * towards) for value in OKABE_ITO[position])
    return red, green, blue
