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

"""Harmony4D: two people wrestling, dancing or fencing, about twenty fixed fisheye cameras; SMPL joints and vertices.

Checked against the data set's DOWNLOAD.md, VISUALIZE.md and reader, and its authors' answers in issues 4, 9, 14 and 15
of its repository: files, folders, keys, the camera model, and that joints and vertices are in meters in a world with a
similarity transform to COLMAP's world. The rate, 20 Hz, is from Voxel51's card of the data set. The cameras that the
paper evaluated are unknown.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets.colmap import RegisteredImage, read_fisheye_lenses, read_registered_images
from multihmr2_ros.evaluation.datasets.files import SequenceListing, list_files, parse_file
from multihmr2_ros.evaluation.datasets.joints import AnnotatedPeople, Floats, JointFrame, JointSequence
from multihmr2_ros.evaluation.datasets.pickles import read_object_array, read_pickle
from multihmr2_ros.evaluation.datasets.smpl import (
    SMPL_JOINTS,
    SMPL_ROOT,
    SMPL_VERTICES,
    check_in_front,
    find_complete,
    transform_to_camera,
)

FPS = 20.0
REFERENCE_CAMERA = "aria01"  # if people wear Aria glasses, the annotations are in the world of this pair


def list_harmony4d_sequences(folder: Path, camera: str = "cam01") -> SequenceListing[JointSequence]:
    """List the sequences: ACTIVITY/SEQUENCE/ with exo/CAMERA/images/00001.jpg, colmap/workplace/ and
    processed_data/smpl/00001.npy.

    folder: of one part, data/test or data/train.
    """
    for path in list_files(folder, "*/*/colmap/workplace/images.txt", "cameras"):
        yield _make_name(path.parents[2]), partial(parse_file, path, partial(_read_sequence, path, camera))


def _read_sequence(path: Path, camera: str) -> JointSequence:
    sequence = path.parents[2]
    seen = {
        int(Path(view.name).stem): view for view in read_registered_images(path) if view.name.split("/")[0] == camera
    }
    if not seen:
        raise UserError(f"{path} has no image of {camera}; choose another camera with --split")
    cameras = path.with_name("cameras.txt")
    lens = parse_file(cameras, lambda: read_fisheye_lenses(cameras)[next(iter(seen.values())).camera])
    to_colmap = _read_colmap_from_world(path.parent)
    frames = []
    for file in list_files(sequence / "processed_data" / "smpl", "*.npy", "people"):
        number = int(file.stem)
        image = sequence / "exo" / camera / "images" / f"{number:05d}.jpg"
        if image.is_file():
            extrinsics = remove_scale(_find_nearest(seen, number).extrinsics @ to_colmap)
            read = partial(parse_file, file, partial(_read_people, file, extrinsics))
            frames.append(JointFrame(number / FPS, image, lens, read))
    if not frames:
        raise UserError(
            f"expected images of {camera} in {sequence / 'exo'}, found none; unpack them, or choose "
            "another camera with --split"
        )
    return JointSequence(_make_name(sequence), FPS, SMPL_ROOT, frames)


def _make_name(sequence: Path) -> str:
    return f"{sequence.parent.name}-{sequence.name}"


def _find_nearest(seen: dict[int, RegisteredImage], number: int) -> RegisteredImage:
    """Return the registered image with the nearest number: COLMAP registered only some images of each fixed camera."""
    return seen[min(seen, key=lambda each: abs(each - number))]


def _read_colmap_from_world(workplace: Path) -> Floats:
    """Read the similarity transform (4, 4) from the annotations' metric world to COLMAP's world."""
    scale = workplace / "scale.npy"  # in sequences without glasses; the transform is in the opposite direction

    def read() -> Floats:
        if scale.is_file():
            to_world = np.load(scale, allow_pickle=False).reshape(4, 4)
            return np.asarray(np.linalg.inv(to_world), np.float64)
        return np.asarray(read_pickle(glasses)[REFERENCE_CAMERA], np.float64).reshape(4, 4)

    glasses = workplace / "colmap_from_aria_transforms.pkl"
    return parse_file(scale if scale.is_file() else glasses, read)


def remove_scale(similarity: Floats) -> Floats:
    """Return the rigid transform (4, 4) of a similarity transform without its scale, so that lengths stay in meters."""
    scale = np.cbrt(np.linalg.det(similarity[:3, :3]))
    if not scale > 0:
        raise ValueError(f"the transformation from the world must have a scale above 0, got {scale}")
    rigid = similarity.copy()
    rigid[:3] /= scale
    return rigid


def _read_people(file: Path, extrinsics: Floats) -> AnnotatedPeople:
    people = read_object_array(file)
    names = sorted(people)
    joints = np.array([np.reshape(people[name]["joints"], (-1, 3))[:SMPL_JOINTS] for name in names], np.float64)
    vertices = np.array([people[name]["vertices"] for name in names], np.float64).reshape(-1, SMPL_VERTICES, 3)
    joints = transform_to_camera(extrinsics, joints.reshape(-1, SMPL_JOINTS, 3))
    check_in_front(joints, file)
    # The keys are the names of the glasses ("aria01", "aria02"): a person missing in a frame does not shift the others.
    identity = np.array([int("".join(filter(str.isdigit, name))) for name in names], np.int64)
    return AnnotatedPeople(identity, joints, find_complete(joints), transform_to_camera(extrinsics, vertices))
