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

"""BVH files: joint positions, and refused files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multihmr2_ros.errors import UserError
from multihmr2_ros.simulation.motion.bvh import MAX_JOINTS, MAX_NESTED, parse_bvh
from multihmr2_ros.simulation.motion.retarget import list_motion_files, load_motion, retarget
from test.helpers.motion_cases import make_rig

GOOD = make_rig({}, {})
DEEP = "HIERARCHY ROOT a { OFFSET 0 0 0 CHANNELS 0 " + "JOINT b { OFFSET 0 0 0 CHANNELS 0 " * (MAX_NESTED + 5)
WIDE = "HIERARCHY ROOT a { OFFSET 0 0 0 CHANNELS 0 " + "JOINT b { OFFSET 0 0 0 CHANNELS 0 } " * (MAX_JOINTS + 5)
MALFORMED = {
    "empty": "",
    "no motion": GOOD.partition("MOTION")[0],
    "not BVH": "MOTION pictures",
    "unclosed": GOOD.replace("}\nMOTION", "\nMOTION"),
    "closed twice": GOOD.replace("}\nMOTION", "} }\nMOTION"),
    "nested too deep": DEEP + " MOTION Frames: 1 Frame Time: 0.1",
    "too many joints": WIDE + "} MOTION Frames: 1 Frame Time: 0.1",
    "offset of NaN": GOOD.replace("OFFSET 10 0 0", "OFFSET nan 0 0"),
    "offset of words": GOOD.replace("OFFSET 10 0 0", "OFFSET far away 0"),
    "endless offset": GOOD.replace("OFFSET 10 0 0", "OFFSET 1e300 0 0"),
    "channel twice": GOOD.replace("CHANNELS 3 Zrotation Xrotation", "CHANNELS 3 Zrotation Zrotation", 1),
    "unknown channel": GOOD.replace("Xposition", "Xscale"),
    "too many channels": GOOD.replace("CHANNELS 6", "CHANNELS 60000000"),
    "no frames": GOOD.replace("Frames: 2", "Frames: 0"),
    "frames below zero": GOOD.replace("Frames: 2", "Frames: -2"),
    "a billion frames": GOOD.replace("Frames: 2", "Frames: 1000000000"),
    "frames in superscript": GOOD.replace("Frames: 2", "Frames: ²"),
    "too few numbers": GOOD.replace("Frames: 2", "Frames: 3"),
    "no time": GOOD.replace("Frame Time: 0.05", "Frame Time: 0"),
    "time of NaN": GOOD.replace("Frame Time: 0.05", "Frame Time: nan"),
    "NaN among the numbers": GOOD.replace("95.0", "nan", 1),
    "infinity among the numbers": GOOD.replace("95.0", "inf", 1),
    "words among the numbers": GOOD.replace("95.0", "high", 1),
    "words after the numbers": GOOD + " the end",
}


def test_bvh_joints_are_where_the_hierarchy_puts_them() -> None:
    bvh = parse_bvh(make_rig({}, {"left_shoulder": (90, 0, 0), "position": (1, 2, 3)}, {"hips": (0, 0, 90)}).encode())
    places = dict(zip([joint.name for joint in bvh.joints], bvh.compute_positions().swapaxes(0, 1), strict=True))
    np.testing.assert_allclose(places["LeftForeArm"][0], [48, 145, 0])
    np.testing.assert_allclose(places["LeftForeArm"][1], [19, 82, 3], atol=1e-9)  # 90° about z: x becomes y
    np.testing.assert_allclose(places["LeftForeArm"][2], [0, 145, -48], atol=1e-9)  # 90° about y: x becomes −z


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_malformed_files_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_bvh(text.encode())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@settings(max_examples=150)
@given(data=st.data())
def test_damaged_files_raise_only_user_errors(data: st.DataObject) -> None:
    content = bytearray(GOOD.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        end = min(len(content), start + data.draw(st.integers(0, 30)))
        pieces = st.sampled_from([b"{", b"}", b"nan", b"1e9", b"JOINT x"])
        content[start:end] = data.draw(st.binary(max_size=12) | pieces)
    message, motion = "", None
    try:
        motion = retarget(parse_bvh(bytes(content)))
    except UserError as error:
        message = str(error)
    assert "\n" not in message
    assert motion is None or np.isfinite(motion.orientation).all()


def test_rigs_that_are_no_humans_are_refused() -> None:
    for text, missing in (
        (GOOD.replace("LeftLeg", "Wheel"), "left knee"),
        (GOOD.replace("RightArm", "Wing"), "right sh"),
    ):
        with pytest.raises(UserError, match=missing):
            retarget(parse_bvh(text.encode()))
    with pytest.raises(UserError, match="length"):
        retarget(parse_bvh(GOOD.replace("-45", "0").encode()))


def test_missing_and_empty_folders_and_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\*\.bvh"):
        list_motion_files(tmp_path)
    with pytest.raises(UserError, match="cannot read"):
        load_motion(tmp_path / "none.bvh")
    (tmp_path / "bad.bvh").write_text("nothing")
    with pytest.raises(UserError, match=r"bad\.bvh"):
        load_motion(tmp_path / "bad.bvh")
