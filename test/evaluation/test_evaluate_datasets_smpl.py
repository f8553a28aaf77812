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

"""EMDB, Hi4D and Harmony4D as tiny folders of their documented formats; the estimator returns the ground truth."""

from __future__ import annotations

import dataclasses
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy import sparse
from scipy.spatial.transform import Rotation

from multihmr2_ros.camera import project
from multihmr2_ros.errors import UserError
from multihmr2_ros.evaluation.datasets.harmony4d import list_harmony4d_sequences, remove_scale
from multihmr2_ros.evaluation.datasets.hi4d import list_hi4d_sequences
from multihmr2_ros.evaluation.datasets.job import DatasetJob, resolve_job
from multihmr2_ros.evaluation.datasets.joints import AnnotatedPeople, CalibratedLens, make_point_regressor
from multihmr2_ros.evaluation.datasets.run import evaluate_dataset
from multihmr2_ros.frame import IntrinsicsChoice
from multihmr2_ros.people import People
from test.helpers.dataset_factory import (
    HEIGHT,
    WIDTH,
    Estimator,
    K,
    as_mesh,
    bodies,
    opened,
    people_with,
    save_image,
    save_regressor,
)

POINTS = 24 + 6890  # SMPL's joints, followed by its vertices
FRAMES = 3


def save_mesh_regressor(path: Path) -> Path:
    """Save a regressor for which point j is vertex j, for joints and vertices."""
    sparse.save_npz(path, sparse.eye_array(POINTS, 19158, format="csr"))
    return path


def world_of(extrinsics: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """Return points (…, 3) of the camera frame in the world frame.

    extrinsics (3 or 4, 4): world → camera, possibly with a scale.
    """
    return (camera - extrinsics[:3, 3]) @ np.linalg.inv(extrinsics[:3, :3]).T


def motion(angles: list[float], shift: list[float]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix(), shift
    return matrix


def displaced(points: Callable[[int], np.ndarray], shift: list[float]) -> Estimator:
    """Return a prediction of each frame's people (n, P, 3), displaced by shift, with a field of view 2° too large."""

    def found(index: int) -> People:
        people = people_with(as_mesh(np.add(points(index), shift)))
        return dataclasses.replace(people, predicted_vertical_fov=people.vertical_fov + np.radians(2))

    return Estimator(found)


# --- EMDB


def write_emdb(folder: Path, points: np.ndarray, *, part: str = "emdb1", name: str = "09_outdoor_walk") -> Path:
    """Write one person, points (F, 6914, 3) in the frame of a moving camera, out of view in the last frame."""
    frames = len(points)
    extrinsics = np.stack([motion([5.0 * index, 20, 3], [0.1 * index, 0.2, 1.0]) for index in range(frames)])
    world = np.stack([world_of(pose, each) for pose, each in zip(extrinsics, points, strict=True)])
    good = np.ones(frames, bool)
    good[-1] = False
    data = {
        "gender": "female", "name": f"P0_{name}", "emdb1": part == "emdb1", "emdb2": np.bool_(part == "emdb2"),
        "n_frames": frames, "good_frames_mask": good,
        "camera": {"intrinsics": K, "extrinsics": extrinsics, "width": WIDTH, "height": HEIGHT},
        "smpl": {
            "poses_root": np.zeros((frames, 3)), "poses_body": np.zeros((frames, 69)), "trans": np.zeros((frames, 3)),
            "betas": np.zeros(10),
        },
        "kp2d": project(points[:, :24], K),
        "bboxes": {"bboxes": np.zeros((frames, 4)), "invalid_idxs": np.array([frames - 1])},
    }  # fmt: skip
    sequence = folder / "P0" / name
    for index in range(frames):
        save_image(sequence / "images" / f"{index:05d}.jpg")
    (sequence / f"P0_{name}_data.pkl").write_bytes(pickle.dumps(data))
    np.savez(sequence / f"P0_{name}_bodies.npz", joints=world[:, :24], vertices=world[:, 24:].astype(np.float32))
    return sequence


def emdb_points() -> np.ndarray:
    return np.stack([np.add(bodies(1, POINTS)[0], [0.02 * index, 0, 0]) for index in range(FRAMES)])


def test_emdb(tmp_path: Path) -> None:
    points = emdb_points()
    write_emdb(tmp_path, points)
    write_emdb(tmp_path, points, part="emdb2", name="20_outdoor_run")
    job = DatasetJob("emdb", tmp_path, tmp_path / "out", regressor=save_mesh_regressor(tmp_path / "weights.npz"))
    (result,) = evaluate_dataset(job, displaced(lambda index: points[index][None], [0, 0, 0.1]))
    assert (result.name, result.problems) == ("P0-09_outdoor_walk", ())
    values = result.totals.compute_metrics()
    assert values["recall"] == (100.0, FRAMES - 1), "who is out of view is ignored"
    assert values["MRPE z"][0] == pytest.approx(100, abs=0.01)
    assert values["Abs-PVE"][0] == pytest.approx(100, abs=0.01)
    assert values["MPJPE"][0] == pytest.approx(0, abs=0.01)
    assert values["PVE"][0] == pytest.approx(0, abs=0.01)
    assert values["FOV error"][0] == pytest.approx(2, abs=1e-4)


@pytest.mark.parametrize("lacking", ["bodies", "regressor"])
def test_emdb_without_bodies_still_tells_the_field_of_view(tmp_path: Path, lacking: str) -> None:
    points = emdb_points()
    sequence = write_emdb(tmp_path, points)
    regressor = save_regressor(tmp_path / "j.npy")
    if lacking == "bodies":
        (sequence / "P0_09_outdoor_walk_bodies.npz").unlink()
    job = DatasetJob("emdb", tmp_path, tmp_path / "out", regressor=None if lacking == "regressor" else regressor)
    (result,) = evaluate_dataset(job, displaced(lambda index: points[index][None], [0, 0, 0.1]))
    (problem,) = result.problems
    assert lacking in problem
    assert "\n" not in problem
    assert result.totals.compute_metrics() == {"FOV error": (pytest.approx(2, abs=1e-4), FRAMES)}


def test_emdb_bodies_of_another_unit_are_refused(tmp_path: Path) -> None:
    sequence = write_emdb(tmp_path, emdb_points())
    path = sequence / "P0_09_outdoor_walk_bodies.npz"
    content = dict(np.load(path))
    job = DatasetJob("emdb", tmp_path, tmp_path / "out", regressor=save_regressor(tmp_path / "j.npy"))
    for joints, told in (
        (1000 * content["joints"], "must project to the dataset's kp2d"),
        (content["joints"][:, :22], "expected (3, 24, 3)"),
    ):
        np.savez(path, joints=joints)
        (result,) = evaluate_dataset(job, displaced(lambda index: np.zeros((0, 24, 3)), [0, 0, 0]))
        (problem,) = result.problems
        assert str(path) in problem
        assert told in problem
    with pytest.raises(UserError, match="expected sequences of"):
        evaluate_dataset(
            dataclasses.replace(job, split="emdb2"), displaced(lambda index: np.zeros((0, 24, 3)), [0] * 3)
        )


# --- Hi4D

MONOCULAR, OTHER = 28, 4


def write_hi4d(folder: Path, points: np.ndarray, *, key: str = "intrinsics", extrinsics: Any = None) -> Path:
    """Write people with points (F, 2, 6914, 3) in the frame of the monocular camera."""
    sequence = folder / "pair00" / "dance00"
    pose = motion([10, 50, 5], [0.3, 0.1, 3.5]) if extrinsics is None else extrinsics
    other = motion([0, -90, 0], [0, 0, 3.0])
    (sequence / "cameras").mkdir(parents=True)
    (sequence / "smpl").mkdir()
    cameras: dict[str, Any] = {
        "ids": np.array([OTHER, MONOCULAR]), "extrinsics": np.stack([other[:3], pose[:3]]),
        key: np.stack([2 * K, K]) * [[[1], [1], [0.5]], [[1], [1], [1]]],
        "dist_coeffs": np.full((2, 5), 0.3),
    }  # fmt: skip
    np.savez(sequence / "cameras" / "rgb_cameras.npz", **cameras)
    ids = np.array([[12], [13, 14]], dtype=object)  # a pickled list of lists, which must not be loaded
    np.savez(
        sequence / "meta.npz", start=11, end=13, num_persons=2, genders=np.array(["male", "female"]), contact_ids=ids,
        mono_cam=MONOCULAR, betas=np.zeros((2, 10)),
    )  # fmt: skip
    for index, each in enumerate(points):
        world, name = world_of(pose, each), f"{11 + index:06d}"
        for camera in (OTHER, MONOCULAR):
            save_image(sequence / "images" / str(camera) / f"{name}.jpg")
        np.savez(
            sequence / "smpl" / f"{name}.npz", joints_3d=world[:, :24], verts=world[:, 24:], betas=np.zeros((2, 10)),
            body_pose=np.zeros((2, 69)), global_orient=np.zeros((2, 3)), transl=np.zeros((2, 3)),
            contact=np.zeros((2, 6890)),
        )  # fmt: skip
    return sequence


def pair_points() -> np.ndarray:
    """Return two people less than a meter apart, (F, 2, 6914, 3)."""
    pair = bodies(2, POINTS) * [0.3, 1, 1]
    return np.stack([np.add(pair, [0.02 * index, 0, 0]) for index in range(FRAMES)])


@pytest.mark.parametrize("key", ["intrinsics", "intirnsics"])
def test_hi4d(tmp_path: Path, key: str) -> None:
    points = pair_points()
    write_hi4d(tmp_path, points, key=key)
    job = DatasetJob("hi4d", tmp_path, tmp_path / "out", regressor=save_mesh_regressor(tmp_path / "weights.npz"))
    (result,) = evaluate_dataset(job, displaced(lambda index: points[index], [0, 0, 0.1]))
    assert (result.name, result.problems) == ("pair00-dance00", ())
    values = result.totals.compute_metrics()
    assert values["F1"] == (100.0, 2 * FRAMES)
    assert values["MRPE z"][0] == pytest.approx(100, abs=0.01)
    for key in ("MPJPE", "PVE", "TA-PVE", "Pair-PA-MPJPE"):
        assert values[key][0] == pytest.approx(0, abs=0.01), key
    assert values["Pair-PA-MPJPE"][1] == FRAMES
    assert values["IDF1"][0] == 100


def test_hi4d_has_joints_alone_where_the_regressor_has(tmp_path: Path) -> None:
    points = pair_points()
    write_hi4d(tmp_path, points)
    job = DatasetJob("hi4d", tmp_path, tmp_path / "out", regressor=save_regressor(tmp_path / "j.npy"))
    (result,) = evaluate_dataset(job, displaced(lambda index: points[index], [0, 0, 0]))
    values = result.totals.compute_metrics()
    assert values["MPJPE"][0] == pytest.approx(0, abs=0.01)
    assert "PVE" not in values


def test_hi4d_cameras(tmp_path: Path) -> None:
    """Images are undistorted (whatever dist_coeffs contain); another camera can be selected."""
    write_hi4d(tmp_path, pair_points())
    (sequence,) = opened(list_hi4d_sequences(tmp_path))
    first = next(iter(sequence))
    assert first.frame is not None
    assert first.frame.image.min() > 30, "an undistorted plain picture would have black margins"
    assert first.stamp_s == pytest.approx(11 / 30)
    (other,) = opened(list_hi4d_sequences(tmp_path, str(OTHER)))
    assert other.frames[0].lens.k[0, 0] == 2 * K[0, 0]
    with pytest.raises(UserError, match=r"one of the cameras 4, 28 of .*, got 5"):
        opened(list_hi4d_sequences(tmp_path, "5"))


def test_hi4d_extrinsics_the_other_way_round_are_refused(tmp_path: Path) -> None:
    points = pair_points()
    pose = motion([0, 180, 0], [0, 0, -4])
    write_hi4d(tmp_path, points, extrinsics=pose)
    path = tmp_path / "pair00" / "dance00" / "cameras" / "rgb_cameras.npz"
    content = dict(np.load(path))
    content["extrinsics"][1] = motion([0, 0, 0], [0, 0, -20])[:3]
    np.savez(path, **content)
    (sequence,) = opened(list_hi4d_sequences(tmp_path))
    with pytest.raises(UserError, match="all people are behind the camera"):
        next(iter(sequence))


# --- Harmony4D

FISHEYE = np.array([0.05, -0.01, 0.002, 0.0])
CAMERAS = f"""# Camera list with one line of data per camera:
#   CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]
# Number of cameras: 2
1 FULL_OPENCV 1408 1408 600 600 704 704 0 0 0 0 0 0 0 0
7 OPENCV_FISHEYE {WIDTH} {HEIGHT} {K[0, 0]} {K[1, 1]} {K[0, 2]} {K[1, 2]} {" ".join(map(str, FISHEYE))}
"""


def write_harmony4d(folder: Path, points: np.ndarray, *, glasses: bool, scale: float = 0.4) -> Path:
    """Write people with points (F, 2, 6914, 3) m in the frame of cam02. COLMAP's unit is 1/scale m."""
    sequence = folder / "05_sword" / "001_sword"
    workplace = sequence / "colmap" / "workplace"
    workplace.mkdir(parents=True)
    (workplace / "cameras.txt").write_text(CAMERAS)
    similarity = motion([30, -20, 70], [1.0, -2.0, 0.5])
    similarity[:3, :3] *= scale
    pose = motion([10, 50, 5], [0.3, 0.1, 1.4])
    x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
    tx, ty, tz = pose[:3, 3]
    lines = [
        "# Image list with two lines of data per image:", "#   IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME",
        "#   POINTS2D[] as (X, Y, POINT3D_ID)", "# Number of images: 3, mean observations per image: 0",
        "1 1 0 0 0 0 0 0 1 aria01/00001.jpg", "10.5 20.5 -1 7 8 3",
        f"2 {w} {x} {y} {z} {tx} {ty} {tz} 7 cam02/00001.jpg", "",
        "3 1 0 0 0 0 0 9 7 cam02/09000.jpg", "",
    ]  # fmt: skip
    (workplace / "images.txt").write_text("\n".join(lines) + "\n")
    if glasses:
        (workplace / "colmap_from_aria_transforms.pkl").write_bytes(
            pickle.dumps({"aria01": similarity, "aria02": np.eye(4)})
        )
    else:
        np.save(workplace / "scale.npy", np.linalg.inv(similarity))
    to_camera = pose @ similarity
    (sequence / "processed_data" / "smpl").mkdir(parents=True)
    for index, each in enumerate(points, start=1):
        # Lengths in the camera frame are metric, but the transformation results in COLMAP's unit.
        world = world_of(to_camera, each * scale)
        people = {
            name: {
                "joints": np.vstack([body[:24], np.zeros((21, 3))]), "vertices": body[24:].astype(np.float32),
                "global_orient": np.zeros(3), "transl": np.zeros(3), "body_pose": np.zeros(69), "betas": np.zeros(10),
            }
            for name, body in zip(("aria01", "aria02"), world, strict=True)
        }  # fmt: skip
        np.save(sequence / "processed_data" / "smpl" / f"{index:05d}.npy", np.array(people, dtype=object))
        save_image(sequence / "exo" / "cam02" / "images" / f"{index:05d}.jpg")
    return sequence


@pytest.mark.parametrize("glasses", [False, True])
def test_harmony4d(tmp_path: Path, glasses: bool) -> None:
    points = pair_points()
    write_harmony4d(tmp_path, points, glasses=glasses)
    regressor = save_mesh_regressor(tmp_path / "weights.npz")
    job = DatasetJob("harmony4d", tmp_path, tmp_path / "out", "cam02", regressor, IntrinsicsChoice("given"))
    (result,) = evaluate_dataset(job, displaced(lambda index: points[index], [0, 0, 0.1]))
    assert (result.name, result.problems) == ("05_sword-001_sword", ())
    values = result.totals.compute_metrics()
    assert values["recall"] == (100.0, 2 * FRAMES)
    assert values["MRPE z"][0] == pytest.approx(100, abs=0.01)
    for key in ("MPJPE", "PVE", "TA-PVE", "Pair-PA-MPJPE"):
        assert values[key][0] == pytest.approx(0, abs=0.01), key
    assert values["IDF1"][0] == 100
    (result,) = evaluate_dataset(
        dataclasses.replace(job, split=None), displaced(lambda index: points[index], [0, 0, 0])
    )
    assert "has no image of cam01" in result.problems[0]


def test_harmony4d_pickles_that_hold_code_are_refused(tmp_path: Path) -> None:
    sequence = write_harmony4d(tmp_path, pair_points(), glasses=False)
    np.save(sequence / "processed_data" / "smpl" / "00001.npy", np.array({"aria01": print}, dtype=object))
    (read,) = opened(list_harmony4d_sequences(tmp_path, "cam02"))
    with pytest.raises(UserError, match=r"00001\.npy .*must not contain builtins\.print"):
        next(iter(read))


def test_a_mirror_is_no_metric_transformation() -> None:
    similarity = motion([30, -20, 70], [2.0, 4.0, 6.0])
    similarity[:3, :3] *= 2
    np.testing.assert_allclose(remove_scale(similarity), motion([30, -20, 70], [1.0, 2.0, 3.0]), atol=1e-12)
    with pytest.raises(ValueError, match="scale above 0"):
        remove_scale(np.diag([1.0, 1.0, -1.0, 1.0]))


# --- common to the data sets


@pytest.mark.parametrize(("distortion", "is_fisheye"), [(FISHEYE, True), (np.array([-0.2, 0.05, 1e-3, 0]), False)])
@pytest.mark.parametrize("skew", [0.0, -30.0])
def test_lenses_are_straightened(distortion: np.ndarray, is_fisheye: bool, skew: float) -> None:
    """After undistortion, a point seen through the lens is at its pinhole projection."""
    k = K + np.array([[0, skew, 0], [0, 0, 0], [0, 0, 0]])
    point = np.array([[[0.7, -0.5, 2.0]]])
    project_points = cv2.fisheye.projectPoints if is_fisheye else cv2.projectPoints
    bent = project_points(point, np.zeros(3), np.zeros(3), np.eye(3), distortion)[0].ravel()
    seen = k[:2, :2] @ bent + k[:2, 2]
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    cv2.circle(image, tuple(round(each) for each in seen), 4, (255, 255, 255), -1)
    lens = CalibratedLens(k, distortion, is_fisheye).distortion_of(image)
    assert lens is not None
    straight = lens.undistort_image(image)[..., 0] > 100
    place = np.argwhere(straight).mean(axis=0)[::-1]
    expected = project(point[0], k)[0]
    assert np.linalg.norm(expected - seen) > 5
    np.testing.assert_allclose(place, expected, atol=1)


@pytest.mark.parametrize("distortion", [np.zeros(3), np.array([np.nan, 0, 0, 0]), np.full(4, 1e150), np.zeros((4, 1))])
def test_lenses_that_cannot_be(distortion: np.ndarray) -> None:
    with pytest.raises(ValueError, match="coefficients"):
        CalibratedLens(K, distortion)


def test_intrinsics_that_cannot_be_are_told_with_their_file(tmp_path: Path) -> None:
    sequence = write_hi4d(tmp_path, pair_points())
    path = sequence / "cameras" / "rgb_cameras.npz"
    content = dict(np.load(path))
    np.savez(path, **{**content, "intrinsics": -content["intrinsics"]})
    ((_, read),) = list_hi4d_sequences(tmp_path)
    with pytest.raises(UserError, match=r"rgb_cameras\.npz .*K must be"):
        read()


@pytest.mark.parametrize("change", ["identity", "known", "vertices"])
def test_actors_of_different_numbers(change: str) -> None:
    rows: dict[str, Any] = {"identity": np.arange(2), "joints": np.zeros((2, 24, 3)), "known": np.ones(2, bool)}
    rows["vertices"] = np.zeros((2, 6890, 3))
    AnnotatedPeople(**rows)
    with pytest.raises(ValueError, match="of the same people"):
        AnnotatedPeople(**{**rows, change: rows[change][:1]})


def test_truth_of_different_lengths(tmp_path: Path) -> None:
    """One mask for two people, vertices of one of two, and fewer valid frames than frames."""
    sequence = write_hi4d(tmp_path / "hi4d", pair_points())
    path = sequence / "smpl" / "000012.npz"
    content = dict(np.load(path))
    np.savez(path, **{**content, "verts": content["verts"][:1]})
    nobody = displaced(lambda index: np.zeros((0, 24, 3)), [0, 0, 0])
    job = DatasetJob("hi4d", tmp_path / "hi4d", tmp_path / "out", regressor=save_regressor(tmp_path / "j.npy"))
    (result,) = evaluate_dataset(job, nobody)
    assert result.totals.frames == 1, "what came before it stays"
    assert "000012.npz does not have the documented format of its dataset" in result.problems[0]

    sequence = write_emdb(tmp_path / "emdb", emdb_points())
    path = sequence / "P0_09_outdoor_walk_data.pkl"
    data = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps({**data, "good_frames_mask": data["good_frames_mask"][:1]}))
    (result,) = evaluate_dataset(dataclasses.replace(job, name="emdb", folder=tmp_path / "emdb"), nobody)
    assert "P0_09_outdoor_walk_data.pkl does not have the documented format of its dataset" in result.problems[0]


def test_a_damaged_picture_costs_only_itself(tmp_path: Path) -> None:
    points = pair_points()
    sequence = write_hi4d(tmp_path, points)
    (sequence / "images" / str(MONOCULAR) / "000012.jpg").write_bytes(b"no picture")
    job = DatasetJob("hi4d", tmp_path, tmp_path / "out", regressor=save_regressor(tmp_path / "j.npy"))
    (result,) = evaluate_dataset(job, displaced(lambda index: points[2 * index], [0, 0, 0]))
    assert result.totals.frames == FRAMES - 1
    (problem,) = result.problems
    assert problem.startswith(f"pair00-dance00: 1 of {FRAMES} images are skipped: ")
    assert "000012.jpg" in problem


@pytest.mark.parametrize("name", ["hi4d", "harmony4d"])
def test_every_pair_counts_where_the_paper_aligns_every_pair(tmp_path: Path, name: str) -> None:
    pair = bodies(2, POINTS)
    pair[1, :, 0] += 2 - (pair[1, 0, 0] - pair[0, 0, 0])  # 2 m beside the first
    points = np.stack([pair] * FRAMES)
    if name == "hi4d":
        write_hi4d(tmp_path, points)
    else:
        write_harmony4d(tmp_path, points, glasses=True)
    split = "cam02" if name == "harmony4d" else None
    job = DatasetJob(name, tmp_path, tmp_path / "out", split, save_regressor(tmp_path / "j.npy"))
    (result,) = evaluate_dataset(job, displaced(lambda index: points[index], [0, 0, 0]))
    assert result.totals.compute_metrics()["Pair-PA-MPJPE"] == (pytest.approx(0, abs=0.01), FRAMES)
    assert resolve_job(job).scoring.pair_distance_m == np.inf


def test_every_kind_of_damage_is_reported_in_one_line(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((24, 4)))
    array = (tmp_path / "a.npy").read_bytes()
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(huge, {"descr": "<f8", "fortran_order": False, "shape": (24, 10**13)})
    np.savez_compressed(tmp_path / "a.npz", np.zeros((24, 4)))
    archive = (tmp_path / "a.npz").read_bytes()
    entry = archive.index(b"PK\x01\x02")  # of the directory: flags at 8, compression at 10
    damaged = {
        "TokenError": array.replace(b"(24, 4)", b"(24, 4 "),
        "MemoryError": huge.getvalue(),
        "NotImplementedError": archive[: entry + 10] + b"\x63" + archive[entry + 11 :],
        "RuntimeError": archive[: entry + 8] + b"\x01" + archive[entry + 9 :],
    }
    for kind, content in damaged.items():
        path = tmp_path / f"{kind}.npz"
        path.write_bytes(content)
        with pytest.raises(UserError, match="does not have the documented format of its dataset") as caught:
            make_point_regressor(path, 24)
        assert f"({kind}" in str(caught.value) or f"_Array{kind}" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_regressors(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = sparse.random_array((24, 19158), density=1e-3, rng=rng)
    np.save(tmp_path / "dense.npy", weights.toarray())
    np.savez(tmp_path / "dense.npz", weights.toarray())
    sparse.save_npz(tmp_path / "sparse.npz", weights.tocsr())
    for people in (0, 1, 3):
        mesh = rng.normal(size=(people, 19158, 3)).astype(np.float32)
        expected = np.einsum("jv,nvd->njd", weights.toarray(), mesh.astype(np.float64))
        for name in ("dense.npy", "dense.npz", "sparse.npz"):
            np.testing.assert_allclose(make_point_regressor(tmp_path / name, 24, 6890)(mesh), expected, atol=1e-12)
    with pytest.raises(UserError, match=r"\(14, 19158\) or \(6904, 19158\)"):
        make_point_regressor(tmp_path / "dense.npy", 14, 6890)
    (tmp_path / "damaged.npz").write_bytes((tmp_path / "sparse.npz").read_bytes()[:-40])
    with pytest.raises(UserError, match="does not have the documented format of its dataset"):
        make_point_regressor(tmp_path / "damaged.npz", 24)
    for name, place, value in (("indices", 0, 2**30), ("indptr", 12, 2**30), ("indptr", -1, 0)):
        beyond = weights.tocsr().copy()
        getattr(beyond, name)[place] = value
        sparse.save_npz(tmp_path / "beyond.npz", beyond)
        with pytest.raises(UserError, match="does not have the documented format of its dataset"):
            make_point_regressor(tmp_path / "beyond.npz", 24)
