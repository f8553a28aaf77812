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

"""Losses: gradients against finite differences, closed forms, and the supervision of each term by each data set."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from multihmr2_ros.body import Body
from multihmr2_ros.errors import UserError
from multihmr2_ros.network.model import (
    LayerOutputs,
    MultiHMR2,
    TrainingOutputs,
    back_project,
    intrinsics_from_horizontal_fov,
)
from multihmr2_ros.training.body_losses import relative_stature_loss
from multihmr2_ros.training.detection_losses import (
    field_of_view_loss,
    heatmap_loss,
    relative_depth_loss,
    relative_metric_loss,
    score_loss,
)
from multihmr2_ros.training.keypoints import regress_low_mesh_keypoints
from multihmr2_ros.training.loss_config import LossConfig
from multihmr2_ros.training.losses import compute_losses
from multihmr2_ros.training.matched_people import pose_people
from multihmr2_ros.training.matching import Matches
from multihmr2_ros.training.targets import Targets
from test.helpers.nano_network import TINY, make_nano_network, make_random_targets

SIZE = (192, 256)
OFF = {field.name: 0.0 for field in dataclasses.fields(LossConfig) if field.type == "float"}
# Terms supervised by annotated keypoints only are tested in test_movenet_training.py and test_body_losses.py.
ELSEWHERE = (
    "consistency",
    "auxiliary",
    "surplus",
    "keypoint_similarity",
    "encoder_keypoint",
)  # tested separately
TERMS = [name for name in OFF if not name.startswith(ELSEWHERE)]


@pytest.fixture(scope="module")
def precise_body() -> Body:
    return Body("low").double()


def to_double(targets: Targets) -> Targets:
    values = {field.name: getattr(targets, field.name) for field in dataclasses.fields(targets)}
    return Targets(**{name: v.double() if v.is_floating_point() else v for name, v in values.items()})


def case(seed: int = 0, images: int = 2, people: int = 2) -> tuple[MultiHMR2, Targets, TrainingOutputs]:
    """Return a double-precision case; every image has more queries than people, and every query is near a person."""
    torch.manual_seed(seed)
    network, targets = make_nano_network(seed).double(), to_double(make_random_targets(images, people, SIZE))
    queries = people + 1
    near = targets.location.repeat(1, 2, 1)[:, :queries] + 8 * torch.randn(images, queries, 2, dtype=torch.float64)
    layers = tuple(
        LayerOutputs(
            torch.randn(images, queries, dtype=torch.float64).requires_grad_(),
            (near + shift).requires_grad_(),
            (4 + 0.3 * torch.randn(images, queries, dtype=torch.float64)).requires_grad_(),
        )
        for shift in (0.0, 3.0)
    )
    content = torch.randn(images, queries, TINY.decoder_width, dtype=torch.float64, requires_grad=True)
    heatmap = torch.randn(images, 12, 16, dtype=torch.float64, requires_grad=True)
    fov = (0.6 + 0.8 * torch.rand(images, dtype=torch.float64)).requires_grad_()
    k = torch.where(
        torch.tensor([True, False])[:images, None, None], targets.k, intrinsics_from_horizontal_fov(fov, *SIZE)
    )
    maps = torch.randn(images, 12, 16, 17, dtype=torch.float64, requires_grad=True)
    return network, targets, TrainingOutputs(layers, content, heatmap, fov, k, SIZE, maps)


def leaves(outputs: TrainingOutputs) -> dict[str, Tensor]:
    assert outputs.heatmap is not None
    assert outputs.keypoint_maps is not None
    last = outputs.layers[-1]
    return {
        "score": last.score_logit,
        "location": last.location,
        "nearness": last.log_nearness,
        "first layer's location": outputs.layers[0].location,
        "queries": outputs.queries,
        "heatmap": outputs.heatmap,
        "keypoint maps": outputs.keypoint_maps,
        "fov": outputs.horizontal_fov,
    }


@pytest.mark.parametrize("name", TERMS)
def test_gradients_are_those_of_finite_differences(name: str, precise_body: Body) -> None:
    """Compares the slope along a random direction of all inputs of the term."""
    network, targets, outputs = case()
    config = LossConfig(**{**OFF, name: 1.0, "auxiliary": 0.5})

    def loss() -> Tensor:
        fov = outputs.horizontal_fov
        k = torch.where(
            torch.tensor([True, False])[:, None, None], targets.k, intrinsics_from_horizontal_fov(fov, *SIZE)
        )
        return compute_losses(network, dataclasses.replace(outputs, k=k), targets, precise_body, config)[name]

    value = loss()
    assert value > 0
    inputs = leaves(outputs)
    gradients = torch.autograd.grad(value, list(inputs.values()), allow_unused=True)
    used = {key for key, gradient in zip(inputs, gradients, strict=True) if gradient is not None}
    assert used
    generator = torch.Generator().manual_seed(5)
    step = 1e-6
    for key, gradient in zip(inputs, gradients, strict=True):
        if gradient is None or (name, key) == ("angle", "fov"):  # its divisor, the field of view, is held constant
            continue
        leaf = inputs[key]
        direction = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            leaf += step * direction
            above = loss()
            leaf -= 2 * step * direction
            below = loss()
            leaf += step * direction
        slope = float((above - below) / (2 * step))
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-6), key


def test_only_terms_with_a_weight_are_there(body: Body) -> None:
    network, targets, outputs = (item for item in case())
    network, targets = network.float(), make_random_targets(2, 2, SIZE)
    outputs = to_float(outputs)
    assert compute_losses(network, outputs, targets, body, LossConfig(**OFF)) == {}
    for name in ("score", "joints", "angle"):
        assert set(compute_losses(network, outputs, targets, body, LossConfig(**{**OFF, name: 1.0}))) == {name}
    once = compute_losses(network, outputs, targets, body, LossConfig(**{**OFF, "joints": 1.0}))["joints"]
    twice = compute_losses(network, outputs, targets, body, LossConfig(**{**OFF, "joints": 2.0}))["joints"]
    torch.testing.assert_close(twice, 2 * once)


def to_float(outputs: TrainingOutputs) -> TrainingOutputs:
    layers = tuple(LayerOutputs(*(value.float() for value in vars(layer).values())) for layer in outputs.layers)
    assert outputs.heatmap is not None
    assert outputs.keypoint_maps is not None
    return TrainingOutputs(
        layers,
        outputs.queries.float(),
        outputs.heatmap.float(),
        outputs.horizontal_fov.float(),
        outputs.k.float(),
        outputs.image_size,
        outputs.keypoint_maps.float(),
    )


@pytest.fixture
def single() -> tuple[MultiHMR2, Targets, TrainingOutputs]:
    network, _, outputs = case(seed=1)
    torch.manual_seed(1)
    return network.float(), make_random_targets(2, 2, SIZE), to_float(outputs)


MASKS = {
    "no place": "has_place",
    "no body": "has_body",
    "no camera": "has_k",
    "no score": "score_supervised",
    "no feature": "has_track_feature",
    "nobody": "present",
}
COLUMNS = {"root_columns", "pose_columns"}
BODY_TERMS = {"root", "pose", *COLUMNS, "shape", "relative_stature", "vertices", "joints", "reprojection", "angle"}
SILENCED = {
    "no place": {"nearness", "depth", "relative_depth", "relative_metric", "reprojection", "angle"},
    "no body": BODY_TERMS,
    "no camera": {"field_of_view", "nearness", "relative_metric", "reprojection", "angle"},
    "no score": {"score", "heatmap", "keypoint_map"},
    "no feature": {"track_feature"},
    "nobody": set(TERMS) - {"score", "heatmap", "keypoint_map", "field_of_view"},
}


@pytest.mark.parametrize("what", MASKS)
def test_missing_annotations_have_no_gradient(
    what: str, single: tuple[MultiHMR2, Targets, TrainingOutputs], body: Body
) -> None:
    network, targets, outputs = single
    getattr(targets, MASKS[what])[:] = False
    terms = compute_losses(network, outputs, targets, body, LossConfig(**{**OFF, **dict.fromkeys(TERMS, 1.0)}))
    assert set(terms) == set(TERMS)
    assert {name for name, value in terms.items() if value == 0} == SILENCED[what]
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    assert total.isfinite()


def test_keypoints_alone_supervise_position_and_pose(
    single: tuple[MultiHMR2, Targets, TrainingOutputs], body: Body
) -> None:
    network, targets, outputs = single
    for mask in (targets.has_place, targets.has_body, targets.has_k):
        mask[:] = False
    targets.keypoint_visible[0, 0, :5] = True
    targets.keypoints[0, 0] = targets.location[0, 0]
    names = ("reprojection", "angle", "joints", "pose")
    terms = compute_losses(network, outputs, targets, body, LossConfig(**{**OFF, **dict.fromkeys(names, 1.0)}))
    assert {name for name, value in terms.items() if value > 0} == {"reprojection", "angle"}
    (slope,) = torch.autograd.grad(terms["reprojection"], network.person.pose[2].weight)
    assert slope.abs().sum() > 0
    targets.keypoint_visible[0, 0, 1:5] = False
    fewer = compute_losses(network, outputs, targets, body, LossConfig(**{**OFF, "reprojection": 1.0}))
    assert fewer["reprojection"] != terms["reprojection"]


def test_the_truth_has_no_loss(body: Body) -> None:
    """With predictions as ground truth, every term of bodies and places is 0."""
    network, _, outputs = case(seed=2)
    network, outputs = network.float(), to_float(outputs)
    targets = make_random_targets(2, 3, SIZE)
    with torch.no_grad():
        shape, rotations = network.person(outputs.queries)
        feature = network.person.track_feature(outputs.queries)
        layer = outputs.layers[-1]
        targets.shape[:], targets.rotations[:], targets.track_feature[:] = shape, rotations, feature
        targets.location[:], targets.k[:] = layer.location, outputs.k
        targets.centre[:] = back_project(layer.location, outputs.k[:, :1, 0] / layer.log_nearness.exp(), outputs.k)
    others = {"score", "heatmap", "keypoint_map", "field_of_view", *COLUMNS}
    names = [name for name in TERMS if name not in others]
    terms = compute_losses(network, outputs, targets, body, LossConfig(**{**OFF, **dict.fromkeys(names, 1.0)}))
    for name, value in terms.items():
        assert float(value.detach()) < 2e-5, name


def test_columns_are_compared_before_they_are_made_orthonormal(body: Body) -> None:
    network, targets, outputs = case(images=1)
    network, outputs, targets = network.float(), to_float(outputs), make_random_targets(1, 2, SIZE)
    weights = LossConfig(**{**OFF, "root": 1.0, "pose": 1.0, **dict.fromkeys(COLUMNS, 1.0)})
    with torch.no_grad():
        network.person.pose[2].weight.zero_()
        targets.rotations[:] = torch.eye(3)
        for length in (1.0, 3.0):
            said = length * torch.eye(3)[:, :2].expand(163, 3, 2).flatten()
            network.person.pose[2].bias[:] = said - network.person.initial_pose
            terms = compute_losses(network, outputs, targets, body, weights)
            assert float(terms["root"]) == pytest.approx(0, abs=1e-6)
            assert float(terms["pose"]) == pytest.approx(0, abs=1e-6)
            for name in COLUMNS:
                assert float(terms[name]) == pytest.approx((length - 1) ** 2 / 3, abs=1e-6)


def test_surplus_queries_learn_positions_but_not_scores(precise_body: Body) -> None:
    network, targets, outputs = case(images=1)
    layer = outputs.layers[-1]
    with torch.no_grad():  # three queries, two of them near one of two people
        layer.location[0] = targets.location[0, [0, 1, 0]] + torch.tensor([[1.0], [2.0], [6.0]])
    weights = OFF | {"score": 1.0, "location": 1.0, "nearness": 1.0, "pose": 1.0}
    without = compute_losses(network, outputs, targets, precise_body, LossConfig(**weights))
    surplus = compute_losses(network, outputs, targets, precise_body, LossConfig(**(weights | {"surplus": 1.0})))
    assert surplus["score"] == without["score"]
    for name, values in (("location", layer.location), ("nearness", layer.log_nearness), ("pose", outputs.queries)):
        taught = [torch.autograd.grad(terms[name], values, retain_graph=True)[0] for terms in (without, surplus)]
        assert [int((gradient.view(3, -1) != 0).any(1).sum()) for gradient in taught] == [2, 3]


def test_score_loss_is_the_formula() -> None:
    logit = torch.tensor([[0.3, -1.2, 2.0, 0.1], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    negative = torch.tensor([[False, True, False, True], [False] * 4])
    targets = Targets.empty(2, 1)
    targets.score_supervised[0] = True
    rows = torch.tensor([0, 1]), torch.tensor([0, 2]), torch.tensor([0, 0])
    c = 1 / (1 + np.exp(-logit.numpy()))
    plain = -np.log(c[0, 0]) - np.log(1 - c[0, [1, 3]]).sum()
    focal = -0.25 * (1 - c[0, 0]) ** 2 * np.log(c[0, 0]) - (0.75 * c[0, [1, 3]] ** 2 * np.log(1 - c[0, [1, 3]])).sum()
    matches = Matches(*rows, negative)
    assert float(score_loss(logit, matches, targets, focal=False)) == pytest.approx(plain)
    assert float(score_loss(logit, matches, targets, focal=True)) == pytest.approx(focal)


def test_heatmap_marks_the_patch_of_the_center() -> None:
    """The gradient lowers no patch more than the distant ones, and raises only the person's own, at any position."""
    for location, cell in (((100.0, 50.0), (3, 6)), ((-30.0, 500.0), (11, 0)), ((255.9, 0.1), (0, 15))):
        targets = Targets.empty(1, 2)
        targets.present[0, 0] = targets.score_supervised[0] = True
        targets.location[0, 0] = torch.tensor(location)
        targets.box[0, 0] = torch.tensor([0.0, 0, 60, 150])
        logit = torch.zeros(1, 12, 16, requires_grad=True)
        heatmap_loss(logit, targets, 16).backward()
        assert logit.grad is not None
        assert [tuple(place) for place in (logit.grad[0] < 0).nonzero().tolist()] == [cell]
        beside = logit.grad[0, cell[0], cell[1] + (1 if cell[1] == 0 else -1)]
        far = logit.grad[0, 6, 15 - cell[1]]
        assert 0 < beside < 0.5 * far


def test_keypoint_maps_mark_the_patches_of_projected_keypoints(body: Body) -> None:
    """The gradient raises only the patch of each keypoint and is 0 in the box of a person with unknown ones."""
    targets = make_random_targets(1, 2, SIZE)
    targets.location[0] = torch.tensor([[128.0, 96.0], [60.0, 60.0]])
    targets.centre[0] = back_project(targets.location[:1], torch.full((1, 2), 4.0), targets.k)[0]
    targets.box[0, 1] = torch.tensor([32.0, 32.0, 80.0, 96.0])
    targets.has_body[0, 1] = False
    layer = LayerOutputs(torch.zeros(1, 2), targets.location, torch.full((1, 2), 4.0))
    logit = torch.zeros(1, 12, 16, 17, requires_grad=True)
    outputs = TrainingOutputs(
        (layer,), torch.zeros(1, 2, TINY.decoder_width), None, torch.ones(1), targets.k, SIZE, logit
    )
    compute_losses(make_nano_network(), outputs, targets, body, LossConfig(**(OFF | {"keypoint_map": 1.0})))[
        "keypoint_map"
    ].backward()
    assert logit.grad is not None

    posed = pose_people(body, targets.shape[0, :1], targets.rotations[0, :1])
    points = regress_low_mesh_keypoints(body, posed.vertices)[0] + targets.centre[0, 0] - posed.center_offset[0]
    seen = points @ targets.k[0].T
    cells = (seen[:, :2] / seen[:, 2:] / 16).floor().long()
    for keypoint, (x, y) in enumerate(cells.tolist()):
        wanted = [(y, x)] if 0 <= x < 16 and 0 <= y < 12 else []
        assert [tuple(cell) for cell in (logit.grad[0, :, :, keypoint] < 0).nonzero().tolist()] == wanted
    unknown = logit.grad[0, 2:6, 2:5]
    assert (unknown <= 0).all()
    assert (logit.grad[0, :2, :2] > 0).all()


def test_heatmap_leaves_ignored_people_alone() -> None:
    targets = Targets.empty(2, 1)
    targets.score_supervised[0] = True
    targets.ignore[0, 0] = True
    targets.box[0, 0] = torch.tensor([32.0, 32.0, 64.0, 96.0])
    logit = torch.zeros(2, 12, 16, requires_grad=True)
    heatmap_loss(logit, targets, 16).backward()
    assert logit.grad is not None
    expected = torch.ones(12, 16, dtype=torch.bool)
    expected[2:6, 2:4] = False
    assert torch.equal(logit.grad[0] > 0, expected)
    assert not logit.grad[1].any(), "the image without score supervision"


def test_a_field_of_view_too_wide_costs_three_times() -> None:
    targets = Targets.empty(3, 1)
    targets.k[:] = intrinsics_from_horizontal_fov(torch.full((3,), 1.0), *SIZE)
    targets.has_k[:2] = True
    assert float(field_of_view_loss(torch.tensor([1.1, 0.9, 3.0]), targets, SIZE[1])) == pytest.approx(0.02, rel=1e-4)
    assert float(field_of_view_loss(torch.tensor([1.1, 1.0, 3.0]), targets, SIZE[1])) == pytest.approx(0.015, rel=1e-4)


def test_relative_depth_is_independent_of_the_focal_length() -> None:
    depth, image = torch.tensor([2.0, 4.0, 3.0, 5.0]), torch.tensor([0, 0, 0, 1])
    known = torch.tensor([True, True, False, True])
    nearness = torch.log(500 / depth)
    for scale in (1.0, 3.0):
        assert float(relative_depth_loss(nearness + math.log(scale), depth, image, known)) == pytest.approx(0, abs=1e-6)
    nearness[1] += 0.3
    assert float(relative_depth_loss(nearness, depth, image, known)) == pytest.approx(0.3, rel=1e-5)
    assert float(relative_depth_loss(nearness[3:], depth[3:], image[3:], known[3:])) == 0


@dataclasses.dataclass
class TruePlaces:
    """Subset of `MatchedTargets` that the relative metric loss reads."""

    center: Tensor
    has_place: Tensor
    has_relative_place: Tensor
    has_k: Tensor


@dataclasses.dataclass
class Places:
    """Subset of `MatchedPeople` that the relative metric loss reads."""

    image: Tensor
    center: Tensor
    targets: TruePlaces


def get_places(*, metric: bool, image: tuple[int, ...] = (0, 0, 0)) -> Places:
    true = torch.tensor([[0.0, 0, 3], [1, 0, 4], [-2, 0, 6]])
    flag = torch.ones(3, dtype=torch.bool)
    return Places(torch.tensor(image), true.clone(), TruePlaces(true, flag & metric, flag, flag & metric))


def test_relative_metric_compares_distances_between_people() -> None:
    people = get_places(metric=True)
    people.center = 1.1 * people.targets.center + torch.tensor([0.5, 0, 1])
    assert float(relative_metric_loss(people)) == pytest.approx(math.log(1.1), rel=1e-5)
    apart = get_places(metric=True, image=(0, 1, 2))
    assert float(relative_metric_loss(apart)) == 0


def test_relative_positions_are_supervised_without_absolute_ones() -> None:
    """A common factor of the whole image costs nothing; one person too far does, and the gradient moves that person
    nearer."""
    people = get_places(metric=False)
    people.center = 1.7 * people.targets.center
    assert float(relative_metric_loss(people)) == pytest.approx(0, abs=1e-6)
    people.center = people.targets.center * torch.tensor([[1.0], [1.0], [1.3]])
    people.center.requires_grad_()
    loss = relative_metric_loss(people)
    assert float(loss.detach()) > 0.05
    (gradient,) = torch.autograd.grad(loss, people.center)
    assert float(gradient[2] @ people.targets.center[2]) > 0
    people.targets.has_relative_place[:] = False
    assert float(relative_metric_loss(people)) == 0


def test_relative_stature_is_independent_of_a_common_scale() -> None:
    true, image = torch.tensor([1.8, 1.2, 1.7, 1.6]), torch.tensor([0, 0, 0, 1])
    known = torch.tensor([True, True, False, True])
    assert float(relative_stature_loss(0.9 * true, true, image, known)) == pytest.approx(0, abs=1e-6)
    found = true * torch.tensor([1.0, 1.2, 3.0, 2.0])
    assert float(relative_stature_loss(found, true, image, known)) == pytest.approx(math.log(1.2), rel=1e-5)


def test_consistency_pulls_to_the_frozen_model(single: tuple[MultiHMR2, Targets, TrainingOutputs], body: Body) -> None:
    network, targets, outputs = single
    config = LossConfig(**{**OFF, "consistency_pose": 1.0, "consistency_joints": 1.0})
    same = compute_losses(network, outputs, targets, body, config, (network, outputs))
    assert {name: float(value) for name, value in same.items()} == pytest.approx(
        {"consistency_pose": 0, "consistency_joints": 0}, abs=1e-9
    )
    assert compute_losses(network, outputs, targets, body, config) == {}
    other = make_nano_network(7).requires_grad_(False)
    terms = compute_losses(network, outputs, targets, body, config, (other, outputs))
    assert all(value > 0 for value in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    assert network.person.pose[2].weight.grad is not None
    assert other.person.pose[2].weight.grad is None


def test_impossible_loss_weights_are_refused() -> None:
    for values in ({"score": -1.0}, {"joints": math.inf}, {"angle": math.nan}):
        with pytest.raises(UserError, match=next(iter(values))):
            LossConfig(**values)
