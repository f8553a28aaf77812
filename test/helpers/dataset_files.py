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

"""Writers of tiny data sets in their real formats."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from multihmr2_ros.camera import project
from multihmr2_ros.people import People
from test.helpers.dataset_factory import HEIGHT, WIDTH, K, make_people_with_vertices, save_image, save_json


def compute_box(points: np.ndarray) -> list[float]:
    low, high = points.min(axis=0), points.max(axis=0)
    return [*low.tolist(), *(high - low).tolist()]


def write_coco(folder: Path, places: list[np.ndarray]) -> None:
    """Write a data set; every image has these people, fully annotated, a crowd, and a person without keypoints."""
    images, annotations = [], []
    for index, place in enumerate(places):
        name = f"{index:012d}.jpg"
        save_image(folder / "val2017" / name)
        images.append({"id": index, "file_name": name, "width": WIDTH, "height": HEIGHT})
        for person, points in enumerate(project(place, K)):
            box = compute_box(points)
            keypoints = np.hstack([points, np.full((17, 1), 2)]).ravel().tolist()
            annotations.append({
                "id": 10 * index + person, "image_id": index, "category_id": 1, "iscrowd": 0, "num_keypoints": 17,
                "keypoints": keypoints, "bbox": box, "area": 0.6 * box[2] * box[3], "segmentation": [],
            })  # fmt: skip
    save_json(
        folder / "annotations" / "person_keypoints_val2017.json",
        {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]},
    )


def make_flat_people(boxes: list[list[float]], ids: list[int]) -> People:
    """Return people whose projected vertices have these boxes (x, y, width, height)."""
    depth, people = 3.0, []
    for x, y, width, height in boxes:
        corners = np.array([[x, y], [x + width, y + height]])
        people.append(np.hstack([(corners - K[:2, 2]) / K[0, 0] * depth, np.full((2, 1), depth)]))
    vertices = np.array(people).reshape(-1, 2, 3)
    return make_people_with_vertices(vertices, track_id=np.array(ids, np.int64))


def write_mot17(folder: Path, boxes: list[list[float]]) -> Path:
    """Write a sequence; the third person is static."""
    sequence = folder / "train" / "MOT17-99-FRCNN"
    rows = []
    for frame in range(1, 11):
        save_image(sequence / "img1" / f"{frame:06d}.jpg")
        for number, box in enumerate(boxes, start=1):
            kind, considered = (7, 0) if number == 3 else (1, 1)
            rows.append([frame, number, *np.add(box, [1, 1, 0, 0]), considered, kind, 1.0])
    (sequence / "gt").mkdir()
    (sequence / "gt" / "gt.txt").write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n")
    (sequence / "seqinfo.ini").write_text("[Sequence]\nname=MOT17-99-FRCNN\nimDir=img1\nframeRate=10\nimExt=.jpg\n")
    return sequence


REGION = ([480, 640, 640, 480], [0, 0, 480, 480])  # x and y, px


def write_posetrack(folder: Path, boxes: list[list[float]], regions: Any = ([REGION[0]], [REGION[1]])) -> None:
    """Write four frames, the last one without ground truth, with ignored regions."""
    images, annotations = [], []
    for frame in range(4):
        name = f"images/val/000001_test/{frame:06d}.jpg"
        save_image(folder / name)
        images.append({
            "id": 10_000_000 + frame, "frame_id": 10_000_000 + frame, "vid_id": "000001", "nframes": 4,
            "file_name": name, "is_labeled": frame != 3, "has_labeled_person": frame != 3,
            "ignore_regions_x": regions[0], "ignore_regions_y": regions[1],
        })  # fmt: skip
        for track, box in enumerate(boxes if frame != 3 else []):
            annotations.append({
                "id": 10 * frame + track, "image_id": 10_000_000 + frame, "bbox": box, "bbox_head": box,
                "track_id": track, "person_id": 100 + track, "category_id": 1, "keypoints": [0] * 51,
            })  # fmt: skip
    content = {"images": images, "annotations": annotations, "categories": []}
    save_json(folder / "posetrack_data" / "val" / "000001_test.json", content)


def write_threedpw(folder: Path, camera: np.ndarray) -> None:
    """Write two actors seen by a moving camera; the second is not aligned in the last frame. camera (2, F, 24, 3) m."""
    frames = camera.shape[1]
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3, :3] = Rotation.from_euler(
        "xyz", [[5.0 * i, 20, 3 * i] for i in range(frames)], degrees=True
    ).as_matrix()
    poses[:, :3, 3] = [[0.1 * i, 0.2, 1.0] for i in range(frames)]
    world = np.einsum("fji,pfkj->pfki", poses[:, :3, :3], camera - poses[:, None, :3, 3])
    valid = np.ones((2, frames), bool)
    valid[1, -1] = False
    data = {
        "sequence": "downtown_test_00", "cam_intrinsics": K, "cam_poses": poses, "campose_valid": list(valid),
        "jointPositions": [each.reshape(frames, 72) for each in world], "genders": ["m", "f"],
        "betas": [np.zeros(10)] * 2, "poses": [np.zeros((frames, 72))] * 2,
    }  # fmt: skip
    path = folder / "sequenceFiles" / "test" / "downtown_test_00.pkl"
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps(data, protocol=2))
    for frame in range(frames):
        save_image(folder / "imageFiles" / "downtown_test_00" / f"image_{frame:05d}.jpg")


def write_panoptic(folder: Path, coco: np.ndarray) -> None:
    """Write three frames of people with COCO's keypoints (t, 17, 3) m in the camera frame."""
    pairs = [(5, 6), (0,), (11, 12), (5,), (7,), (9,), (11,), (13,), (15,), (6,), (8,), (10,), (12,), (14,), (16,)]
    nineteen = np.stack([coco[:, list(rows)].mean(axis=1) for rows in [*pairs, (1,), (3,), (2,), (4,)]], axis=1)
    turn, shift = Rotation.from_euler("xyz", [10, 50, 5], degrees=True).as_matrix(), np.array([3.0, 1.0, 2.5])
    world_cm = 100 * (nineteen - shift) @ turn
    sequence = folder / "160422_haggling1"
    camera = {
        "name": "00_16", "type": "hd", "resolution": [WIDTH, HEIGHT], "K": K.tolist(), "distCoef": [0.0] * 5,
        "R": turn.tolist(), "t": (100 * shift)[:, None].tolist(),
    }  # fmt: skip
    save_json(sequence / "calibration_160422_haggling1.json", {"cameras": [camera]})
    for frame in range(3):
        people = [
            {"id": person, "joints19": np.hstack([joints, np.full((19, 1), 0.8)]).ravel().tolist()}
            for person, joints in enumerate(world_cm)
        ]
        name = f"{frame:08d}"
        save_json(sequence / "hdPose3d_stage1_coco19" / f"body3DScene_{name}.json", {"version": 0.7, "bodies": people})
        save_image(sequence / "hdImgs" / "00_16" / f"00_16_{name}.jpg")
