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

"""Configuration of the network's size and parts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from multihmr2_ros.errors import UserError
from multihmr2_ros.people import PHENOTYPE_LABELS

# Upper limits, because the network that a file describes is built before its weights are checked.
MAX_VALUES = {
    "encoder_depth": 128, "decoder_depth": 128, "max_grid": 128, "decoder_width": 4096, "stem_depths": 128,
    "proposal_depth": 128,
}  # fmt: skip
MAX_DEFAULT = 65_536
MIN_VALUES = {"proposal_depth": 0}
MAX_STAGES = 8
ENCODERS = ("vit", "movenet")
ARCHITECTURES = ("multi-hmr-2", "multi-hmr")


@dataclass(frozen=True)
class NetworkConfig:
    """Size and parts of a network. The defaults describe the released ViT-L model of Multi-HMR 2 ("2.b", 768 px).

    image_size           px, longest side of the input; locations span 1.2 × this
    patch_size           px
    max_grid             patches per side in the decoder's position table
    encoder_*, decoder_* transformer blocks: width (features per token), depth (number of blocks), number of attention
                         heads, and hidden width of the MLP (encoder_mlp_ratio: divided by the width)
    decoder_head_width   features per attention head of the decoder
    register_tokens      additional tokens of the encoder, which are not decoded
    queries              number of queries, the maximum number of people in an image
    head_width           hidden features of the detection and person heads
    shape_outputs        outputs of the shape head, of which the first six are used
    track_feature_width  features of a person for tracking
    stem_widths          channels of the convolutional stages that compute the patches; each halves the image, so their
                         number determines the patch size. Empty: a single convolution, as in vision transformers
    stem_depths          number of residual convolutions in each stage
    encoder              "vit", or "movenet" for MoveNet's pretrained convolutions before the transformer blocks;
                         MoveNet's detections are then the initial queries of "multi-hmr-2"
    proposal_depth       number of residual perceptrons that convert MoveNet's detections to queries
    proposed_queries     the initial queries are the image tokens with the highest heatmap scores, not learned queries
    local_attention      each head of the decoder prefers tokens in a region around the query, of predicted offset and
                         size
    keypoint_maps        in training, the encoder also predicts maps of keypoints
    body_colors          tracking features are computed from colors at points of the body, not from queries; needs
                         encoder "movenet"
    architecture         "multi-hmr-2": queries, matched to people in training (DETR); "multi-hmr": its predecessor,
                         which detects people in a heat map of patches (see `human_perception.py`); `queries` is then
                         the number of patches that are decoded
    camera_embedding     "multi-hmr" only: the tokens contain the ray directions of their patches

    stem_widths, stem_depths, proposed_queries and keypoint_maps are for encoders that are trained from scratch.
    Raises UserError for values that are invalid or do not fit together.
    """

    image_size: int = 768
    patch_size: int = 16
    max_grid: int = 48
    encoder_width: int = 1024
    encoder_depth: int = 24
    encoder_heads: int = 16
    encoder_mlp_ratio: int = 4
    register_tokens: int = 4
    decoder_width: int = 1024
    decoder_depth: int = 8
    decoder_heads: int = 16
    decoder_head_width: int = 32
    decoder_mlp_width: int = 2048
    queries: int = 100
    head_width: int = 1024
    shape_outputs: int = 11
    track_feature_width: int = 4096
    stem_widths: tuple[int, ...] = ()
    stem_depths: tuple[int, ...] = ()
    encoder: str = "vit"
    proposal_depth: int = 0
    proposed_queries: bool = False
    local_attention: bool = False
    keypoint_maps: bool = False
    body_colors: bool = False
    architecture: str = "multi-hmr-2"
    camera_embedding: bool = False

    def __post_init__(self) -> None:
        self._check_values()
        self._check_stem()
        self._check_combinations()
        self._check_sizes()

    @property
    def is_multi_hmr(self) -> bool:
        """Whether the architecture is the first Multi-HMR."""
        return self.architecture == "multi-hmr"

    def _check_values(self) -> None:
        """Check the type and range of each value."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            min_value, max_value = MIN_VALUES.get(field.name, 1), MAX_VALUES.get(field.name, MAX_DEFAULT)
            if field.type == "int" and not _is_whole(value, min_value, max_value):
                raise UserError(
                    f"network configuration: {field.name} must be a whole number from {min_value} to {max_value}, "
                    f"got {value!r:.40}"
                )
        for name, choices in (("encoder", ENCODERS), ("architecture", ARCHITECTURES)):
            value = getattr(self, name)
            if value not in choices:
                raise UserError(f"network configuration: {name} must be {' or '.join(choices)}, got {value!r:.40}")
        if self.shape_outputs < len(PHENOTYPE_LABELS):
            raise UserError(
                f"network configuration: shape_outputs must be at least {len(PHENOTYPE_LABELS)}, one for each "
                f"phenotype, got {self.shape_outputs}"
            )
        for name in ("proposed_queries", "local_attention", "keypoint_maps", "camera_embedding", "body_colors"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"network configuration: {name} must be true or false, got {getattr(self, name)!r:.40}")

    def _check_combinations(self) -> None:
        """Check that the parts can be combined."""
        if self.encoder == "movenet" and (self.patch_size != 32 or self.stem_widths or self.proposed_queries):
            raise UserError(
                "network configuration: encoder movenet needs patch_size 32 and has its own queries: neither "
                "stem_widths nor proposed_queries"
            )
        if self.is_multi_hmr and self.proposed_queries:
            raise UserError("network configuration: architecture multi-hmr has its own queries: no proposed_queries")
        if not self.is_multi_hmr and self.camera_embedding:
            raise UserError("network configuration: camera_embedding needs architecture multi-hmr")
        if self.local_attention and not (self.proposed_queries or self.encoder == "movenet" or self.is_multi_hmr):
            raise UserError(
                "network configuration: local_attention needs proposed_queries, encoder movenet or architecture "
                "multi-hmr"
            )
        if self.body_colors and (self.encoder != "movenet" or self.is_multi_hmr):
            raise UserError("network configuration: body_colors needs encoder movenet and architecture multi-hmr-2")

    def _check_sizes(self) -> None:
        """Check that widths can be divided into heads and positions, and that the patches fit into the grid."""
        if self.encoder_width % (4 * self.encoder_heads):
            raise UserError(
                f"network configuration: encoder_width must be a multiple of 4 × encoder_heads, "
                f"got {self.encoder_width} and {self.encoder_heads}"
            )
        if self.decoder_width % 4:
            raise UserError(f"network configuration: decoder_width must be a multiple of 4, got {self.decoder_width}")
        if self.image_size > self.max_grid * self.patch_size:
            raise UserError(
                f"network configuration: image_size {self.image_size} px needs more patches than max_grid "
                f"{self.max_grid} × patch_size {self.patch_size} px"
            )

    def _check_stem(self) -> None:
        for name, min_value in (("stem_widths", 1), ("stem_depths", 0)):
            value = getattr(self, name)
            max_value = MAX_VALUES.get(name, MAX_DEFAULT)
            if (
                not isinstance(value, list | tuple)
                or len(value) > MAX_STAGES
                or not all(_is_whole(item, min_value, max_value) for item in value)
            ):
                raise UserError(
                    f"network configuration: {name} must be a list of at most {MAX_STAGES} whole numbers from "
                    f"{min_value} to {max_value}, got {value!r:.40}"
                )
            object.__setattr__(self, name, tuple(value))
        if len(self.stem_depths) != len(self.stem_widths):
            raise UserError(
                f"network configuration: stem_depths must have one number for each of the {len(self.stem_widths)} "
                f"stem_widths, got {len(self.stem_depths)}"
            )
        if self.stem_widths and self.patch_size != 2 ** len(self.stem_widths):
            raise UserError(
                f"network configuration: a stem of {len(self.stem_widths)} stages makes patches of "
                f"{2 ** len(self.stem_widths)} px, got patch_size {self.patch_size}"
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> NetworkConfig:
        """Create the configuration stored in a weights file. Raises UserError for unknown names, as in newer files."""
        if unknown := find_unknown_names(values):
            names = ", ".join(map(repr, unknown))
            raise UserError(
                f"network configuration: unknown names {names:.200}; the file is from a newer version; update "
                "multihmr2_ros"
            )
        return cls(**values)


def find_unknown_names(values: dict[str, Any]) -> list[str]:
    """Return the names that are not fields of `NetworkConfig`, sorted."""
    return sorted(values.keys() - {field.name for field in dataclasses.fields(NetworkConfig)})


def _is_whole(value: Any, min_value: int, max_value: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and min_value <= value <= max_value


# 11.4 M parameters, of which MoveNet's 4.7 M are pretrained.
NANO = NetworkConfig(
    image_size=384,
    patch_size=32,
    max_grid=12,
    encoder="movenet",
    encoder_width=192,
    encoder_depth=1,
    encoder_heads=3,
    encoder_mlp_ratio=2,
    register_tokens=1,
    proposal_depth=2,
    decoder_width=256,
    decoder_depth=3,
    decoder_heads=8,
    decoder_mlp_width=512,
    queries=24,
    head_width=512,
    shape_outputs=6,
    track_feature_width=256,
    local_attention=True,
    body_colors=True,
)

# The encoder of nano, with the detection and the two blocks of Multi-HMR.
MULTI_HMR = dataclasses.replace(NANO, architecture="multi-hmr", decoder_depth=2, body_colors=False)
MULTI_HMR_CAMERA = dataclasses.replace(MULTI_HMR, camera_embedding=True)

# 5 M parameters for 320 × 240 px: can be trained from scratch, and run in real time, on two CPU cores.
SCRATCH = NetworkConfig(
    image_size=320,
    max_grid=20,
    encoder_width=192,
    encoder_depth=3,
    encoder_heads=3,
    encoder_mlp_ratio=2,
    register_tokens=1,
    decoder_width=256,
    decoder_depth=2,
    decoder_heads=8,
    decoder_mlp_width=512,
    queries=40,
    head_width=512,
    shape_outputs=6,
    track_feature_width=256,
    stem_widths=(24, 48, 96, 192),
    stem_depths=(0, 0, 1, 2),
    proposed_queries=True,
    local_attention=True,
    keypoint_maps=True,
)
