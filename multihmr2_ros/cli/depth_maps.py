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

"""Depth maps of images, from files or a single-image network, for commands that place people with them."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from multihmr2_ros.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from multihmr2_ros.depth import RelativeDepthMap
    from multihmr2_ros.frame import Frame

    ReadImage = Callable[[], NDArray[np.uint8]]

KINDS = ("inverse", "depth", "metric")
WITHOUT_MAP = "people of this image are placed without a depth map"
logger = logging.getLogger(__name__)


def add_depth_maps(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("depth maps (they refine the distances of all people of an image jointly)")
    group.add_argument(
        "--depth-maps", type=Path, metavar="DIR",
        help="folder with one depth map per image, with the name and size of the image: .npy, .npz or 16-bit .png (0: "
        "no value)",
    )  # fmt: skip
    group.add_argument(
        "--depth-kind", choices=KINDS,
        help="values of the files: inverse depth or depth, up to an unknown scale and shift, or metric depth in m "
        "(16-bit: in mm) (default: inverse)",
    )  # fmt: skip
    group.add_argument(
        "--depth-model", metavar="DIR|NAME",
        help="monocular depth network in the format of transformers, such as "
        "depth-anything/Depth-Anything-V2-Small-hf: a folder, or a name on the Hugging Face Hub (needs the extra "
        "'train')",
    )  # fmt: skip


class DepthMaps:
    """Depth maps by image. missing: number of images without a usable map; each was logged as a warning."""

    def __init__(self, find: Callable[[str, ReadImage], NDArray[np.generic] | RelativeDepthMap]) -> None:
        self._find = find
        self.missing = 0
        self.asked = 0

    def apply(self, frame: Frame) -> Frame:
        """Return the frame with its map as depth; unchanged if there is no usable map."""
        height, width = frame.image.shape[:2]
        fallback = WITHOUT_MAP if frame.depth is None else "its measured depth is used instead"
        found = self.find_map(frame.name, (height, width), lambda: frame.image, fallback)
        return frame if found is None else dataclasses.replace(frame, depth=found)

    def find_map(
        self, name: str, size: tuple[int, int], image: ReadImage, fallback: str = WITHOUT_MAP
    ) -> NDArray[np.generic] | RelativeDepthMap | None:
        """Return the map of the image with this name and size (height, width); None if there is no usable one.

        image     reads the image
        fallback  placement without a map, for the warning
        """
        self.asked += 1
        try:
            found = self._find(name, image)
            _check(found, size, name)
        except UserError as error:
            self.missing += 1
            logger.warning("%s; %s", error, fallback)
            return None
        return found

    def report(self) -> str:
        """Return one line on missing maps; "" if none is missing."""
        if not self.missing:
            return ""
        return f"{self.missing} of {self.asked} images have no usable depth map; see the warnings above"


def open_depth_maps(args: argparse.Namespace, device: str) -> DepthMaps | None:
    """Open the depth maps selected by the options of `add_depth_maps`; None without such options. Raises UserError."""
    if args.depth_maps is not None and args.depth_model is not None:
        raise UserError("expected --depth-maps or --depth-model, got both; omit one of them")
    if args.depth_kind is not None and args.depth_maps is None:
        raise UserError("--depth-kind is for --depth-maps, which is missing; give --depth-maps or omit --depth-kind")
    if args.depth_maps is None and args.depth_model is None:
        return None
    if args.depth_model is not None:
        from multihmr2_ros.labeling.depth_model import DepthModel

        model = DepthModel(args.depth_model, device)
        return DepthMaps(lambda name, image: model(image()))
    if not args.depth_maps.is_dir():
        raise UserError(f"--depth-maps must be a folder, got {args.depth_maps}; check the path")
    return DepthMaps(lambda name, image: read_map(args.depth_maps, name, args.depth_kind or "inverse"))


def read_map(folder: Path, name: str, kind: str) -> NDArray[np.generic] | RelativeDepthMap:
    """Read the depth map of the image with this name from the folder. Raises UserError if it has none or several."""
    import numpy as np

    from multihmr2_ros.depth import RelativeDepthMap
    from multihmr2_ros.media.images import DEPTH_SUFFIXES, read_depth_map

    paths = [path for path in (folder / f"{name}{suffix}" for suffix in DEPTH_SUFFIXES) if path.is_file()]
    if len(paths) != 1:
        came = len(paths) or "none"
        raise UserError(f"expected one depth map {name}.npy, .npz or .png in {folder}, got {came}")
    values = read_depth_map(paths[0])
    if kind == "metric":
        return values
    floats = values.astype(np.float32)
    if values.dtype == np.uint16:
        floats[values == 0] = np.nan
    return RelativeDepthMap(floats, "depth" if kind == "depth" else "inverse")


def _check(found: NDArray[np.generic] | RelativeDepthMap, size: tuple[int, int], name: str) -> None:
    """Raise UserError for a map of another size or without information."""
    import numpy as np

    from multihmr2_ros.depth import RelativeDepthMap, check_depth, depth_to_meters

    try:
        check_depth(found, size)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    if isinstance(found, RelativeDepthMap):
        if found.compute_range() is None:
            raise UserError(f"the depth map of {name} must have at least two different values; replace it")
    elif not np.isfinite(depth_to_meters(found)).any():
        raise UserError(f"the depth map of {name} has no depth above 0 m; check its unit and --depth-kind")
