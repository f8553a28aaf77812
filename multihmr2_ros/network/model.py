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

"""Multi-HMR 2: image → scores, positions, bodies and appearance features of people (paper section 3).

With architecture "multi-hmr", the decoder is the one of Multi-HMR (`human_perception.py`); all else is shared.

All shapes are fixed: the `max_people` queries of highest score pass through all steps, even if they are not people, so
that no step depends on the number of people. The score threshold is applied at the end, on the host.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from multihmr2_ros.body import Body
from multihmr2_ros.network.backbone import Backbone, EncoderOutput
from multihmr2_ros.network.body_colors import BodyColors
from multihmr2_ros.network.config import NetworkConfig
from multihmr2_ros.network.decoder import Decoder, DecoderOutput, InitialQueries
from multihmr2_ros.network.heads import CameraHead, DetectionHeads, NearnessHead, PersonHeads, depth_from_nearness
from multihmr2_ros.network.human_perception import HumanPerceptionHead, PatchDetector
from multihmr2_ros.network.movenet import KeypointHead, MoveNetOutputs
from multihmr2_ros.network.proposals import EncoderFeatures, ProposalEmbedding

IMAGE_MEAN = {"vit": (0.485, 0.456, 0.406), "movenet": (0.5, 0.5, 0.5)}
IMAGE_STD = {"vit": (0.229, 0.224, 0.225), "movenet": (0.5, 0.5, 0.5)}
KEYPOINTS = 17  # COCO's
SCORE_START = (-6.0, 6.0)  # limits of the initial score logits of the encoder's proposals
FOV_IN_TRAINING = (0.15, 2.8)  # rad, range of the predicted field of view in projections during training
PHENOTYPES = 6  # of the shape outputs, the first six are Anny's phenotypes; the others are unused


@dataclass(frozen=True)
class Prediction:
    """Output of the network for B images: all Q queries, and the M queries of highest score, in descending order.

    Pixels refer to the padded input, meters to the camera's optical frame.

    horizontal_fov   (B,) rad, predicted, even if k is given
    k                (B, 3, 3) px, the intrinsics in use: given, or from the predicted field of view
    query_score      (B, Q) in [0, 1]
    query_location   (B, Q, 2) px, the body's center in the image
    query_depth      (B, Q) m, z of the body's center
    score            (B, M) in [0, 1]
    center           (B, M, 3) m, position of the body's center vertex
    shape            (B, M, 11) in [0, 1], for networks with 11 shape outputs; the first 6 are Anny's phenotypes
    rotations        (B, M, 163, 3, 3) relative to the parent bone; row 0 in the camera frame
    track_feature    (B, M, F)
    keypoints        (B, M, 17, 2) px, in COCO's order, found by the encoder; None for encoders without keypoints
    keypoint_score   (B, M, 17) in [0, 1]; None without keypoints
    """

    horizontal_fov: Tensor
    k: Tensor
    query_score: Tensor
    query_location: Tensor
    query_depth: Tensor
    score: Tensor
    center: Tensor
    shape: Tensor
    rotations: Tensor
    track_feature: Tensor
    keypoints: Tensor | None = None
    keypoint_score: Tensor | None = None


@dataclass(frozen=True)
class LayerOutputs:
    """Detections of one decoder layer for B images.

    score_logit   (B, Q)
    location      (B, Q, 2) px of the padded input
    log_nearness  (B, Q) log of f / z
    """

    score_logit: Tensor
    location: Tensor
    log_nearness: Tensor


@dataclass(frozen=True)
class TrainingOutputs:
    """Output of the network for B images, for the losses.

    layers          one LayerOutputs per decoder layer, in order
    queries         (B, Q, D) decoded, for the person heads
    heatmap         (B, h, w) logit of "a person's center is in this patch"; None for learned queries
    horizontal_fov  (B,) rad, predicted
    k               (B, 3, 3) px, the intrinsics in use: given or predicted
    image_size      (height, width) px of the padded input
    keypoint_maps   (B, h, w, 17) logit of "a keypoint of this kind is in this patch"; None without such maps
    movenet         output of the pretrained encoder; None if it was not run
    patch           (B, Q) int64, row · w + column of the patch of each query, for Multi-HMR; else None
    """

    layers: tuple[LayerOutputs, ...]
    queries: Tensor
    heatmap: Tensor | None
    horizontal_fov: Tensor
    k: Tensor
    image_size: tuple[int, int]
    keypoint_maps: Tensor | None = None
    movenet: MoveNetOutputs | None = None
    patch: Tensor | None = None


@dataclass(frozen=True)
class PlacedBodies:
    """Posed bodies at their positions; meters.

    vertices    (B, M, V, 3) camera frame
    joints      (B, M, 163, 3) camera frame
    bone_poses  (B, M, 163, 4, 4) relative to the body's own origin, axes of the camera frame, as released
    stature     (B, M)
    """

    vertices: Tensor
    joints: Tensor
    bone_poses: Tensor
    stature: Tensor


class MultiHMR2(nn.Module):
    """The learned part of the method: encoder, camera head, decoder, detection and person heads."""

    image_mean: Tensor
    image_std: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.camera = CameraHead(config)
        self.patch_detector = PatchDetector(config) if config.is_multi_hmr else None
        self.decoder = HumanPerceptionHead(config) if config.is_multi_hmr else Decoder(config)
        self.detection = NearnessHead(config) if config.is_multi_hmr else DetectionHeads(config)
        self.person = PersonHeads(config)
        # For training only: dense supervision of the encoder.
        self.keypoint_maps = nn.Linear(config.encoder_width, KEYPOINTS) if config.keypoint_maps else None
        proposes = config.encoder == "movenet" and not config.is_multi_hmr
        self.proposals = ProposalEmbedding(config) if proposes else None
        self.body_colors = BodyColors() if config.body_colors else None
        for name, values in (("image_mean", IMAGE_MEAN), ("image_std", IMAGE_STD)):
            value = torch.tensor(values[config.encoder], device="cpu")[:, None, None]
            self.register_buffer(name, value, persistent=False)

    def set_precision(self, dtype: torch.dtype) -> MultiHMR2:
        """Convert the matrices of encoder and decoder to dtype, in place; the rest stays float32. Returns self.

        MoveNet's heads stay float32, too, because their outputs are scores and positions.
        """
        for module in [*self.backbone.modules(), *self.decoder.modules()]:
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.to(dtype)
        for module in self.backbone.modules():
            if isinstance(module, KeypointHead):
                module.float()
        return self

    @property
    def precision(self) -> torch.dtype:
        """Dtype of the matrices of encoder and decoder; see `set_precision`."""
        return self.decoder.to_context.weight.dtype

    def forward(
        self,
        image: Tensor,
        k: Tensor,
        k_given: Tensor,
        max_people: int,
        min_score: float | None = None,
        *,
        features: EncoderFeatures | None = None,
    ) -> Prediction:
        """Detect the people of B images of one size.

        image       (B, 3, H, W) uint8 RGB, H and W multiples of the patch size
        k           (B, 3, 3) px of this image
        k_given     (B,) bool; if false, k is ignored and predicted
        max_people  M, number of queries that a body is predicted for
        min_score   on a CPU: M is reduced to the largest number of higher scores in an image, but at least 1. None: M
                    does not depend on the images
        features    precomputed features of the pretrained encoder for these images; the images are then not used
        """
        encoded = self.encode(image, features)
        horizontal_fov = self.camera(encoded.class_token)
        k = select_intrinsics(image, horizontal_fov, k, k_given)
        decoded = self.decode(encoded, k)
        score_logit, query_location, log_nearness = self.detection(
            decoded.queries, decoded.reference_point, decoded.score
        )
        query_score = torch.sigmoid(score_logit)
        query_depth = depth_from_nearness(log_nearness, k[:, :1, 0])

        if min_score is not None:
            max_people = min(max_people, max(1, int((query_score > min_score).sum(dim=1).max())))
        score, best = query_score.topk(min(max_people, query_score.shape[1]), dim=1)
        proposed = encoded.features if self.proposals is not None else None
        keypoints = None if proposed is None else take_rows(proposed.keypoints, best)
        queries = take_rows(decoded.queries, best)
        shape, rotations = self.person(queries)
        track_feature = self.person.track_feature(self.describe_appearance(image, queries, keypoints))
        center = back_project(take_rows(query_location, best), take_rows(query_depth, best), k)
        return Prediction(
            horizontal_fov, k, query_score, query_location, query_depth, score, center, shape, rotations, track_feature,
            keypoints, None if proposed is None else take_rows(proposed.keypoint_score, best),
        )  # fmt: skip

    def predict_for_training(
        self,
        image: Tensor,
        k: Tensor,
        k_given: Tensor,
        features: EncoderFeatures | None = None,
        true_patches: Tensor | None = None,
    ) -> TrainingOutputs:
        """Return the output for the losses. The person heads are applied later, to matched queries only.

        Arguments as in `forward`, and:

        features      precomputed features of the pretrained encoder for these images
        true_patches  (B, h, w) bool, patches with the center of a person, decoded in any case by Multi-HMR
        """
        encoded = self.encode(image, features)
        # The field of view gets no gradient from projections, because an error of it could compensate an error of the
        # distance. It is trained on known cameras only.
        with torch.autocast(image.device.type, enabled=False):  # pixels and meters stay float32 under autocast
            horizontal_fov = self.camera(encoded.class_token)
            k = select_intrinsics(image, horizontal_fov.detach().clamp(*FOV_IN_TRAINING), k, k_given)
        decoded = self.decode(encoded, k, true_patches)
        with torch.autocast(image.device.type, enabled=False):
            maps = None if self.keypoint_maps is None else self.keypoint_maps(encoded.patches)
            layers = tuple(
                LayerOutputs(*self.detection(queries, decoded.reference_point, decoded.score))
                for queries in decoded.layers
            )
        movenet = None if self.proposals is None else _drop_sparse_outputs(encoded.features)
        return TrainingOutputs(
            layers, decoded.queries, decoded.heatmap, horizontal_fov, k, (image.shape[-2], image.shape[-1]), maps,
            movenet, decoded.patch,
        )  # fmt: skip

    def encode(self, image: Tensor, features: EncoderFeatures | None = None) -> EncoderOutput:
        """Encode images (B, 3, H, W) uint8; features as in `predict_for_training`."""
        encoded: EncoderOutput = self.backbone(image if features is not None else self._normalize(image), features)
        return encoded

    def decode(self, encoded: EncoderOutput, k: Tensor, true_patches: Tensor | None = None) -> DecoderOutput:
        """Decode the queries. k and true_patches as in `predict_for_training`, used by Multi-HMR only."""
        if self.patch_detector is not None:
            detections = self.patch_detector(encoded.patches, true_patches)
            decoded: DecoderOutput = self.decoder(encoded.patches, detections, k)
        else:
            decoded = self.decoder(encoded.patches, self._make_initial_queries(encoded))
        return decoded

    def describe_appearance(self, image: Tensor, queries: Tensor, keypoints: Tensor | None) -> Tensor:
        """Return the input (B, M, C) of tracking features: colors of the bodies, or queries (B, M, D).

        image (B, 3, H, W) uint8; keypoints (B, M, 17, 2) px of the same people, or None.
        """
        if self.body_colors is None or keypoints is None:
            return queries
        colors: Tensor = self.body_colors(image, keypoints)
        return colors

    def extract_features(self, image: Tensor) -> EncoderFeatures:
        """Compute the features of the pretrained encoder for images (B, 3, H, W) uint8."""
        assert self.backbone.pretrained is not None
        features: EncoderFeatures = self.backbone.pretrained(self._normalize(image))
        return features

    def _normalize(self, image: Tensor) -> Tensor:
        return (image.float() / 255.0 - self.image_mean) / self.image_std

    def _make_initial_queries(self, encoded: EncoderOutput) -> InitialQueries | None:
        """Return the initial queries if the encoder proposes people, else None."""
        if self.proposals is None or encoded.features is None:
            return None
        features = encoded.features
        content = self.proposals(features, encoded.patches)
        return InitialQueries(content, features.reference, features.center_logit.clamp(*SCORE_START))


def _drop_sparse_outputs(features: EncoderFeatures | None) -> MoveNetOutputs | None:
    """Return MoveNet's outputs if they have vectors in every cell, as the losses need; else None."""
    outputs = None if features is None else features.outputs
    return outputs if isinstance(outputs, MoveNetOutputs) else None


def select_intrinsics(image: Tensor, horizontal_fov: Tensor, k: Tensor, k_given: Tensor) -> Tensor:
    """Return intrinsics (B, 3, 3) px: k if k_given (B,) is true, else from the predicted field of view (B,) rad."""
    predicted = intrinsics_from_horizontal_fov(horizontal_fov, image.shape[-2], image.shape[-1])
    return torch.where(k_given[:, None, None], k, predicted)


def take_rows(values: Tensor, indices: Tensor) -> Tensor:
    """Select rows (B, M, …) of values (B, Q, …) by indices (B, M)."""
    index = indices.reshape(*indices.shape, *[1] * (values.ndim - 2)).expand(-1, -1, *values.shape[2:])
    return values.gather(1, index)


def intrinsics_from_horizontal_fov(horizontal_fov: Tensor, height: int, width: int) -> Tensor:
    """Return K (B, 3, 3) px for a horizontal field of view (B,) rad.

    f = (W/2) / tan(fov/2) on both axes, principal point (W/2, H/2).
    """
    focal = 0.5 * width / torch.tan(0.5 * horizontal_fov)
    zero, one = torch.zeros_like(focal), torch.ones_like(focal)
    rows = [focal, zero, one * (0.5 * width), zero, focal, one * (0.5 * height), zero, zero, one]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def back_project(points: Tensor, depth: Tensor, k: Tensor) -> Tensor:
    """Back-project points (B, M, 2) px at depth (B, M) m with k (B, 3, 3): X = z · K⁻¹ [u, v, 1]ᵀ, (B, M, 3) m.

    K⁻¹ is written out (K is upper triangular), because a matrix inverse synchronizes with the GPU.
    """
    y = (points[..., 1] - k[:, 1:2, 2]) / k[:, 1:2, 1]
    x = (points[..., 0] - k[:, 0:1, 2] - k[:, 0:1, 1] * y) / k[:, 0:1, 0]
    return torch.stack([x * depth, y * depth, depth], dim=-1)


def place_bodies(body: Body, prediction: Prediction) -> PlacedBodies:
    """Pose all bodies and shift each so that its center vertex is at `prediction.center`."""
    batch, people = prediction.score.shape
    shape = prediction.shape[..., :PHENOTYPES].flatten(0, 1)
    posed = body(shape, prediction.rotations.flatten(0, 1))
    shift = prediction.center.flatten(0, 1) - posed.vertices[:, body.center_vertex]
    placed = (posed.vertices + shift[:, None], posed.joints + shift[:, None], posed.bone_poses, posed.stature)
    return PlacedBodies(*(values.unflatten(0, (batch, people)) for values in placed))
