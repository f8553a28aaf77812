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

"""The released architecture with deterministic weights reproduces the golden numbers.

They were computed once in float32 on a CPU by an independent implementation. The tolerances are those of the golden
file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from multihmr2_ros.body import Body
from multihmr2_ros.cli.main import main
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.model import MultiHMR2, PlacedBodies, Prediction, place_bodies
from test.helpers.golden_images import CASES, GOLDEN, SIZES, make_given_k, make_golden_image, read_by_score

# Encoding takes half a minute per image on one core. Neither image is square, so one of them shows the same faults.
NETWORK_CASES = [pytest.param(case, marks=pytest.mark.slow if case[0] == 0 else ()) for case in CASES]
PIXELS, METERS, ROTATIONS, TOKENS = 0.05, 1e-3, 1e-3, 2e-3

Case = tuple[str, Prediction, PlacedBodies, PlacedBodies, torch.Tensor]


def make_pixels(index: int) -> torch.Tensor:
    return torch.from_numpy(make_golden_image(index)).permute(2, 0, 1)[None]


@pytest.fixture(scope="module")
def network(golden_checkpoint: Path) -> MultiHMR2:
    """Return the network. It encodes each image once, for all cameras and commands: this takes most of the time."""
    network: Any = checkpoint.load_network(golden_checkpoint)
    encode, encoded = network.encode, {}

    def encode_once(image: torch.Tensor, features: None = None) -> Any:
        key = (image.shape, image.numpy().tobytes())
        if key not in encoded:
            encoded[key] = encode(image, features)
        return encoded[key]

    network.encode = encode_once
    return network


@pytest.fixture(scope="module", params=NETWORK_CASES, ids=lambda case: f"image{case[0]}-{case[1]}")
def case(request: pytest.FixtureRequest, network: MultiHMR2, bodies: dict[str, Body]) -> Case:
    index, tag = request.param
    k = torch.from_numpy(make_given_k(index)).float()[None]
    with torch.inference_mode():
        prediction = network(make_pixels(index), k, torch.tensor([tag == "given"]), 20)
        placed = [place_bodies(bodies[mesh], prediction) for mesh in ("full", "low")]
        return f"{index}/{tag}", prediction, *placed, network.encode(make_pixels(index), None).patches


@pytest.fixture(scope="module")
def bodies() -> dict[str, Body]:
    return {"full": Body("full"), "low": Body("low")}


def test_camera_and_queries(case: Case) -> None:
    name, prediction, *_ = case
    np.testing.assert_allclose(prediction.horizontal_fov, GOLDEN[f"{name}/fov"][0], atol=1e-4)
    np.testing.assert_allclose(prediction.k[0], GOLDEN[f"{name}/K"], atol=PIXELS)
    np.testing.assert_allclose(prediction.query_location[0], GOLDEN[f"{name}/query_loc"], atol=PIXELS)
    np.testing.assert_allclose(prediction.query_depth[0, :, None], GOLDEN[f"{name}/query_dist"], atol=METERS)
    np.testing.assert_allclose(prediction.query_score[0, :, None], GOLDEN[f"{name}/query_conf"], atol=1e-4)


def test_people(case: Case) -> None:
    name, prediction, full, low, _ = case
    n = len(GOLDEN[f"{name}/conf"])
    assert int((prediction.score[0] > 0.4).sum()) == n
    expected = {
        "conf": (prediction.score[0, :n, None], 1e-4),
        "shape": (prediction.shape[0, :n], 1e-4),
        "rotmat": (prediction.rotations[0, :n], ROTATIONS),
        "trackfeat_every_16": (prediction.track_feature[0, :n, ::16], 1e-3),
        "bone_poses": (full.bone_poses[0, :n], METERS),
        "j3d": (full.joints[0, :n], METERS),
        "pelvis": (full.joints[0, :n, 0], METERS),
        "vertices_every_37": (full.vertices[0, :n, ::37], METERS),
        "lowres_vertices": (low.vertices[0, :n], METERS),
        "lowres_pelvis": (low.joints[0, :n, 0], METERS),
    }
    for field, (ours, tolerance) in expected.items():
        np.testing.assert_allclose(ours, read_by_score(f"{name}/{field}"), atol=tolerance, err_msg=field)


def test_tokens(case: Case) -> None:
    name, *_, patches = case
    golden = GOLDEN[f"{name[0]}/tokens_every_5"]
    np.testing.assert_allclose(patches[0, ::5, ::5, ::8], golden, atol=TOKENS * golden.std())


@pytest.mark.parametrize("chosen", NETWORK_CASES, ids=str)
def test_the_run_command_writes_the_golden_people(
    golden_checkpoint: Path,
    network: MultiHMR2,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    chosen: tuple[int, str],
) -> None:
    index, tag = chosen
    monkeypatch.setattr(checkpoint, "load_network", {golden_checkpoint: network}.__getitem__)  # not loaded again
    Image.fromarray(make_golden_image(index)).save(tmp_path / "image.png")
    k = make_given_k(index)
    camera = ["--k", *(str(value) for value in (k[0, 0], k[1, 1], k[0, 2], k[1, 2]))] if tag == "given" else []
    command = ["run", str(tmp_path / "image.png"), "--checkpoint", str(golden_checkpoint), "--device", "cpu"]
    command += ["--precision", "fp32", "--nms-distance", "0", "--save", "params", "--out", str(tmp_path / "out")]
    assert main([*command, *camera]) == 0
    written = np.load(tmp_path / "out" / "image.npz", allow_pickle=False)
    name = f"{index}/{tag}"
    expected = {
        "score": (GOLDEN[f"{name}/conf"][:, 0], 1e-4),
        "shape": (GOLDEN[f"{name}/shape"][:, :6], 1e-4),
        "rotations": (GOLDEN[f"{name}/rotmat"], ROTATIONS),
        "bone_poses": (GOLDEN[f"{name}/bone_poses"], METERS),
        "joints": (GOLDEN[f"{name}/j3d"], METERS),
        "joints_2d": (GOLDEN[f"{name}/j2d"], PIXELS),
        "pelvis": (GOLDEN[f"{name}/pelvis"], METERS),
    }
    order = np.argsort(-GOLDEN[f"{name}/conf"].ravel())
    for field, (golden, tolerance) in expected.items():
        np.testing.assert_allclose(written[field], golden[order], atol=tolerance, err_msg=field)
    vertices = written["vertices"]
    assert vertices.shape[1:] == (19158, 3)
    np.testing.assert_allclose(vertices[:, ::37], read_by_score(f"{name}/vertices_every_37"), atol=METERS)
    np.testing.assert_allclose(written["k"], GOLDEN[f"{name}/K"], atol=PIXELS)
    height = SIZES[index][0]
    assert float(written["vertical_fov"]) == pytest.approx(2 * np.arctan(height / 2 / written["k"][1, 1]), abs=1e-9)
    assert str(written["intrinsics_source"]) == {"pred": "predicted", "given": "parameter"}[tag]


@pytest.mark.parametrize(("index", "tag"), CASES)
def test_suppression_leaves_the_golden_scores(index: int, tag: str) -> None:
    from multihmr2_ros.estimator import suppress_nearby

    name = f"{index}/{tag}"
    kept = suppress_nearby(read_by_score(f"{name}/pelvis"), 0.25)
    np.testing.assert_array_equal(read_by_score(f"{name}/conf")[kept], GOLDEN[f"{name}/nms_order_conf"])
