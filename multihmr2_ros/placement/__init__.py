"""Where people really are: their places refined by a depth image, the ground and what is known of people's heights."""

from .config import PlacementConfig
from .cues import Ground, check_depth, metres
from .placement import Cue, Placement, place_people
from .stature import stature_prior
from .surface import BodySurface

__all__ = [
    "BodySurface",
    "Cue",
    "Ground",
    "Placement",
    "PlacementConfig",
    "check_depth",
    "metres",
    "place_people",
    "stature_prior",
]
