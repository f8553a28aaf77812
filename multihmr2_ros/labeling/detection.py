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

"""Detects people and their 2D keypoints in images without labels.

Uses a detector and a pose estimator of the package transformers (RT-DETR and ViTPose, Apache-2.0).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError
from multihmr2_ros.labeling.annotations import PersonAnnotation

SURE_SCORE = 0.5  # at least: a person
UNSURE_SCORE = 0.2  # at least: neither a person nor background
TRUSTED_KEYPOINT = 0.3
MIN_SIZE_PX = 24
MAX_PEOPLE = 100  # per image, by score


def import_transformers(use: str, alternative: str) -> Any:
    """Import and return the package transformers. Raises UserError if it is not installed.

    use          the option or task that needs it, for the message
    alternative  what the user may give instead, for the message
    """
    try:
        import transformers
    except ImportError:
        raise UserError(
            f"{use} needs the package transformers, at least 4.56; install 'multihmr2_ros[train]' with pip, or use "
            f"{alternative}"
        ) from None
    return transformers


class PeopleDetector:
    """Detector of people's boxes, with 17 estimated keypoints in each."""

    def __init__(self, detector: str, pose_estimator: str, device: str = "cpu") -> None:
        """Load both models: each is a folder in the format of transformers, or a name on the hub (downloaded).

        Raises UserError if one cannot be loaded, or was trained on other classes or keypoints.
        """
        transformers = import_transformers("detecting people in images without annotations", "a COCO keypoint file")
        self._device = device
        self._find, self._to_detector = load_model(
            transformers.AutoModelForObjectDetection, detector, "--detector", device
        )
        self._pose, self._to_pose = load_model(
            transformers.VitPoseForPoseEstimation, pose_estimator, "--pose-estimator", device
        )
        names: dict[int, str] = self._find.config.id2label
        self._person_labels = [key for key, name in names.items() if str(name).lower() == "person"]
        if not self._person_labels:
            raise UserError(f"the detector {detector} has no class 'person'; give one trained on COCO")
        keypoints = int(self._pose.config.num_labels)
        if keypoints != 17:
            raise UserError(
                f"expected a pose estimator with COCO's 17 keypoints, got {pose_estimator} with {keypoints}; give "
                "another one"
            )
        experts = getattr(self._pose.config.backbone_config, "num_experts", 1)
        self._experts = isinstance(experts, int) and experts > 1

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8], image_index: int) -> list[PersonAnnotation]:
        """Detect the people in an image (H, W, 3) uint8 RGB; image_index: the image's index."""
        boxes, scores = self._detect(image)
        if not len(boxes):
            return []
        points, trust = self._estimate(image, boxes)
        persons = []
        for box, score, keypoints, weights in zip(boxes, scores, points, trust, strict=True):
            small = max(box[2] - box[0], box[3] - box[1]) < MIN_SIZE_PX
            trusted = weights >= TRUSTED_KEYPOINT
            persons.append(
                PersonAnnotation(
                    image_index,
                    bool(score < SURE_SCORE or small),
                    box,
                    np.where(trusted[:, None], keypoints, 0.0).astype(np.float32),
                    np.where(trusted, weights, 0.0).astype(np.float32),
                    trusted,
                )
            )
        return persons

    def _detect(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return boxes (n, 4) px, clipped to the image, and scores (n,), descending."""
        inputs = self._to_detector(images=image, return_tensors="pt").to(self._device)
        height, width = image.shape[:2]
        (found,) = self._to_detector.post_process_object_detection(
            self._find(**inputs), target_sizes=[(height, width)], threshold=UNSURE_SCORE
        )
        labels, boxes, scores = (found[name].cpu().numpy() for name in ("labels", "boxes", "scores"))
        boxes = np.clip(boxes, 0, [width, height, width, height]).astype(np.float32)
        kept = np.isin(labels, self._person_labels) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        order = np.argsort(-scores[kept], kind="stable")[:MAX_PEOPLE]
        return boxes[kept][order], scores[kept][order].astype(np.float32)

    def _estimate(
        self, image: NDArray[np.uint8], boxes: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return keypoints (n, 17, 2) px and scores (n, 17) of the people in boxes (n, 4) px."""
        corners = [np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)]
        inputs = self._to_pose(images=image, boxes=corners, return_tensors="pt").to(self._device)
        if self._experts:
            inputs["dataset_index"] = torch.zeros(len(boxes), dtype=torch.long, device=self._device)
        outputs = self._pose(**inputs)
        outputs.heatmaps = outputs.heatmaps.cpu()
        (people,) = self._to_pose.post_process_pose_estimation(outputs, boxes=corners)
        points = np.stack([np.asarray(person["keypoints"], np.float32).reshape(17, 2) for person in people])
        scores = np.stack([np.asarray(person["scores"], np.float32).reshape(17) for person in people])
        return points, np.clip(scores, 0.0, 1.0)


def load_model(kind: Any, source: str, option: str, device: str) -> tuple[Any, Any]:
    """Load a model of a transformers class and its image processor. Raises UserError naming the option."""
    from transformers import AutoImageProcessor

    is_path = Path(source).exists() or Path(source).is_absolute()
    if is_path and not Path(source, "config.json").is_file():
        raise UserError(
            f"{option} must be a folder with config.json, preprocessor_config.json and model.safetensors, got {source} "
            "without config.json; save the model there with save_pretrained"
        )
    try:
        model, report = kind.from_pretrained(source, use_safetensors=True, output_loading_info=True)
        processor = AutoImageProcessor.from_pretrained(source)
    except Exception as error:  # the library raises many types: files, headers, sizes, the hub
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"{option} {source} cannot be loaded ({reason:.200}); give a folder written by save_pretrained, or a name "
            "on the Hugging Face Hub (needs network access)"
        ) from None
    if report["missing_keys"]:
        raise UserError(f"{option} {source} lacks weights, such as {sorted(report['missing_keys'])[0]}; save it again")
    return model.eval().requires_grad_(False).to(device), processor
