"""One colour per track, the same in every picture, mesh and marker."""

from __future__ import annotations

# M. Okabe and K. Ito, "Color Universal Design" (2008), without black: told apart with any colour vision.
OKABE_ITO = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
# After the palette is used up it comes again lighter, then darker: (blended towards, by how much).
VARIATIONS = ((0, 0.0), (255, 0.45), (0, 0.35))
UNTRACKED = (160, 160, 160)


def track_color(track_id: int) -> tuple[int, int, int]:
    """sRGB colour (0-255 each) of a track. Depends on the id alone; 21 colours, then they repeat; below 0: grey."""
    if track_id < 0:
        return UNTRACKED
    around, position = divmod(int(track_id), len(OKABE_ITO))
    towards, amount = VARIATIONS[around % len(VARIATIONS)]
    red, green, blue = (round((1 - amount) * value + amount * towards) for value in OKABE_ITO[position])
    return red, green, blue
