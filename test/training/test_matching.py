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

"""Matching of queries and people: against brute force, and the targets of unmatched queries."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from multihmr2_ros.body import Body
from multihmr2_ros.errors import UserError
from multihmr2_ros.network.model import LayerOutputs
from multihmr2_ros.training.matching import MatchingConfig, compute_distances, match_one_to_many, match_people
from test.helpers.nano_network import make_nano_network, make_random_outputs, make_random_targets

SIZE = (192, 256)


def make_layer(location: torch.Tensor, score: torch.Tensor | None = None) -> LayerOutputs:
    score = torch.zeros(location.shape[:2]) if score is None else score
    return LayerOutputs(score, location, torch.zeros(location.shape[:2]))


@pytest.mark.parametrize("seed", range(6))
def test_the_cheapest_assignment_of_all(seed: int) -> None:
    torch.manual_seed(seed)
    queries, people = 5, 3
    targets = make_random_targets(1, people, SIZE)
    location, score = 200 * torch.rand(1, queries, 2), torch.randn(1, queries)
    config = MatchingConfig(distance_weight=4.0)
    distance = torch.cdist(location, targets.location, p=1) / 256
    matches = match_people(make_layer(location, score), targets, config, distance)

    c = torch.sigmoid(score[0]).double()
    focal = -0.25 * (1 - c) ** 2 * torch.log(c)
    cost = (4 * distance[0] + focal[:, None]).numpy()
    found = float(cost[matches.query, matches.person].sum())
    least = min(sum(cost[q, p] for p, q in enumerate(rows)) for rows in itertools.permutations(range(queries), people))
    assert sorted(matches.person.tolist()) == list(range(people))
    assert len(set(matches.query.tolist())) == people
    assert found == pytest.approx(least, abs=1e-6)  # L1 distances have ties: only the sums must agree
    assert matches.negative.sum() == queries - people
    assert not matches.negative[0, matches.query].any()


@pytest.mark.parametrize("cost", ["location", "location_3d", "joints"])
def test_every_distance_finds_perfect_predictions(cost: str) -> None:
    """Queries that hold the ground truth in random order have distance 0 only to their person."""
    torch.manual_seed(0)
    network, body = make_nano_network(), Body("low")
    targets = make_random_targets(1, 3, SIZE)
    outputs, order = make_random_outputs(network, targets, SIZE)
    if cost == "joints":  # the ground truth uses the bodies predicted by the network
        shape, rotations = network.person(outputs.queries)
        targets.shape[0] = shape[0, order, :6].detach()
        targets.rotations[0] = rotations[0, order].detach()
    with torch.no_grad():
        distance = compute_distances(network, outputs, outputs.layers[-1], targets, body, cost)  # type: ignore[arg-type]
    assert distance.shape == (1, 3, 3)
    found = match_people(outputs.layers[-1], targets, MatchingConfig(cost), distance)  # type: ignore[arg-type]
    assert found.query[found.person.argsort()].tolist() == order.tolist()
    np.testing.assert_allclose(distance[0, order, torch.arange(3)], 0, atol=1e-3)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("most", [1, 3, 20])
def test_surplus_queries_are_the_nearest_free_ones(seed: int, most: int) -> None:
    torch.manual_seed(seed)
    images, queries, people = 2, 12, 3
    targets = make_random_targets(images, people, SIZE)
    targets.present[1, 2] = False
    location = targets.location.repeat(1, queries // people, 1) + 10 * torch.randn(images, queries, 2)
    layer = make_layer(location, torch.randn(images, queries))
    matches = match_people(layer, targets, MatchingConfig(), torch.cdist(location, targets.location, p=1) / 256)
    taken = set(zip(matches.image.tolist(), matches.query.tolist(), strict=True))
    wanted = set()
    for image in range(images):
        near: dict[int, list[tuple[float, int]]] = {}
        for query in range(queries):
            distance = (location[image, query] - targets.location[image]).abs().sum(-1)
            distance[~targets.present[image]] = torch.inf
            person = int(distance.argmin())
            box = targets.box[image, person]
            if (image, query) not in taken and distance[person] <= 0.5 * float((box[2:] - box[:2]).max()):
                near.setdefault(person, []).append((float(distance[person]), query))
        wanted |= {(image, query, person) for person, rows in near.items() for _, query in sorted(rows)[:most]}
    found = match_one_to_many(location, targets, matches, most)
    assert set(zip(found.image.tolist(), found.query.tolist(), found.person.tolist(), strict=True)) == wanted
    assert len(found) == len(wanted) > 0
    assert not found.negative.any()


@pytest.mark.parametrize("values", [{"cost": "box"}, {"distance_weight": -1.0}, {"distance_weight": float("nan")}])
def test_impossible_configurations_are_refused(values: dict) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        MatchingConfig(**values)
