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

"""Multi-HMR 2: one image in; scores, places, bodies and appearance of the people in it out (paper section 3).

Everything has a fixed shape: the `max_people` queries of highest score go on, present or not, so that no step waits
for the GPU to say how many people there are. Who is present is decided at the very end, on the host.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from multihmr2_ros.body import Body
from multihmr2_ros.network.backbone import Backbone, Encoded
from multihmr2_ros.network.config import NetworkConfig
from multihmr2_ros.network.decoder import Decoder, QueryStart
from multihmr2_ros.network.heads import CameraHead, DetectionHeads, PersonHeads, depth_from_nearness
from multihmr2_ros.network.movenet import MoveNetOutputs
from multihmr2_ros.network.proposals import EncoderFeatures, ProposalEmbedding

IMAGE_MEAN = {"vit": (0.485, 0.456, 0.406), "movenet": (0.5, 0.5, 0.5)}
IMAGE_STD = {"vit": (0.229, 0.224, 0.225), "movenet": (0.5, 0.5, 0.5)}
KEYPOINTS = 17  # COCO's
SCORE_START = (-6.0, 6.0)  # logits that the encoder's proposals begin with
FOV_IN_TRAINING = (0.15, 2.8)  # rad, of cameras through which people are projected in training
PHENOTYPES = 6  # of the shape outputs, the first six are Anny's phenotypes; the others are unused


@dataclass(frozen=True)
class Prediction:
    """The network's whole output for B images, Q queries and the M queries of highest score, best first.

    Pixels are those of the padded input; metres in the camera's optical frame.

    horizontal_fov   (B,) rad, as predicted, whatever k is
    k                (B, 3, 3) the intrinsics in use: given, or from the predicted field of view
    query_score      (B, Q) in [0, 1]
    query_location   (B, Q, 2) px, the body centre's place in the picture
    query_depth      (B, Q) m, the body centre's z
    score            (B, M)
    centre           (B, M, 3) m, the body's centre vertex
    shape            (B, M, 11) in [0, 1], the first 6 are Anny's phenotypes
    rotations        (B, M, 163, 3, 3) relative to the parent bone; row 0 in the camera frame
    track_feature    (B, M, F)
    keypoints        (B, M, 17, 2) px, COCO's order, that the encoder saw of the person; None where it looks for none
    keypoint_score   (B, M, 17) in [0, 1], of these
    """

    horizontal_fov: Tensor
    k: Tensor
    query_score: Tensor
    query_location: Tensor
    query_depth: Tensor
    score: Tensor
    centre: Tensor
    shape: Tensor
    rotations: Tensor
    track_feature: Tensor
    keypoints: Tensor | None = None
    keypoint_score: Tensor | None = None


@dataclass(frozen=True)
class LayerOutputs:
    """One decoder layer's detections of B images: score_logit (B, Q); location (B, Q, 2) px of the padded input;
    log_nearness (B, Q), the log of f / z."""

    score_logit: Tensor
    location: Tensor
    log_nearness: Tensor


@dataclass(frozen=True)
class TrainingOutputs:
    """The network's output for B images, as the losses need it.

    layers          one LayerOutputs per decoder layer, the last one last
    queries         (B, Q, D) decoded, for the person heads
    heatmap         (B, h, w) logit of "a person's centre lies in this patch"; None for learned queries
    horizontal_fov  (B,) rad, as predicted
    k               (B, 3, 3) px, the intrinsics in use: given or predicted
    image_size      (height, width) px of the padded input
    keypoint_maps   (B, h, w, 17) logit of "this keypoint of somebody lies in this patch"; None without such maps
    movenet         outputs of the pretrained encoder, where it was run
    """

    layers: tuple[LayerOutputs, ...]
    queries: Tensor
    heatmap: Tensor | None
    horizontal_fov: Tensor
    k: Tensor
    image_size: tuple[int, int]
    keypoint_maps: Tensor | None = None
    movenet: MoveNetOutputs | None = None


@dataclass(frozen=True)
class PlacedBodies:
    """Posed bodies at their places: metres, axes of the camera frame.

    vertices (B, M, V, 3) and joints (B, M, 163, 3) in the camera frame; bone_poses (B, M, 163, 4, 4) about the body's
    own origin, as the released model gives them; stature (B, M).
    """

    vertices: Tensor
    joints: Tensor
    bone_poses: Tensor
    stature: Tensor


class MultiHMR2(nn.Module):
    """The learned part: encoder with camera, decoder, heads."""

    image_mean: Tensor
    image_std: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.camera = CameraHead(config)
        self.decoder = Decoder(config)
        self.detection = DetectionHeads(config)
        self.person = PersonHeads(config)
        # For training only: dense supervision of the encoder.
        self.keypoint_maps = nn.Linear(config.encoder_width, KEYPOINTS) if config.keypoint_maps else None
        self.proposals = ProposalEmbedding(config) if config.encoder == "movenet" else None
        for name, values in (("image_mean", IMAGE_MEAN), ("image_std", IMAGE_STD)):
            value = torch.tensor(values[config.encoder], device="cpu")[:, None, None]
            self.register_buffer(name, value, persistent=False)

    def set_precision(self, dtype: torch.dtype) -> MultiHMR2:
        """Hold and multiply the encoder's and the decoder's matrices in dtype; all else stays in float32."""
        for module in [*self.backbone.modules(), *self.decoder.modules()]:
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.to(dtype)
        return self

    @property
    def precision(self) -> torch.dtype:
        return self.decoder.to_context.weight.dtype

    def forward(self, image: Tensor, k: Tensor, k_given: Tensor, max_people: int) -> Prediction:
        """People of B images of one size.

        image (B, 3, H, W) uint8 RGB, H and W multiples of the patch size; k (B, 3, 3) px of this image, read where
        k_given (B,) bool is true.
        """
        encoded = self.encode(image)
        decoded, horizontal_fov = self.decoder(encoded.patches, self._start(encoded)), self.camera(encoded.class_token)
        k = camera_in_use(image, horizontal_fov, k, k_given)
        score_logit, query_location, log_nearness = self.detection(decoded.queries, decoded.anchor, decoded.score)
        query_score = torch.sigmoid(score_logit)
        query_depth = depth_from_nearness(log_nearness, k[:, :1, 0])

        score, best = query_score.topk(min(max_people, query_score.shape[1]), dim=1)
        shape, rotations, track_feature = self.person(take(decoded.queries, best))
        centre = back_project(take(query_location, best), take(query_depth, best), k)
        seen = encoded.features
        return Prediction(
            horizontal_fov, k, query_score, query_location, query_depth, score, centre, shape, rotations, track_feature,
            None if seen is None else take(seen.keypoints, best),
            None if seen is None else take(seen.keypoint_score, best),
        )  # fmt: skip

    def training_outputs(
        self, image: Tensor, k: Tensor, k_given: Tensor, features: EncoderFeatures | None = None
    ) -> TrainingOutputs:
        """What the losses need; arguments as of `forward`. The person heads run later, for matched queries only.

        features: of the pretrained encoder for these images, where they are known already."""
        encoded = self.encode(image, features)
        patches = encoded.patches
        decoded = self.decoder(patches, self._start(encoded))
        with torch.autocast(image.device.type, enabled=False):  # pixels and metres are float32 under autocast, too
            horizontal_fov = self.camera(encoded.class_token)
            maps = None if self.keypoint_maps is None else self.keypoint_maps(patches)
            layers = tuple(
                LayerOutputs(*self.detection(queries, decoded.anchor, decoded.score)) for queries in decoded.layers
            )
        # Known cameras alone teach the field of view: through projections it would be traded for distance, without end.
        k = camera_in_use(image, horizontal_fov.detach().clamp(*FOV_IN_TRAINING), k, k_given)
        return TrainingOutputs(
            layers, decoded.queries, decoded.heatmap, horizontal_fov, k, (image.shape[-2], image.shape[-1]), maps,
            _whole_outputs(encoded.features),
        )  # fmt: skip

    def encode(self, image: Tensor, features: EncoderFeatures | None = None) -> Encoded:
        """Tokens of images (B, 3, H, W) uint8, float32; features as in `training_outputs`."""
        encoded: Encoded = self.backbone(image if features is not None else self._normalize(image), features)
        return encoded

    def extract_features(self, image: Tensor) -> EncoderFeatures:
        """Features of the pretrained encoder for images (B, 3, H, W) uint8."""
        assert self.backbone.pretrained is not None
        features: EncoderFeatures = self.backbone.pretrained(self._normalize(image))
        return features

    def _normalize(self, image: Tensor) -> Tensor:
        return (image.float() / 255.0 - self.image_mean) / self.image_std

    def _start(self, encoded: Encoded) -> QueryStart | None:
        """What the queries begin with, where the encoder proposes people."""
        if self.proposals is None or encoded.features is None:
            return None
        features = encoded.features
        content = self.proposals(features, encoded.patches)
        return QueryStart(content, features.reference, features.center_logit.clamp(*SCORE_START))


def _whole_outputs(features: EncoderFeatures | None) -> MoveNetOutputs | None:
    outputs = None if features is None else features.outputs
    return outputs if isinstance(outputs, MoveNetOutputs) else None


def camera_in_use(image: Tensor, horizontal_fov: Tensor, k: Tensor, k_given: Tensor) -> Tensor:
    """(B, 3, 3) px: k where k_given (B,), elsewhere the intrinsics of the predicted field of view."""
    predicted = intrinsics(horizontal_fov, image.shape[-2], image.shape[-1])
    return torch.where(k_given[:, None, None], k, predicted)


def take(values: Tensor, indices: Tensor) -> Tensor:
    """Rows of values (B, Q, …) that indices (B, M) name → (B, M, …)."""
    index = indices.reshape(*indices.shape, *[1] * (values.ndim - 2)).expand(-1, -1, *values.shape[2:])
    return values.gather(1, index)


def intrinsics(horizontal_fov: Tensor, height: int, width: int) -> Tensor:
    """(B, 3, 3) of a field of view (B,) rad: f = (W/2) / tan(fov/2) on both axes, principal point in the middle."""
    focal = 0.5 * width / torch.tan(0.5 * horizontal_fov)
    zero, one = torch.zeros_like(focal), torch.ones_like(focal)
    rows = [focal, zero, one * (0.5 * width), zero, focal, one * (0.5 * height), zero, zero, one]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def back_project(points: Tensor, depth: Tensor, k: Tensor) -> Tensor:
    """X = z · K⁻¹ [u, v, 1]ᵀ: points (B, M, 2) px, depth (B, M) m, k (B, 3, 3) → (B, M, 3) m.

    K⁻¹ is written out (K is upper triangular), because a matrix inverse waits for the GPU.
    """
    y = (points[..., 1] - k[:, 1:2, 2]) / k[:, 1:2, 1]
    x = (points[..., 0] - k[:, 0:1, 2] - k[:, 0:1, 1] * y) / k[:, 0:1, 0]
    return torch.stack([x * depth, y * depth, depth], dim=-1)


def place_bodies(body: Body, prediction: Prediction) -> PlacedBodies:
    """Pose everybody and shift each so that its centre vertex lands on the located point."""
    batch, people = prediction.score.shape
    shape = prediction.shape[..., :PHENOTYPES].flatten(0, 1)
    posed = body(shape, prediction.rotations.flatten(0, 1))
    shift = prediction.centre.flatten(0, 1) - posed.vertices[:, body.centre_vertex]
    placed = (posed.vertices + shift[:, None], posed.joints + shift[:, None], posed.bone_poses, posed.stature)
    return PlacedBodies(*(values.unflatten(0, (batch, people)) for values in placed))
