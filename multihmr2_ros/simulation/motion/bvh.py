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

"""Reads untrusted BVH motion files: joints, their hierarchy, and their positions in every frame.

A file is text: HIERARCHY with ROOT, JOINT and End Site blocks ({ OFFSET, CHANNELS, children }), then MOTION with the
number of frames, the time of one, and one number per channel and frame. Lengths have the file's own unit, angles are
degrees. For any content, reading takes bounded time and memory, and all failures are UserErrors.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.errors import UserError

MAX_BYTES = 32 * 2**20
MAX_JOINTS = 512
MAX_NESTED = 64
MAX_FRAMES = 100_000
MAX_FRAME_S = 10.0
MAX_LENGTH = 1e6  # of an offset or a position, in the file's unit
CHANNELS = ("Xposition", "Yposition", "Zposition", "Xrotation", "Yrotation", "Zrotation")


@dataclass(frozen=True, eq=False)
class Joint:
    """A joint of the hierarchy.

    parent: index, or −1. channels: in the file's order; empty for an end site, which has no name either.
    """

    name: str
    parent: int
    offset: tuple[float, float, float]
    channels: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Bvh:
    """A motion file's content.

    joints: parents before children. values (F, C): all channels of all joints in order. frame_s: s per frame.
    """

    joints: tuple[Joint, ...]
    values: NDArray[np.float64]
    frame_s: float

    def compute_positions(self) -> NDArray[np.float64]:
        """Compute every joint's position in every frame (F, J, 3), in the file's axes and unit."""
        frames = len(self.values)
        places = np.zeros((frames, len(self.joints), 3))
        turns: list[NDArray[np.float64]] = []
        column = 0
        for index, joint in enumerate(self.joints):
            local, offset = np.broadcast_to(np.eye(3), (frames, 3, 3)), np.tile(joint.offset, (frames, 1))
            for channel in joint.channels:
                values, axis = self.values[:, column], "XYZ".index(channel[0])
                if channel.endswith("position"):  # replaces the offset
                    offset[:, axis] = values
                else:
                    local = local @ _rotate_about(axis, np.radians(values))
                column += 1
            if joint.parent < 0:
                places[:, index] = offset
                turns.append(local)
            else:
                parent_turn = turns[joint.parent]
                places[:, index] = places[:, joint.parent] + np.einsum("fij,fj->fi", parent_turn, offset)
                turns.append(parent_turn @ local)
        return places


def _rotate_about(axis: int, angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rotations (F, 3, 3) about a coordinate axis by angles (F,) in rad."""
    one, other = (axis + 1) % 3, (axis + 2) % 3
    rotation = np.zeros((len(angle), 3, 3))
    rotation[:, axis, axis] = 1.0
    rotation[:, one, one] = rotation[:, other, other] = np.cos(angle)
    rotation[:, other, one] = np.sin(angle)
    rotation[:, one, other] = -np.sin(angle)
    return rotation


def load_bvh(path: str | Path) -> Bvh:
    """Read the motion in a file; UserError if it is unreadable or invalid."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot read the motion file {path}: {reason}; give a readable BVH file") from error
    if len(content) > MAX_BYTES:
        raise UserError(f"{path}: a BVH file must have at most {MAX_BYTES // 2**20} MiB, got more; shorten it")
    try:
        return parse_bvh(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def parse_bvh(content: bytes) -> Bvh:
    """Parse the motion in a file's bytes; UserError of one line if they are not valid BVH."""
    if len(content) > MAX_BYTES:
        raise _make_error(f"{MAX_BYTES // 2**20} MiB at most", "more")
    hierarchy, found, motion = content.decode("ascii", "replace").partition("MOTION")
    if not found:
        raise _make_error("a MOTION section", "none")
    joints = _HierarchyReader(hierarchy).joints
    return _read_motion(tuple(joints), motion)


def _make_error(expected: str, came: object) -> UserError:
    shown = " ".join(str(came).split())
    shown = "".join(letter if letter.isprintable() else "?" for letter in shown[:40])
    return UserError(f"a BVH file must have {expected}, got {shown or 'nothing'}; export the motion again")


@dataclass(eq=False)
class _HierarchyReader:
    """Reads the HIERARCHY section into joints."""

    text: str
    joints: list[Joint] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._tokens = self._tokenize()
        self._expect("HIERARCHY")
        self._expect("ROOT")
        # An explicit stack avoids recursion. The entries are indices of joints with an open block.
        open_blocks = [self._read_joint(self._read_token("a name"), -1)]
        while open_blocks:
            word = self._read_token("JOINT, End or }")
            if word == "}":
                open_blocks.pop()
                continue
            if len(open_blocks) >= MAX_NESTED:
                raise _make_error(f"at most {MAX_NESTED} nested joints", "more")
            if word == "JOINT":
                open_blocks.append(self._read_joint(self._read_token("a name"), open_blocks[-1]))
            elif word == "End":
                self._expect("Site")
                self._read_end_site(open_blocks[-1])
            else:
                raise _make_error("JOINT, End or } here", word)
        rest = next(self._tokens, None)
        if rest is not None:
            raise _make_error("one root and then MOTION", rest)

    def _tokenize(self) -> Iterator[str]:
        for line in self.text.splitlines():
            yield from line.split()

    def _read_token(self, expected: str) -> str:
        token = next(self._tokens, None)
        if token is None:
            raise _make_error(expected, "the section's end")
        return token

    def _expect(self, word: str) -> None:
        token = self._read_token(word)
        if token != word:
            raise _make_error(f"{word} here", token)

    def _read_joint(self, name: str, parent: int) -> int:
        self._expect("{")
        offset = self._read_offset()
        self._expect("CHANNELS")
        count = self._read_token("a number of channels")
        if count not in ("0", "1", "2", "3", "4", "5", "6"):
            raise _make_error("0 to 6 channels per joint", count)
        channels = tuple(self._read_token("a channel") for _ in range(int(count)))
        if len(set(channels)) < len(channels) or not set(channels) <= set(CHANNELS):
            raise _make_error(f"channels of {', '.join(CHANNELS)}, each once", " ".join(channels))
        return self._add(Joint(name, parent, offset, channels))

    def _read_end_site(self, parent: int) -> None:
        self._expect("{")
        self._add(Joint("", parent, self._read_offset(), ()))
        self._expect("}")

    def _add(self, joint: Joint) -> int:
        if len(self.joints) >= MAX_JOINTS:
            raise _make_error(f"at most {MAX_JOINTS} joints", "more")
        self.joints.append(joint)
        return len(self.joints) - 1

    def _read_offset(self) -> tuple[float, float, float]:
        self._expect("OFFSET")
        x, y, z = (_parse_number(self._read_token("a number")) for _ in range(3))
        return x, y, z


def _parse_number(token: str) -> float:
    try:
        value = float(token)
    except ValueError:
        raise _make_error("a number here", token) from None
    if not abs(value) <= MAX_LENGTH:  # false for NaN
        raise _make_error(f"finite numbers up to {MAX_LENGTH:.0e}", token)
    return value


def _read_motion(joints: tuple[Joint, ...], text: str) -> Bvh:
    """Read the section MOTION."""
    head = text.split(None, 5)
    if len(head) < 5 or head[0] != "Frames:" or head[2:4] != ["Frame", "Time:"]:
        raise _make_error("'Frames: N' and 'Frame Time: S' after MOTION", " ".join(head[:5]))
    if not head[1].isascii() or not head[1].isdigit() or len(head[1]) > 9 or not 1 <= int(head[1]) <= MAX_FRAMES:
        raise _make_error(f"1 to {MAX_FRAMES} frames", head[1])
    frames, frame_s = int(head[1]), _parse_number(head[4])
    if not 1e-4 <= frame_s <= MAX_FRAME_S:
        raise _make_error(f"a frame time of 0.0001 to {MAX_FRAME_S:g} s", head[4])
    channels = sum(len(joint.channels) for joint in joints)
    values = _parse_numbers(head[5] if len(head) > 5 else "")
    if len(values) != frames * channels:
        raise _make_error(
            f"{frames} frames x {channels} channels = {frames * channels} numbers", f"{len(values)} numbers"
        )
    if not (np.abs(values) <= MAX_LENGTH).all():
        raise _make_error(f"finite numbers up to {MAX_LENGTH:.0e}", values[~(np.abs(values) <= MAX_LENGTH)][0])
    return Bvh(joints, values.reshape(frames, channels), frame_s)


def _parse_numbers(text: str) -> NDArray[np.float64]:
    """Parse a text that contains only numbers into an array (N,)."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NumPy only warns about text that is not a number
        try:
            values = np.fromstring(text, np.float64, sep=" ") if text.strip() else np.zeros(0)
        except (DeprecationWarning, ValueError):
            raise _make_error("only numbers after the frame time", "something else") from None
    return values
