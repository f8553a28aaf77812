"""Every size of the network, in one place."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from multihmr2_ros.errors import UserError


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of a Multi-HMR 2 network. The defaults are the released ViT-L model's ("2.b", 768 px).

    image_size: px, longest side of the input; the pixel location spans 1.2 × this. max_grid: patches a side that the
    decoder's position table covers.
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

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"network configuration: {field.name} must be a positive whole number, got {value!r}")
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

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> NetworkConfig:
        """The configuration saved in a weights file. Unknown names are an error: the file is of another version."""
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise UserError(
                f"network configuration: unknown names {', '.join(unknown)}; the file is of a newer version, "
                "update multihmr2_ros"
            )
        return cls(**values)
