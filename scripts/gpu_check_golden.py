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

"""The step of `scripts/gpu_check.sh` that compares a GPU with the golden numbers and with the CPU."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from gpu_check_step import Step
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from multihmr2_ros.body import Body
from multihmr2_ros.camera import ResizePad
from multihmr2_ros.network.inference import Inference, Runtime
from test.golden import weights
from test.helpers.golden_images import CASES, GOLDEN, SIZES, make_given_k, read_by_score

Arrays = dict[str, NDArray[Any]]

# Maximum errors in float32, as in test/network/test_network_golden.py (fields of `Inference`'s results).
TOLERANCES = {
    "score": 1e-4, "shape": 1e-4, "rotations": 1e-3, "track_feature": 1e-3, "bone_poses": 1e-3, "joints": 1e-3,
    "vertices": 1e-3, "k": 0.05, "horizontal_fov": 1e-4,
}  # fmt: skip
# Maximum errors of 95 % of people, as in test/network/test_precision.py.
LOW_PRECISION_SCORE, LOW_PRECISION_DISTANCE_RATIO = 0.02, 0.02


def golden(step: Step) -> None:
    """Compare results on the golden images, in every precision and mode, with the golden numbers and with this CPU."""
    network, body = step.large(), Body("full")
    cpu = Inference(network, copy.deepcopy(body), Runtime("cpu", "fp32", "eager", threads=step.count(12, 1)), 20)
    cases = CASES[: step.count(len(CASES), 1)]
    on_cpu = {case: _infer(cpu, case) for case in cases}
    for precision in ("fp32", "bf16", "fp16"):
        for mode in ("eager", "graph"):
            infer = Inference(network, copy.deepcopy(body), step.runtime(precision, mode), 20)
            found = {case: _infer(infer, case) for case in cases}
            _compare(step, precision, mode, found, on_cpu)
            for case in cases:  # the second time, a graph is replayed; the results must be the same
                again = _infer(infer, case)
                if any(not np.array_equal(again[name], found[case][name], equal_nan=True) for name in again):
                    step.write(precision=precision, mode=mode, case=str(case), second_time="differs", ok=False)
            del infer


def _infer(infer: Inference, case: tuple[int, str]) -> Arrays:
    """Return copies of the results for one golden image and camera."""
    index, tag = case
    height, width = SIZES[index]
    sizes = infer.network.config
    resize = ResizePad.fit(width, height, sizes.image_size, sizes.patch_size)
    image = weights.image(height, width, int(GOLDEN["base"]) + 1 + index)
    result = infer(image, resize, make_given_k(index) if tag == "given" else None)
    return {name: value.copy() for name, value in vars(result).items()}


def _golden_people(case: tuple[int, str]) -> Arrays:
    """Return the golden numbers under the names of `Inference`'s results; vertices: every 37th."""
    prefix = f"{case[0]}/{case[1]}"
    names = {"shape": "shape", "rotations": "rotmat", "bone_poses": "bone_poses", "joints": "j3d"}
    people = {ours: read_by_score(f"{prefix}/{theirs}") for ours, theirs in names.items()}
    people["shape"] = people["shape"][:, :6]
    people["score"] = read_by_score(f"{prefix}/conf")[:, 0]
    people["vertices"] = read_by_score(f"{prefix}/vertices_every_37")
    people["track_feature"] = read_by_score(f"{prefix}/trackfeat_every_16")
    return people | {"k": GOLDEN[f"{prefix}/K"], "horizontal_fov": GOLDEN[f"{prefix}/fov"][0]}


def _compare(
    step: Step, precision: str, mode: str, found: dict[tuple[int, str], Arrays], on_cpu: dict[tuple[int, str], Arrays]
) -> None:
    """Write the maximum errors over all images; ok: within the tolerances of the precision.

    step       the running step
    precision  of the results
    mode       of the results
    found      results by golden image and camera
    on_cpu     results on the CPU by golden image and camera
    """
    for name, reference in (("golden", None), ("cpu", on_cpu)):
        errors: dict[str, float] = {}
        ratios, scores = [], []
        for case, ours in found.items():
            theirs = _golden_people(case) if reference is None else _present(reference[case])
            if reference is None:
                ours = ours | {
                    "vertices": ours["vertices"][:, ::37],
                    "track_feature": ours["track_feature"][:, ::16],
                }
            if step.dry and reference is None:
                name, theirs = "itself", _present(ours)  # the small network has no golden numbers
            rows = _matched(ours, theirs)
            for field in TOLERANCES:
                mine = ours[field] if field in ("k", "horizontal_fov") else ours[field][rows]
                error = float(np.abs(mine - theirs[field]).max()) if theirs[field].size else 0.0
                errors[field] = max(errors.get(field, 0.0), error)
            pelvis = theirs["joints"][:, 0]
            ratios.append(np.linalg.norm(ours["joints"][rows, 0] - pelvis, axis=1) / np.linalg.norm(pelvis, axis=1))
            scores.append(np.abs(ours["score"][rows] - theirs["score"]))
        ratio, score = np.concatenate(ratios), np.concatenate(scores)
        within = (ratio <= LOW_PRECISION_DISTANCE_RATIO) & (score <= LOW_PRECISION_SCORE)
        exact = all(error <= TOLERANCES[field] for field, error in errors.items())
        step.write(
            precision=precision, mode=mode, against=name,
            ok=bool(exact if precision == "fp32" else within.mean() >= 0.95), people=len(ratio),
            share_within=float(within.mean()), place_ratio=float(ratio.max()), errors=errors,
        )  # fmt: skip


def _present(people: Arrays) -> Arrays:
    """Return the rows with a score above 0.4."""
    rows = people["score"] > 0.4
    return {name: value if name in ("k", "horizontal_fov") else value[rows] for name, value in people.items()}


def _matched(ours: Arrays, theirs: Arrays) -> NDArray[np.int64]:
    """Return our row for each of their people, because low precision changes the order of similar scores."""
    apart = np.linalg.norm(theirs["joints"][:, None, 0] - ours["joints"][None, :, 0], axis=-1)
    cost = apart + np.abs(theirs["score"][:, None] - ours["score"][None])
    return linear_sum_assignment(cost)[1]
