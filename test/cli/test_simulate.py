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

"""`multihmr2 simulate`: bags and folders, their ground truth against the scenes, and user errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from multihmr2_ros.bags.frames import BagSource
from multihmr2_ros.bags.humans import people_from_human_array
from multihmr2_ros.bags.reading import BagReader
from multihmr2_ros.cli.main import main
from multihmr2_ros.messages.images import image_from_ros
from multihmr2_ros.simulation.labels import Labels
from multihmr2_ros.simulation.scene import SceneOptions
from multihmr2_ros.simulation.sequence import SceneRenderer, SimulatedFrame, limit_to_one_thread

SMALL = ["--size", "96x72", "--rate", "4"]
SEED = 7
TRUTH, DEPTH = "/ground_truth/humans", "/camera/depth/image_raw"


@pytest.fixture(scope="module")
def scene_renderer() -> SceneRenderer:
    return SceneRenderer()


@pytest.fixture(scope="module", autouse=True)
def as_the_command_does() -> Iterator[None]:
    """Use the command's number of threads: the order of sums in a body depends on it."""
    with limit_to_one_thread():
        yield


def simulate(path: Path, *more: object) -> Path:
    assert main(["simulate", "--out", str(path), *SMALL, *map(str, more)]) == 0
    return path


def options(seconds: float, **more: Any) -> SceneOptions:
    return SceneOptions(width=96, height=72, frame_rate_hz=4.0, people=(1, 5), duration_s=seconds, **more)


def decoded(path: Path) -> dict[str, list[Any]]:
    """Return topic → its messages."""
    found: dict[str, list[Any]] = {}
    with BagReader(path) as bag:
        for message in bag.messages():
            found.setdefault(message.topic, []).append(bag.decode(message))
    return found


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def pose_of(transform: Any) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat([getattr(transform.rotation, axis) for axis in "xyzw"]).as_matrix()
    pose[:3, 3] = [getattr(transform.translation, axis) for axis in "xyz"]
    return pose


@pytest.fixture(scope="module")
def standing(
    scene_renderer: SceneRenderer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[SimulatedFrame]]:
    """Return a bag of a stationary camera, and the same scene from the simulation itself."""
    path = simulate(tmp_path_factory.mktemp("bags") / "standing.mcap", "--seed", SEED, "--seconds", 1, "--depth")
    return path, list(scene_renderer.render_frames(SEED, options(1.0)))


def test_images_and_intrinsics_are_read_back(standing: tuple[Path, list[SimulatedFrame]]) -> None:
    path, simulated_frames = standing
    frames = list(BagSource(path))
    assert len(frames) == len(simulated_frames) == 4
    for frame, simulated_frame in zip(frames, simulated_frames, strict=True):
        np.testing.assert_array_equal(frame.image, simulated_frame.rendered.image)
        np.testing.assert_allclose(frame.k, simulated_frame.scene.camera.k)
    np.testing.assert_allclose(np.diff([frame.stamp for frame in frames]), 0.25, atol=1e-6)


def test_the_truth_is_that_of_the_labels(standing: tuple[Path, list[SimulatedFrame]]) -> None:
    path, simulated_frames = standing
    messages = decoded(path)[TRUTH]
    assert len(messages) == len(simulated_frames)
    for message, simulated_frame in zip(messages, simulated_frames, strict=True):
        truth = simulated_frame.labels
        people = people_from_human_array(message, truth.image_size)
        rows = [truth.person_id.tolist().index(identity) for identity in people.track_id.tolist()]
        assert sorted(rows) == list(range(len(truth.person_id)))
        assert (np.diff(people.score) <= 0).all()
        np.testing.assert_allclose(people.score, truth.visible_fraction[rows])
        np.testing.assert_allclose(people.pelvis, truth.pelvis[rows], atol=1e-6)
        np.testing.assert_allclose(people.joints, truth.joints[rows], atol=1e-6)
        np.testing.assert_allclose(people.joints_2d, truth.joints_2d[rows], atol=1e-4)
        np.testing.assert_allclose(people.rotations, truth.rotations[rows], atol=1e-5)
        np.testing.assert_allclose(people.running_shape, truth.shape[rows])
        np.testing.assert_allclose(people.stature, truth.stature[rows])
        assert people.vertices.shape == (len(rows), 615, 3)
        assert (people.track_state == 2).all()
        assert people.velocity_frame == "camera"
        for human, row in zip(message.humans, rows, strict=True):
            box = human.box
            corners = [box.x_offset, box.y_offset, box.x_offset + box.width, box.y_offset + box.height]
            np.testing.assert_array_equal(corners, np.nan_to_num(truth.visible_box[row]))
            assert human.frame_id == f"body_{human.track_id}"


def test_low_vertices_lie_on_the_full_mesh(standing: tuple[Path, list[SimulatedFrame]]) -> None:
    for people, posed in ((simulated_frame.people, simulated_frame.posed) for simulated_frame in standing[1]):
        for identity, vertices in zip(people.track_id.tolist(), people.vertices, strict=True):
            full = posed.vertices[posed.person_id.tolist().index(identity)]
            for row in (0, 100, 300, 614):
                assert np.linalg.norm(full - vertices[row], axis=1).min() < 0.02


def test_depth_images_are_the_renderers(standing: tuple[Path, list[SimulatedFrame]]) -> None:
    path, simulated_frames = standing
    for message, simulated_frame in zip(decoded(path)[DEPTH], simulated_frames, strict=True):
        assert message.encoding == "16UC1"
        depth_mm = message.data.view("<u2").reshape(message.height, message.width)
        expected = np.where(simulated_frame.rendered.depth < 65.5, simulated_frame.rendered.depth * 1000, 0)
        np.testing.assert_allclose(depth_mm, expected, atol=0.51)


@pytest.mark.parametrize("moving", [False, True])
def test_frames_and_velocities_fit_each_other(moving: bool, tmp_path: Path) -> None:
    """Pelvises, transformed to the fixed frame with the bag's TF, move with the velocities of the messages."""
    more = ["--moving-camera"] if moving else []
    rate = 20  # velocities are averaged over the time between three images
    path = simulate(
        tmp_path / "bag", "--seconds", 2, "--rate", rate, "--size", "32x24", "--seed", 5, "--people", 1, 3, *more
    )
    messages = decoded(path)
    assert ("/tf" in messages) == moving
    static = {each.child_frame_id: each for each in messages["/tf_static"][0].transforms}
    mounted = pose_of(static["camera_optical_frame"].transform)
    assert static["camera_optical_frame"].header.frame_id == "base_link"
    bases = [pose_of(message.transforms[0].transform) for message in messages.get("/tf", [])]
    bases = bases or [pose_of(static["base_link"].transform)] * len(messages[TRUTH])
    assert (np.linalg.norm(bases[0] - bases[-1]) > 0.1) == moving
    places: dict[int, list[np.ndarray]] = {}
    speeds: dict[int, list[np.ndarray]] = {}
    for message, base in zip(messages[TRUTH], bases, strict=True):
        people = people_from_human_array(message, (24, 32))
        pose = base @ mounted
        assert people.velocity_frame == ("fixed" if moving else "camera")
        velocity = people.velocity if moving else people.velocity @ pose[:3, :3].T
        for row, identity in enumerate(people.track_id.tolist()):
            places.setdefault(identity, []).append(people.pelvis[row] @ pose[:3, :3].T + pose[:3, 3])
            speeds.setdefault(identity, []).append(velocity[row])
    for identity, track in places.items():
        differences = np.gradient(np.array(track), 1 / rate, axis=0)[1:-1]
        np.testing.assert_allclose(differences, np.array(speeds[identity])[1:-1], atol=0.03)
    assert max(np.abs(speed).max() for speed in speeds.values()) > 0.3, "somebody walks"


def test_a_seed_keeps_its_scene_from_version_to_version(standing: tuple[Path, list[SimulatedFrame]]) -> None:
    """Checks that a seed gives the same scene in every version.

    The values: people, pelvises (m, camera frame), velocities along x (m/s) and the mean of the first image of SEED, as
    written by version 0.1.0 on 2026-11-27. A bag with the same seed must not change when the simulation gets new
    options.
    """
    expected = {
        1: (-1.0283, 0.3320, 2.2499, 0.0001),
        2: (-0.5906, -0.0781, 0.4736, 0.8739),
        3: (-0.1218, 1.3490, 4.4249, 0.0),
        4: (0.1184, 0.2417, 1.7811, 0.6256),
        5: (1.8145, 0.3078, 2.2150, -0.0002),
    }
    messages = decoded(standing[0])
    found = {human.track_id: human for human in messages[TRUTH][0].humans}
    assert sorted(found) == sorted(expected)
    for identity, values in expected.items():
        pelvis, velocity = found[identity].pelvis.pose.position, found[identity].velocity
        assert [pelvis.x, pelvis.y, pelvis.z, velocity.x] == pytest.approx(values, abs=2e-4)
    assert messages["/camera/image_raw"][0].data.mean() == pytest.approx(139.0415, abs=0.2)


def test_a_driving_camera_moves_on_tf_at_the_images_stamps(tmp_path: Path) -> None:
    more = ["--seed", 4, "--seconds", 2, "--size", "32x24"]
    for name in ("drive", "moving"):  # a bag contains its name
        (tmp_path / name).mkdir()
    driving = simulate(tmp_path / "drive" / "bag.mcap", *more, "--camera-motion", "drive", "--depth", "noisy")
    messages = decoded(driving)
    stamps = [message.header.stamp for message in messages["/camera/image_raw"]]
    links = [message.transforms[0] for message in messages["/tf"]]
    assert [link.header.stamp for link in links] == stamps
    assert {(link.header.frame_id, link.child_frame_id) for link in links} == {("odom", "base_link")}
    assert [message.header.stamp for message in messages[DEPTH]] == stamps
    assert {message.header.frame_id for message in messages[DEPTH]} == {"camera_optical_frame"}
    assert {human.velocity_frame for message in messages[TRUTH] for human in message.humans} <= {"odom"}
    poses = [pose_of(link.transform) for link in links]
    assert np.linalg.norm(poses[-1][:3, 3] - poses[0][:3, 3]) > 0.1
    assert Rotation.from_matrix(poses[-1][:3, :3].T @ poses[0][:3, :3]).magnitude() > 0.05
    same = simulate(tmp_path / "moving" / "bag.mcap", *more, "--moving-camera", "--depth", "noisy")
    assert same.read_bytes() == driving.read_bytes()


def test_depth_does_not_change_the_rest_of_a_bag(tmp_path: Path) -> None:
    more = ["--seed", SEED, "--seconds", 0.2, "--size", "320x240"]
    plain, noisy, exact = (
        decoded(simulate(tmp_path / f"{name}.mcap", *more, *given))
        for name, given in (("plain", []), ("noisy", ["--depth", "noisy"]), ("exact", ["--depth"]))
    )
    assert set(noisy) - set(plain) == {DEPTH, "/camera/depth/camera_info"}
    for index, image in enumerate(plain["/camera/image_raw"]):
        np.testing.assert_array_equal(image.data, noisy["/camera/image_raw"][index].data)
    (true_m,), (measured_m,) = (
        [message.data.view("<u2").astype(float) / 1000 for message in messages[DEPTH]] for messages in (exact, noisy)
    )
    in_range = (true_m > 0.5) & (true_m < 9)
    assert 0.5 < (measured_m[in_range] > 0).mean() < 0.99, "some holes"
    assert (measured_m[(true_m == 0) | (true_m > 10)] == 0).all()
    valid = in_range & (measured_m > 0)
    assert valid.sum() > 5000
    # Standard deviations of 1.5 mm at 1 m, in proportion to the squared depth.
    normalized = (measured_m - true_m)[valid] / (0.0015 * true_m[valid] ** 2)
    assert normalized.std() == pytest.approx(1.0, abs=0.05)


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        more = ["--seed", 4, "--seconds", 0.5, "--depth", "noisy", "--moving-camera"]
        simulate(tmp_path / name / "bag", *more)
        simulate(tmp_path / name / "images", *more, "--as", "images")
    assert files_in(tmp_path / "one") == files_in(tmp_path / "two")
    other = simulate(tmp_path / "other.mcap", "--seed", 5, "--seconds", 0.5)
    first = [decoded(path)["/camera/image_raw"][0] for path in (other, tmp_path / "one" / "bag")]
    assert not np.array_equal(image_from_ros(first[0]), image_from_ros(first[1]))


def test_a_folder_of_images_holds_the_labels(scene_renderer: SceneRenderer, tmp_path: Path) -> None:
    folder = simulate(tmp_path / "images", "--as", "images", "--seed", SEED, "--seconds", 0.5, "--vertices", "full")
    assert sorted(path.name for path in folder.iterdir()) == ["000000.npz", "000000.png", "000001.npz", "000001.png"]
    for index, simulated_frame in enumerate(scene_renderer.render_frames(SEED, options(0.5), "full")):
        image = cv2.imread(str(folder / f"{index:06d}.png"))
        np.testing.assert_array_equal(image[..., ::-1], simulated_frame.rendered.image)
        with np.load(folder / f"{index:06d}.npz", allow_pickle=False) as arrays:
            for field in dataclasses.fields(Labels):
                np.testing.assert_array_equal(
                    arrays[field.name], getattr(simulated_frame.labels, field.name), field.name
                )
            np.testing.assert_array_equal(arrays["vertices"], simulated_frame.posed.vertices)
            np.testing.assert_array_equal(arrays["instances"], simulated_frame.rendered.instances)
            np.testing.assert_allclose(arrays["velocity"], simulated_frame.velocity)


def test_many_sequences_have_consecutive_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--seconds", 0.3, "--vertices", "none", "--format", "jpeg"]
    folder = simulate(tmp_path / "many", "--sequences", 2, "--seed", 1_000_003, *more)
    assert sorted(path.name for path in folder.iterdir()) == ["seed_1000003.mcap", "seed_1000004.mcap"]
    assert "2 sequences of 1 image, seed" in capsys.readouterr().out
    alone = simulate(tmp_path / "seed_1000004.mcap", "--seed", 1_000_004, *more)
    assert alone.read_bytes() == (folder / "seed_1000004.mcap").read_bytes()
    messages = decoded(alone)
    assert "/camera/image_raw" not in messages
    assert messages["/camera/image_raw/compressed"][0].format == "jpeg"
    assert all(human.vertices.size == 0 for message in messages[TRUTH] for human in message.humans)


def test_nobody_is_a_message_too(tmp_path: Path) -> None:
    messages = decoded(simulate(tmp_path / "empty.db3", "--people", 0, 0, "--seconds", 0.5))
    assert [len(message.humans) for message in messages[TRUTH]] == [0, 0]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--people", "3", "1"], "people must be"),
        (["--seconds", "0"], "--seconds must be above 0"),
        (["--seconds", "nan"], "--seconds must be above 0"),
        (["--seconds", "inf"], "duration_s must be"),
        (["--rate", "0"], "--rate must be above 0, got 0"),
        (["--seed", "-1"], "--seed must be 0 or more, got -1"),
        (["--size", "big"], "a size must be WIDTHxHEIGHT"),
        (["--size", "0x10"], "images must have at least 1 x 1 px"),
        (["--size", "99999x99999"], "images must have at most"),
        (["--as", "images", "--format", "jpeg"], "--format is for bags"),
        (["--sequences", "0"], "--sequences must be 1 or more"),
        (["--motions", "nowhere"], "--motions must be a folder of BVH files"),
        (["--garments", "EMPTY"], "expected garments"),
        (["--motions", "EMPTY", "--sequences", "2"], "expected *.bvh files"),
        (["--backgrounds", "EMPTY", "--sequences", "2", "--as", "images"], "expected images"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    wrong: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    wrong = [str(tmp_path / "empty") if each == "EMPTY" else each for each in wrong]
    assert main(["simulate", "--out", str(tmp_path / "bag.mcap"), *SMALL, *wrong]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("multihmr2 simulate: ")]
    assert said in line
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize("more", [[], ["--as", "images"], ["--sequences", "2"]])
def test_existing_targets_are_refused_and_kept(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    (target / "work.txt").write_text("kept")
    assert main(["simulate", "--out", str(target), *SMALL, *more]) == 2
    assert "already exists" in capsys.readouterr().err
    assert (target / "work.txt").read_text() == "kept"
    assert main(["simulate", "--out", str(tmp_path / "no" / "bag"), *SMALL, *more]) == 2
    assert "does not exist: create it first" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["bag", "images"])
def test_an_interrupted_sequence_leaves_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes after the second image."""
    simulated_frames = SceneRenderer.render_frames

    def interrupted(*given: Any) -> Any:
        for index, simulated_frame in enumerate(simulated_frames(*given)):
            if index == 2:
                raise KeyboardInterrupt
            yield simulated_frame

    monkeypatch.setattr(SceneRenderer, "render_frames", interrupted)
    assert main(["simulate", "--out", str(tmp_path / "bag"), *SMALL, "--as", kind, "--seconds", "1"]) == 130
    assert not list(tmp_path.iterdir())
