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

"""Draw the recording of `make demo` as an animation: the images with meshes, and the people from the side and above.

    python scripts/animate_recording.py demo/recorded.mcap docs/people.webp [--begin S] [--end S]

Every processed image is shown. The views from the side and from above are nearly orthographic; their lines are 1 m
apart, with the camera at the left.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from demo_input import IMAGES
from demo_results import NODE, Recording, decode, drawable, read_recording
from numpy.typing import NDArray
from PIL import Image

from multihmr2_ros.bags.humans import people_from_human_array
from multihmr2_ros.errors import UserError
from multihmr2_ros.files import atomic_path
from multihmr2_ros.media.overlay import draw_people
from multihmr2_ros.people import People


@dataclass(frozen=True)
class View:
    """A view of the people.

    axes       (3, 3) right, down and forward in the camera's frame
    origin     (3,) m in the camera's frame, at the middle of the left border
    height_px  of the view
    """

    name: str
    axes: NDArray[np.float64]
    origin: NDArray[np.float64]
    height_px: int


SIDE = View("side", np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]]), np.array([0.0, 0.5, -0.5]), 140)
ABOVE = View("above", np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]), np.array([0.0, 0.0, -0.5]), 340)
AWAY_M = 200.0  # distance of the viewer
WIDTH_PX, PX_PER_M = 450, 30  # of a view
IMAGE_HEIGHT_PX = SIDE.height_px + ABOVE.height_px  # of the camera's image
BACKGROUND, LINES, CAMERA, TEXT = (250, 250, 250), (215, 215, 215), (90, 90, 90), (60, 60, 60)
QUALITY, MAX_BYTES = 60, 3_000_000
MIN_PERIOD_MS, MAX_PERIOD_MS = 40, 400  # of a frame


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bag", type=Path, metavar="BAG", help="recorded.mcap of make demo")
    parser.add_argument("out", type=Path, metavar="WEBP", help="output file")
    parser.add_argument("--begin", type=float, default=0.0, metavar="S", help="after the first image (default: 0)")
    parser.add_argument("--end", type=float, default=np.inf, metavar="S", help="after the first image (default: all)")
    args = parser.parse_args()
    try:
        write_animation(read_recording(args.bag, IMAGES, NODE), args.out, args.begin, args.end)
    except UserError as error:
        print(f"animate_recording: {error}", file=sys.stderr)
        return 2
    return 0


def write_animation(recording: Recording, path: Path, begin_s: float, end_s: float) -> None:
    """Write the answers of a period as an animated WebP.

    Raises UserError if path does not end in .webp, the period has no answers, or the file is too large.
    """
    if path.suffix != ".webp":
        raise UserError(f"the output file must end in .webp, got {str(path)!r}; rename it")
    stamps = sorted(recording.images)
    shown = [
        (stamps[index], message)
        for index, message in recording.answers
        if begin_s <= (stamps[index] - stamps[0]) * 1e-9 <= end_s
    ]
    if len(shown) < 2:
        raise UserError(f"expected two messages of the node from {begin_s} s to {end_s} s, got {len(shown)}")
    frames = [Image.fromarray(draw_frame(recording, stamp, message)) for stamp, message in shown]
    periods_ms = np.diff([stamp for stamp, _ in shown]) * 1e-6
    durations = [*periods_ms, periods_ms[-1]]
    with atomic_path(path, keep_suffix=True) as temporary:
        frames[0].save(
            temporary, save_all=True, append_images=frames[1:], loop=0, quality=QUALITY, method=6,
            duration=[round(min(max(each, MIN_PERIOD_MS), MAX_PERIOD_MS)) for each in durations],
        )  # fmt: skip
        size = temporary.stat().st_size
        if size > MAX_BYTES:
            raise UserError(f"{size} bytes are too many (at most {MAX_BYTES}); choose a shorter period")
    print(f"{len(frames)} images, {size / 1e6:.2f} MB → {path}")


def draw_frame(recording: Recording, stamp: int, message: Any) -> NDArray[np.uint8]:
    """Draw one answer: the image with meshes on the left, the two views on the right; (H, W, 3) RGB."""
    image = decode(recording, stamp)
    height, width = image.shape[:2]
    people = drawable(people_from_human_array(message, (height, width)))
    left = draw_people(image, people, recording.faces)
    size = (round(width * IMAGE_HEIGHT_PX / height), IMAGE_HEIGHT_PX)
    views = [draw_view(people, recording.faces, view) for view in (SIDE, ABOVE)]
    return np.hstack([cv2.resize(left, size, interpolation=cv2.INTER_AREA), np.vstack(views)]).astype(np.uint8)


def draw_view(people: People, faces: NDArray[np.int64], view: View) -> NDArray[np.uint8]:
    """Draw people (in the camera's frame) from a side on a grid; (h, w, 3) RGB."""
    width, height = WIDTH_PX, view.height_px
    focal_px = PX_PER_M * AWAY_M
    k = np.array([[focal_px, 0, 0], [0, focal_px, height / 2], [0, 0, 1]])
    vertices = ((people.vertices - view.origin) @ view.axes.T + [0, 0, AWAY_M]).astype(np.float32)
    panel = np.full((height, width, 3), BACKGROUND, np.uint8)
    camera_x, camera_y = (view.axes @ -view.origin)[:2] * PX_PER_M + [0, height / 2]
    for x in np.arange(camera_x, width, PX_PER_M):
        cv2.line(panel, (round(x), 0), (round(x), height), LINES, 1)
    for y in np.arange(camera_y % PX_PER_M, height, PX_PER_M):
        cv2.line(panel, (0, round(y)), (width, round(y)), LINES, 1)
    corner = np.array([[camera_x, camera_y], [camera_x + 14, camera_y - 8], [camera_x + 14, camera_y + 8]])
    cv2.fillPoly(panel, [corner.round().astype(np.int32)], CAMERA, cv2.LINE_AA)
    panel = draw_people(panel, dataclasses.replace(people, vertices=vertices, k=k), faces, alpha=1.0, labels=False)
    cv2.putText(panel, view.name, (width - 62, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, TEXT, 1, cv2.LINE_AA)
    return panel


if __name__ == "__main__":
    raise SystemExit(main())
