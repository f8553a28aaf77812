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

"""Estimator.step: agreement of positions and pixels at any image size, selection of people, and tracking fields."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from multihmr2_ros import Estimator, Frame, IntrinsicsSource, TrackState, UserError
from multihmr2_ros.camera import CameraModel, ResizePad, compute_undistortion_maps, distort_points, project
from multihmr2_ros.depth import RelativeDepthMap
from multihmr2_ros.estimator import EstimatorConfig, complete_config, suppress_nearby
from multihmr2_ros.frame import GroundPlane, IntrinsicsChoice
from multihmr2_ros.lens import LensDistortion
from multihmr2_ros.network.config import NANO
from multihmr2_ros.network.inference import InferenceResult, Runtime
from multihmr2_ros.people import PER_PERSON_FIELDS, People
from multihmr2_ros.placement import PlacementConfig
from multihmr2_ros.tracking import TrackerConfig
from test.helpers.small_network import SMALL, small_network

EVERYBODY = EstimatorConfig(score_threshold=0.0, nms_distance_m=0.0, max_people=6, mesh="low")
SIZES = [(640, 480), (1920, 1080), (480, 640), (333, 517), (1, 1), (2000, 3)]


@pytest.fixture(scope="module")
def estimator() -> Estimator:
    return Estimator(small_network(), EVERYBODY, Runtime("cpu", "fp32"))


def make_image(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("given", [False, True], ids=["predicted K", "given K"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_pixels_and_places_agree(estimator: Estimator, width: int, height: int, given: bool) -> None:
    estimator.reset()
    k = np.array([[0.9 * width, 0, 0.47 * width], [0, 1.1 * width, 0.55 * height], [0, 0, 1]]) if given else None
    people = estimator.step(make_image(width, height), k)
    assert len(people) == 6
    in_front = people.joints[..., 2] > 0.05
    assert in_front.mean() > 0.9
    by_hand = people.joints.astype(float) @ people.k.T
    by_hand = by_hand[..., :2] / by_hand[..., 2:]
    np.testing.assert_allclose(people.joints_2d[in_front], by_hand[in_front], atol=0.01)
    if given:
        np.testing.assert_allclose(people.k, k, rtol=1e-6)
        assert people.intrinsics_source is IntrinsicsSource.K
    else:
        assert people.intrinsics_source is IntrinsicsSource.PREDICTED
        assert people.predicted_vertical_fov == pytest.approx(people.vertical_fov, rel=1e-5)
    assert people.vertical_fov == pytest.approx(2 * np.arctan(height / 2 / people.k[1, 1]))
    assert people.image_size == (height, width)


@pytest.mark.parametrize(("width", "height"), SIZES[:4])
def test_a_located_point_comes_back_in_source_pixels(estimator: Estimator, width: int, height: int) -> None:
    """The network gives a body's center as a location in its input.

    This point, mapped back to the source image, must equal the projection of the placed center vertex, which is
    computed independently through resizing, padding and both Ks.
    """
    estimator.reset()
    image = make_image(width, height)
    resize = ResizePad.fit(width, height, SMALL.image_size)
    with torch.inference_mode():
        pixels = estimator.inference.prepare(image, resize)
        prediction = estimator.inference.network(pixels, torch.eye(3)[None], torch.tensor([False]), 6)
    best = prediction.query_score[0].argsort(descending=True)[:6]
    expected = resize.points_to_source(prediction.query_location[0, best].numpy())
    people = estimator.step(image)
    centers = people.vertices[:, estimator.body.center_vertex].astype(float)
    np.testing.assert_allclose(project(centers, people.k), expected, atol=0.01)


def test_the_predicted_field_of_view_stays_available(estimator: Estimator) -> None:
    estimator.reset()
    image = make_image(640, 480)
    predicted = estimator.step(image).predicted_vertical_fov
    given = estimator.step(image, np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]), stamp=1.0)
    assert given.predicted_vertical_fov == pytest.approx(predicted)
    assert given.vertical_fov != pytest.approx(predicted, abs=0.01)


def test_padding_is_black_and_centered(estimator: Estimator) -> None:
    resize = ResizePad.fit(192, 100, SMALL.image_size)
    pixels = estimator.inference.prepare(np.full((100, 192, 3), 200, np.uint8), resize)[0]
    assert pixels.shape == (3, 112, 192)
    assert torch.all(pixels[:, 6:106] == 200)
    assert torch.all(pixels[:, :6] == 0)
    assert torch.all(pixels[:, 106:] == 0)


def test_resizing_matches_pillow(estimator: Estimator) -> None:
    """Antialiased bicubic interpolation: Pillow's is independent of PyTorch's, and differs only by rounding."""
    from PIL import Image

    image = np.array(Image.fromarray(make_image(20, 15)).resize((640, 480), Image.Resampling.BICUBIC))
    resize = ResizePad.fit(640, 480, SMALL.image_size)
    ours = estimator.inference.prepare(image, resize)[0].permute(1, 2, 0).numpy()
    theirs = np.array(Image.fromarray(image).resize((192, 144), Image.Resampling.BICUBIC))
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_a_fixed_input_size_serves_every_picture() -> None:
    fixed = Estimator(small_network(), dataclasses.replace(EVERYBODY, input_size=(160, 96)), Runtime("cpu", "fp32"))
    for width, height in ((640, 480), (333, 517)):
        people = fixed.step(make_image(width, height))
        assert people.image_size == (height, width)
        fixed.reset()


def test_a_smaller_input_keeps_the_shape_of_each_image() -> None:
    small = Estimator(small_network(), dataclasses.replace(EVERYBODY, input_size=96), Runtime("cpu", "fp32"))
    assert small.make_resize(640, 480).resized_width == 96
    assert small.make_resize(480, 640).resized_height == 96
    people = small.step(make_image(640, 480))
    assert people.image_size == (480, 640)
    np.testing.assert_allclose(project(people.joints.astype(float), people.k), people.joints_2d, atol=0.01)


def test_people_come_in_descending_score_above_the_threshold(estimator: Estimator) -> None:
    estimator.reset()
    everybody = estimator.step(make_image(320, 240))
    assert np.all(np.diff(everybody.score) <= 0)
    threshold = float(everybody.score[2])
    strict = Estimator(
        small_network(), dataclasses.replace(EVERYBODY, score_threshold=threshold), Runtime("cpu", "fp32")
    )
    assert len(strict.step(make_image(320, 240))) == 2, "a score must exceed the threshold"


def test_bodies_below_the_threshold_are_not_computed_on_a_cpu(estimator: Estimator) -> None:
    image = make_image(320, 240)
    resize = ResizePad.fit(320, 240, SMALL.image_size)
    every = estimator.inference(image, resize, None)
    every = every.select(np.arange(len(every.score)))  # a copy
    for present, computed in ((3, 3), (0, 1)):
        threshold = float(every.score[present])
        some = estimator.inference(image, resize, None, threshold)
        assert len(some.score) == len(some.vertices) == computed
        np.testing.assert_array_equal(some.score > threshold, np.arange(computed) < present)
        for name in ("score", "shape", "rotations", "joints", "vertices", "stature", "track_feature"):
            np.testing.assert_allclose(getattr(some, name), getattr(every, name)[:computed], atol=1e-5)


def test_nobody() -> None:
    strict = Estimator(small_network(), dataclasses.replace(EVERYBODY, score_threshold=1.0), Runtime("cpu", "fp32"))
    people = strict.step(make_image(320, 240))
    assert len(people) == 0
    for name in PER_PERSON_FIELDS:
        assert getattr(people, name).shape[0] == 0, name
    assert people.vertices.shape == (0, 615, 3)
    assert np.isfinite(people.vertical_fov)


def test_results_do_not_change_when_the_next_picture_comes(estimator: Estimator) -> None:
    estimator.reset()
    people = estimator.step(make_image(320, 240))
    before = {name: getattr(people, name).copy() for name in PER_PERSON_FIELDS}
    estimator.step(make_image(320, 240, seed=1), stamp=1.0)
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(people, name), value, err_msg=name)


def test_tracks_through_a_still_video(estimator: Estimator) -> None:
    estimator.reset()
    seen = [estimator.step(make_image(320, 240), stamp=t / 10) for t in range(6)]
    for people in seen[1:]:
        np.testing.assert_array_equal(people.track_id, seen[0].track_id)
    last = seen[-1]
    assert np.all(last.track_state == TrackState.CONFIRMED)
    np.testing.assert_allclose(last.track_age_s, 0.5)
    np.testing.assert_allclose(last.velocity, 0, atol=1e-6)
    np.testing.assert_allclose(last.running_shape, last.shape, atol=1e-6)
    np.testing.assert_allclose(last.stature, seen[0].stature, atol=1e-6)
    assert len(set(last.track_id.tolist())) == 6


def test_people_with_a_track_are_kept_at_half_the_score_threshold() -> None:
    estimator = Estimator(small_network(), EVERYBODY, Runtime("cpu", "fp32"))
    score = np.sort(estimator.step(make_image(320, 240)).score)
    config = dataclasses.replace(EVERYBODY, score_threshold=0.99 * float(score[0]))
    above, between = config, dataclasses.replace(config, score_threshold=1.01 * float(score[-1]))
    assert score[-1] < 1.9 * score[0], "all scores are between half of the threshold and the threshold"
    estimator.reset()
    for config, stamp, expected in [(between, 0, 0), (above, 1, 6), (above, 2, 6), (above, 3, 6), (between, 4, 6)]:
        estimator.reconfigure(config)
        people = estimator.step(make_image(320, 240), stamp=0.1 * stamp)
        assert len(people) == expected
    assert np.all(people.track_state == TrackState.CONFIRMED)
    estimator.reconfigure(dataclasses.replace(between, tracked_ratio=1.0))
    assert len(estimator.step(make_image(320, 240), stamp=0.5)) == 0


@pytest.mark.parametrize("name", ["shape", "rotations", "track_feature", "bone_poses", "joints", "stature"])
def test_a_person_with_nan_does_not_cost_the_others(name: str, caplog: pytest.LogCaptureFixture) -> None:
    config = dataclasses.replace(EVERYBODY, nms_distance_m=1e-6)
    estimator = Estimator(small_network(), config, Runtime("cpu", "fp32"))
    expected, infer = estimator.step(make_image(320, 240)), estimator.inference

    def infer_with_nan(*arguments: Any, **options: Any) -> InferenceResult:
        found = infer(*arguments, **options)
        values = getattr(found, name).copy()
        values[0] = np.nan
        return dataclasses.replace(found, **{name: values})

    estimator.inference = infer_with_nan  # type: ignore[assignment]
    people = estimator.step(make_image(320, 240))
    np.testing.assert_array_equal(people.pelvis, expected.pelvis[1:])
    assert "1 of 6 people were dropped" in caplog.text


def test_a_calibration_that_arrives_late_is_not_taken_for_motion(estimator: Estimator) -> None:
    estimator.reset()
    image, k = make_image(320, 240), np.array([[900.0, 0, 160], [0, 900, 120], [0, 0, 1]])
    before = [estimator.step(image, stamp=t / 10) for t in range(5)]
    after = [estimator.step(image, k if t < 9 else np.diag([1.05, 1.05, 1.0]) @ k, stamp=t / 10) for t in range(5, 13)]
    np.testing.assert_array_equal(after[-1].track_id, before[0].track_id)
    assert np.abs(after[0].pelvis - before[0].pelvis).max() > 0.5
    assert np.isnan(after[0].velocity).all(), "all positions jump"
    assert np.isnan(after[4].velocity).all(), "another calibration"
    for people in (*after[1:4], *after[5:]):
        np.testing.assert_allclose(people.velocity, 0, atol=1e-6)


def test_more_people_than_queries_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    network = small_network()
    estimator = Estimator(network, EstimatorConfig(max_people=network.config.queries), Runtime("cpu"))
    assert not caplog.records
    estimator.reconfigure(EstimatorConfig(max_people=network.config.queries + 1))
    assert [record.getMessage() for record in caplog.records] == [
        f"max_people {network.config.queries + 1} is limited to the {network.config.queries} queries of this network"
    ]


def test_reconfiguration_between_two_pictures() -> None:
    estimator = Estimator(small_network(), EVERYBODY, Runtime("cpu", "fp32"))
    image = make_image(640, 480)
    six = estimator.step(image, stamp=0.0)
    estimator.reconfigure(dataclasses.replace(EVERYBODY, max_people=3, mesh="full"))
    three = estimator.step(image, stamp=0.1)
    np.testing.assert_array_equal(three.track_id, six.track_id[:3])
    # The two meshes differ slightly in the vertex at the detected location.
    np.testing.assert_allclose(three.pelvis, six.pelvis[:3], atol=0.02)
    assert three.vertices.shape[1] == estimator.body.vertex_count == 19158
    estimator.reconfigure(dataclasses.replace(EVERYBODY, max_people=200))
    everybody = estimator.step(image, stamp=0.2)
    assert len(everybody) == SMALL.queries
    np.testing.assert_allclose(everybody.vertices[:6], six.vertices, atol=1e-5)
    for change in ({"track": False}, {"input_size": (160, 160)}, {"tracker": TrackerConfig(score_threshold=0.123)}):
        with pytest.raises(UserError, match=next(iter(change))):
            estimator.reconfigure(dataclasses.replace(EVERYBODY, **change))
    assert estimator.config.max_people == 200


def test_without_tracking_nobody_has_an_identity() -> None:
    plain = Estimator(small_network(), dataclasses.replace(EVERYBODY, track=False), Runtime("cpu", "fp32"))
    people = plain.step(make_image(320, 240))
    assert np.all(people.track_id == -1)
    assert np.all(people.track_state == TrackState.UNTRACKED)
    assert np.isnan(people.velocity).all()


@pytest.mark.parametrize(
    ("places", "distance", "kept"),
    [
        ([], 0.25, []),
        ([[0, 0, 3]], 0.25, [0]),
        ([[0, 0, 3], [0, 0, 3.2], [0, 0, 3.4]], 0.25, [0, 2]),  # the middle one is removed, so the third is kept
        ([[0, 0, 3], [0, 0, 3.25]], 0.25, [0, 1]),  # at exactly the distance, both are kept
        ([[0, 0, 3], [0, 0, 3]], 0.0, [0, 1]),  # switched off
    ],
)
def test_suppression(places: list[list[float]], distance: float, kept: list[int]) -> None:
    np.testing.assert_array_equal(suppress_nearby(np.array(places, np.float32).reshape(-1, 3), distance), kept)


@pytest.mark.slow  # compiling takes minutes on two cores
def test_compiled_equals_eager(estimator: Estimator) -> None:
    compiled = Estimator(small_network(), EVERYBODY, Runtime("cpu", "fp32", "compiled"))
    estimator.reset()
    a, b = compiled.step(make_image(320, 240)), estimator.step(make_image(320, 240))
    np.testing.assert_allclose(a.vertices, b.vertices, atol=1e-4)


@pytest.mark.parametrize("chosen", ["cpu", "meta"])
def test_load_takes_the_device_of_the_runtime(small_checkpoint: Path, chosen: str) -> None:
    """The device is given directly or in the runtime. The error names the device that was used."""
    if chosen == "cpu":
        assert Estimator.load(small_checkpoint, runtime=Runtime("cpu", "fp32")).runtime.device == "cpu"
        assert Estimator.load(small_checkpoint, "cpu", runtime=Runtime("cuda:99", "fp32")).runtime.device == "cpu"
        return
    for arguments in ({"device": chosen}, {"runtime": Runtime(chosen)}, {"device": chosen, "runtime": Runtime("cpu")}):
        with pytest.raises(UserError, match="device must be auto, cpu, cuda or cuda:N, got 'meta'"):
            Estimator.load(small_checkpoint, **arguments)


def test_the_given_network_stays_as_it_is() -> None:
    """Precision, mode and values stay unchanged; a second estimator of the network does not use rounded weights."""
    network = small_network().train().requires_grad_(True)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    low = Estimator(network, EVERYBODY, Runtime("cpu", "bf16"))
    exact = Estimator(network, EVERYBODY, Runtime("cpu", "fp32"))
    assert low.inference.network.precision is torch.bfloat16
    assert network.training
    assert all(value.requires_grad for value in network.parameters())
    for name, value in network.state_dict().items():
        assert value.dtype is torch.float32
        assert torch.equal(value, before[name]), name
    expected = Estimator(small_network(), EVERYBODY, Runtime("cpu", "fp32")).step(make_image(320, 240))
    np.testing.assert_array_equal(exact.step(make_image(320, 240)).vertices, expected.vertices)


@pytest.mark.filterwarnings("error")
def test_images_that_may_not_be_written(estimator: Estimator) -> None:
    """Images of Pillow and of messages are read-only; flipped and cropped ones are tested, too. Results are equal."""
    plain = make_image(320, 240)
    views = {
        "frozen": plain.copy(),
        "mirrored": plain[:, ::-1].copy()[:, ::-1],
        "cut": np.pad(plain, 3)[3:-3, 3:-3, 3:-3],
    }
    estimator.reset()
    expected = estimator.step(plain)
    for name, view in views.items():
        view.flags.writeable = False
        estimator.reset()
        k = np.array(expected.k)
        k.flags.writeable = False
        np.testing.assert_array_equal(estimator.step(view).vertices, expected.vertices, err_msg=name)
        assert len(estimator.step(view, k)) == len(expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_two_cameras_of_a_process_capture_their_graphs() -> None:
    """On the last GPU, which is not the current one; each in a thread, like nodes of one process."""
    device = f"cuda:{torch.cuda.device_count() - 1}"
    expected = Estimator(small_network(), EVERYBODY, Runtime(device, "fp32", "eager")).step(make_image(320, 240))
    found: list[People] = []

    def camera() -> None:
        estimator = Estimator(small_network(), EVERYBODY, Runtime(device, "fp32", "graph"))
        for _ in range(5):
            people = estimator.step(make_image(320, 240))
        found.append(people)

    threads = [threading.Thread(target=camera) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    for people in found:
        np.testing.assert_allclose(people.vertices, expected.vertices, atol=1e-3)


def test_a_graph_is_captured_alone_and_in_its_thread_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is needed: the calls to PyTorch are checked, one capture at a time."""
    inside, most, asked = 0, 0, []

    class Capture:
        def __init__(self, graph: Any, **options: Any) -> None:
            asked.append(options)

        def __enter__(self) -> None:
            nonlocal inside, most
            inside, most = inside + 1, max(most, inside + 1)
            time.sleep(0.05)

        def __exit__(self, *_: Any) -> None:
            nonlocal inside
            inside -= 1

    class Stream:
        def wait_stream(self, other: Any) -> None: ...

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    estimators = [Estimator(small_network(), EVERYBODY, Runtime("cpu", "fp32")) for _ in range(2)]
    for each in estimators:
        each.inference.runtime = dataclasses.replace(each.runtime, mode="graph")
    threads = [threading.Thread(target=each.step, args=(make_image(64, 48),)) for each in estimators]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == [{"capture_error_mode": "thread_local"}] * 2
    assert most == 1


@pytest.mark.parametrize("precision", ["bf16"])
def test_low_precision_keeps_geometry_in_float32(precision: Any) -> None:
    low = Estimator(small_network(), EVERYBODY, Runtime("cpu", precision))
    network = low.inference.network
    assert network.backbone.blocks[0].mlp[0].weight.dtype == torch.bfloat16
    assert network.backbone.norm.weight.dtype == torch.float32
    assert network.detection.score[0].weight.dtype == torch.float32
    people = low.step(make_image(320, 240))
    assert people.vertices.dtype == np.float32
    rotations = people.rotations.astype(float)
    np.testing.assert_allclose(
        rotations @ rotations.swapaxes(-1, -2), np.broadcast_to(np.eye(3), rotations.shape), atol=1e-5
    )


BAD_IMAGES = [
    (np.zeros((4, 4), np.uint8), "uint8 (4, 4)"),
    (np.zeros((4, 4, 4), np.uint8), "(4, 4, 4)"),
    (np.zeros((4, 4, 3), np.float32), "float32"),
    (np.zeros((0, 4, 3), np.uint8), "4 x 0"),
    ([[1, 2, 3]], "list"),
]


@pytest.mark.parametrize(("image", "word"), BAD_IMAGES)
def test_bad_images(estimator: Estimator, image: Any, word: str) -> None:
    with pytest.raises(UserError) as caught:
        estimator.step(image)
    assert word in str(caught.value)


@pytest.mark.parametrize(
    "k", [np.zeros((3, 3)), np.full((3, 3), np.nan), np.eye(4), np.diag([-5.0, 5, 1]), np.diag([5.0, 5, 2])]
)
def test_bad_intrinsics(estimator: Estimator, k: np.ndarray) -> None:
    with pytest.raises(UserError):
        estimator.step(make_image(64, 48), k)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"score_threshold": 1.5}, "score_threshold"),
        ({"score_threshold": np.nan}, "score_threshold"),
        ({"tracked_ratio": 1.5}, "tracked_ratio"),
        ({"nms_distance_m": -1}, "nms_distance_m"),
        ({"nms_distance_m": np.nan}, "nms_distance_m"),
        ({"max_people": 0}, "max_people"),
        ({"mesh": "medium"}, "mesh"),
        ({"input_size": (100, 96)}, "width"),
        ({"input_size": (96, 512)}, "height"),
        ({"input_size": 20}, "input_size must be from 32 to 192 px, got 20"),
        ({"input_size": 193}, "input_size must be from 32 to 192 px, got 193"),
    ],
)
def test_bad_configurations(values: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word):
        Estimator(small_network(), EstimatorConfig(**values))


@pytest.mark.parametrize(
    "runtime",
    [
        Runtime("tpu"), Runtime("cpu:x"), Runtime("cuda:99"), Runtime("cpu", "fp16"), Runtime("cpu", "fp32", "graph"),
        Runtime("cpu", "int8"), Runtime("cpu", "fp32", "fast"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_bad_runtimes(runtime: Runtime) -> None:
    with pytest.raises(UserError):
        runtime.resolve()


def test_the_readme_example(small_checkpoint: Path) -> None:
    estimator = Estimator.load(small_checkpoint, device="auto")
    people: People = estimator.step(make_image(64, 48), k=None, stamp=0.0)
    assert people.vertices.shape[1:] == (19158, 3)
    with pytest.raises(UserError, match="does not exist"):
        Estimator.load("nowhere.pt")


LENS = CameraModel(
    np.array([[250.0, 0, 160], [0, 255.0, 120], [0, 0, 1]]), np.array([-0.2, 0.03, 0.01, -0.01, 0.0]), "plumb_bob",
    320, 240,
)  # fmt: skip


def assert_same_people(found: People, expected: People) -> None:
    for field in dataclasses.fields(People):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        np.testing.assert_array_equal(a, b, err_msg=field.name)


def test_a_frame_and_its_fields_as_arguments_are_the_same() -> None:
    pose, ground = np.eye(4), GroundPlane(np.array([0.0, -1.0, 0.0]), -1.5)
    depth = np.full((240, 320), 3.0, np.float32)
    by_frame, by_arguments = (Estimator(small_network(), EVERYBODY, Runtime("cpu", "fp32")) for _ in range(2))
    for index in range(3):
        image = make_image(320, 240)
        frame = Frame(
            image, index / 10, LENS.k, IntrinsicsSource.P, depth=depth, ground=ground, fixed_from_camera=pose,
            fixed_frame="odom",
        )  # fmt: skip
        expected = by_arguments.step(
            image, LENS.k, index / 10, intrinsics_source=IntrinsicsSource.P, depth=depth, ground=ground,
            fixed_from_camera=pose, fixed_frame="odom",
        )  # fmt: skip
        found = by_frame.step(frame)
        assert_same_people(found, expected)
    assert (found.intrinsics_source, found.velocity_frame) == (IntrinsicsSource.P, "fixed")
    assert found.placement_cue is not None


@pytest.mark.parametrize("given", [False, True], ids=["predicted K", "given K"])
@pytest.mark.parametrize("kind", ["m", "mm", "relative", "none"])
def test_a_lens_is_taken_out_of_image_and_depth_and_put_into_joints_2d(given: bool, kind: str) -> None:
    """The results equal those by hand: image and depth undistorted by OpenCV, then points distorted again."""
    k = LENS.k if given else None
    image = make_image(320, 240)
    rows = np.linspace(2.0, 4.0, 240)[:, None] * np.ones((1, 320))
    values = (1000 * rows).astype(np.uint16) if kind == "mm" else rows.astype(np.float32)
    straight = cv2.remap(image, *compute_undistortion_maps(LENS), cv2.INTER_LINEAR)
    lens = LensDistortion(LENS)
    straight_values = lens.undistort_depth(values, hole=np.nan if kind == "relative" else 0)
    depth: Any = values if kind != "none" else None
    by_hand: Any = straight_values if kind != "none" else None
    if kind == "relative":
        depth, by_hand = RelativeDepthMap(values, "depth"), RelativeDepthMap(straight_values, "depth")
    found, ideal = (Estimator(small_network(), EVERYBODY, Runtime("cpu", "fp32")) for _ in range(2))
    expected = ideal.step(straight, k, depth=by_hand)
    expected = dataclasses.replace(expected, joints_2d=distort_points(expected.joints_2d, LENS).astype(np.float32))
    people = found.step(Frame(image, k=k, lens=lens, depth=depth))
    assert_same_people(people, expected)
    assert (people.placement_cue is None) == (kind == "none")


def test_a_lens_of_another_size_is_refused(estimator: Estimator) -> None:
    with pytest.raises(UserError, match=r"calibrated for images of 320 x 240 px, got an image of 64 x 48 px"):
        estimator.step(Frame(make_image(64, 48), lens=LensDistortion(LENS)))


def test_intrinsics_that_a_user_chooses() -> None:
    frame = Frame(make_image(64, 48), k=LENS.k, intrinsics_source=IntrinsicsSource.P, lens=LensDistortion(LENS))
    assert IntrinsicsChoice().apply(frame) is frame
    predicted = IntrinsicsChoice("predicted", k=LENS.k).apply(frame)
    assert (predicted.k, predicted.intrinsics_source) == (None, IntrinsicsSource.PREDICTED)
    k = np.diag([50.0, 50.0, 1.0])
    for choice, focal in ((IntrinsicsChoice(k=k), 50.0), (IntrinsicsChoice(vertical_fov_rad=np.pi / 2), 24.0)):
        chosen = choice.apply(frame)
        assert chosen.k is not None
        assert chosen.k[1, 1] == pytest.approx(focal)
        assert chosen.intrinsics_source is IntrinsicsSource.PARAMETER
        assert chosen.lens is frame.lens


def test_movenets_encoder_has_larger_errors_than_the_defaults_assume() -> None:
    nano, small = complete_config(EstimatorConfig(), NANO), complete_config(EstimatorConfig(), SMALL)
    assert nano.tracker is not None
    assert nano.tracker.velocity.depth_sigma_ratio > TrackerConfig().velocity.depth_sigma_ratio
    assert nano.placement is not None
    assert nano.placement.lateral_sigma_ratio > PlacementConfig().lateral_sigma_ratio
    assert (small.tracker, small.placement) == (TrackerConfig(), PlacementConfig())
    chosen = EstimatorConfig(tracker=TrackerConfig(), placement=PlacementConfig())
    assert complete_config(chosen, NANO) == chosen


@pytest.mark.parametrize("others", [{"k": np.eye(3)}, {"stamp": 1.0}, {"depth": np.ones((240, 320))}])
def test_a_frame_with_other_arguments_is_refused(estimator: Estimator, others: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="a Frame has its own k, stamp"):
        estimator.step(Frame(make_image(320, 240)), **others)


def test_the_first_image_imports_no_module() -> None:
    """Otherwise a live node would drop the images that arrive during these imports."""
    program = """
import sys
import numpy as np
from multihmr2_ros import Estimator

estimator = Estimator.load("nano", "cpu")
before = set(sys.modules)
estimator.step(np.zeros((48, 64, 3), np.uint8))
print("imported:", *sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "imported:", done.stdout + done.stderr
