"""An estimator with known output, for tests of the node: no network, no weights."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from multihmr2_ros.estimator import EstimatorConfig
from multihmr2_ros.network.inference import Runtime
from multihmr2_ros.people import BONE_COUNT, PHENOTYPE_LABELS, IntrinsicsSource, People

from .people_factory import make_people, pinhole

PELVIS = np.array([[1.0, 0.2, 4.0]])
TETRAHEDRON = np.array([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.1]])
FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32)


class StandInEstimator:
    """Sees one confirmed person at PELVIS, track 7, in every image; `people` may be changed. step takes seconds_s."""

    def __init__(self, parameters: Any, seconds_s: float = 0.0) -> None:
        self.config = EstimatorConfig()
        self.runtime = Runtime("cpu")
        self.body = SimpleNamespace(
            bone_labels=tuple(f"bone_{index}" for index in range(BONE_COUNT)),
            bone_parents=(-1, *range(BONE_COUNT - 1)),
            phenotype_labels=PHENOTYPE_LABELS,
            faces=FACES,
        )
        self.seconds_s = seconds_s
        self.people: dict[str, Any] = {"n": 1, "pelvis": PELVIS, "track_id": np.array([7])}
        self.resets = 0
        self.images: list[np.ndarray] = []

    def step(
        self, image: np.ndarray, k: np.ndarray | None, stamp: float, *, intrinsics_source: IntrinsicsSource
    ) -> People:
        self.images.append(image)
        time.sleep(self.seconds_s)
        if not image.any():
            raise ZeroDivisionError("a black image")
        pelvis = self.people["pelvis"]
        return make_people(
            **self.people,
            vertices=pelvis[:, None] + TETRAHEDRON,
            k=pinhole(image_size=image.shape[:2]) if k is None else k,
            image_size=image.shape[:2],
            intrinsics_source=IntrinsicsSource.PREDICTED if k is None else intrinsics_source,
            stamp=stamp,
        )

    def reset(self) -> None:
        self.resets += 1


def slow_estimator(parameters: Any) -> StandInEstimator:
    return StandInEstimator(parameters, seconds_s=60.0)
