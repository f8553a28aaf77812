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

"""Bone poses computed from a HumanArray's fields with the example of docs/node.md."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from multihmr2_ros.bags.definitions import require_type
from multihmr2_ros.bags.humans import human_array_to_cdr
from multihmr2_ros.body import UNPOSED_BONE_WORDS, Body
from multihmr2_ros.messages.content import HeaderContent
from multihmr2_ros.messages.human_array import Timing, people_to_content
from multihmr2_ros.people import People
from test.helpers.posed_people import posed_people
from test.paths import ROOT

PLACES = np.array([[-1.0, 0.2, 4.0], [0.5, 0.0, 3.0], [1.5, -0.1, 6.0]])


def example() -> Any:
    """Return the function shown on the page."""
    page = (ROOT / "docs" / "node.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def bone_poses" in block]
    names: dict[str, Any] = {}
    exec(code, names)  # this repository's own page
    return names["bone_poses"]


def received(people: People) -> list[Any]:
    """Return the humans of the message, serialized and deserialized."""
    type_name = "multihmr2_ros/msg/HumanArray"
    data = human_array_to_cdr(people_to_content(people, HeaderContent(1, 2, "camera"), Timing()))
    return list(require_type(type_name).deserialize_cdr(data, type_name).humans)


def test_joints_and_orientations_follow_from_the_message(body: Body) -> None:
    """All bones are bent, including bones that are never posed; ages from newborn to old."""
    people = posed_people(body, PLACES, turns_rad=0.7)
    model = SimpleNamespace(bone_parents=body.bone_parents, bone_labels=body.bone_labels)
    for row, human in enumerate(received(people)):
        poses = example()(human, model, body)
        np.testing.assert_allclose(poses[:, :3, 3], people.joints[row], atol=1e-5)
        np.testing.assert_allclose(poses[:, :3, :3], people.bone_poses[row, :, :3, :3], atol=1e-3)


def test_the_rotations_are_not_relative_to_the_root(body: Body) -> None:
    """Interpreting the rotations as relative to the root gives another body, so the example's agreement is no
    coincidence."""
    people = posed_people(body, PLACES[:1])
    forearm = body.bone_labels.index("lowerarm01.L")
    rest = body.compute_rest_bone_poses(torch.from_numpy(people.shape))[0].numpy()[:, :3, :3]
    wrong = people.rotations[0, 0] @ rest[0].T @ rest[forearm] @ people.rotations[0, forearm]
    assert np.abs(wrong - people.bone_poses[0, forearm, :3, :3]).max() > 0.1


def test_the_message_names_the_unposed_bones() -> None:
    text = " ".join((ROOT / "msg" / "Human.msg").read_text().replace("#", " ").split())
    assert ", ".join(UNPOSED_BONE_WORDS) in text


def test_no_text_calls_rotations_root_relative() -> None:
    for folder in ("msg", "multihmr2_ros", "docs"):
        for path in (ROOT / folder).rglob("*.*"):
            if path.suffix in (".py", ".msg", ".md"):
                assert "root-relative" not in path.read_text(encoding="utf-8").lower(), path
