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

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from multihmr2_ros import Estimator, IntrinsicsSource, TrackState, UserError
from multihmr2_ros.camera import ResizePad, project
from multihmr2_ros.estimator import EstimatorConfig, complete_config, suppress_nearby
from multihmr2_ros.network.config import NANO
from multihmr2_ros.network.inference import InferenceResult, Runtime, limit_threads
from multihmr2_ros.people import PER_PERSON_FIELDS
from multihmr2_ros.placement import PlacementConfig
from multihmr2_ros.tracking import TrackerConfig
from test.helpers.small_estimator import EVERYBODY, make_estimator, make_image
from test.helpers.small_network import SMALL, small_network

SIZES = [(640, 480), (1920, 1080), (480, 640), (333, 517), (1, 1), (2000, 3)]


@pytest.fixture(scope="module")
def estimator() -> Estimator:
    return make_estimator()


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


def test_smoothed_bodies_are_bodies_of_the_body_model() -> None:
    """Pose, shape, joints, vertices and pixels fit together, and differ from those of the image alone."""
    plain, smoothed = (make_estimator(smoothing=smoothing) for smoothing in ("never", "always"))
    images = [make_image(640, 480, seed) for seed in range(3)]
    for step, image in enumerate(images):
        detected, people = (each.step(image, stamp=step / 30.0) for each in (plain, smoothed))
    np.testing.assert_array_equal(people.track_id, detected.track_id)
    assert len(np.intersect1d(people.track_id, range(6))) > 0, "someone is seen in more than one image"
    assert np.abs(people.joints - detected.joints).max() > 0.001
    np.testing.assert_array_equal(people.shape, people.running_shape)
    with limit_threads(smoothed.runtime.threads):  # rounding depends on their number
        posed = smoothed.body(torch.from_numpy(people.shape), torch.from_numpy(people.rotations))
    np.testing.assert_allclose(people.bone_poses, posed.bone_poses, atol=1e-5)
    shift = people.pelvis - posed.joints[:, 0].numpy()
    np.testing.assert_allclose(people.joints, posed.joints.numpy() + shift[:, None], atol=1e-5)
    np.testing.assert_allclose(people.vertices, posed.vertices.numpy() + shift[:, None], atol=1e-5)
    np.testing.assert_allclose(people.joints_2d, project(people.joints.astype(float), people.k), atol=0.01)
    rays = [each.pelvis / np.linalg.norm(each.pelvis, axis=1, keepdims=True) for each in (people, detected)]
    np.testing.assert_allclose(rays[0], rays[1], atol=1e-5)


@pytest.mark.parametrize(
    ("vertices", "depth"), [(True, None), (False, None), (True, np.full((480, 640), 3.5, np.float32))]
)
def test_smoothing_does_not_change_a_still_video(vertices: bool, depth: Any) -> None:
    """With a depth image, the size of the bodies is changed, too."""
    plain, smoothed = (make_estimator(smoothing=each, vertices=vertices) for each in ("never", "always"))
    image, k = make_image(640, 480), np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    for step in range(4):
        detected, people = (each.step(image, k, stamp=step / 30.0, depth=depth) for each in (plain, smoothed))
    assert people.vertices.shape == detected.vertices.shape
    for name in PER_PERSON_FIELDS:
        np.testing.assert_allclose(getattr(people, name), getattr(detected, name), rtol=1e-4, atol=1e-3)


def test_people_with_a_track_are_kept_at_half_the_score_threshold() -> None:
    estimator = make_estimator()
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
    estimator = make_estimator()
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
    for change in (
        {"track": False},
        {"smoothing": "always"},
        {"input_size": (160, 160)},
        {"tracker": TrackerConfig(score_threshold=0.123)},
    ):
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
        ({"smoothing": "on"}, "smoothing must be auto, always or never, got 'on'"),
        ({"smoothing": "always", "track": False}, "smoothing always needs tracking"),
        ({"input_size": (100, 96)}, "width"),
        ({"input_size": (96, 512)}, "height"),
        ({"input_size": 20}, "input_size must be from 32 to 192 px, got 20"),
        ({"input_size": 193}, "input_size must be from 32 to 192 px, got 193"),
    ],
)
def test_bad_configurations(values: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word):
        Estimator(small_network(), EstimatorConfig(**values))


def test_movenets_encoder_has_larger_errors_than_the_defaults_assume() -> None:
    nano, small = complete_config(EstimatorConfig(), NANO), complete_config(EstimatorConfig(), SMALL)
    assert nano.tracker is not None
    assert nano.tracker.velocity.depth_sigma_ratio > TrackerConfig().velocity.depth_sigma_ratio
    assert nano.placement is not None
    assert nano.placement.lateral_sigma_ratio > PlacementConfig().lateral_sigma_ratio
    assert (small.tracker, small.placement) == (TrackerConfig(), PlacementConfig())
    chosen = EstimatorConfig(tracker=TrackerConfig(), placement=PlacementConfig())
    assert complete_config(chosen, NANO) == chosen


@pytest.mark.parametrize(
    ("smoothing", "is_smoothed"), [("auto", [True, False]), ("always", [True, True]), ("never", [False, False])]
)
def test_networks_whose_bodies_are_smoothed(smoothing: Any, is_smoothed: list[bool]) -> None:
    configs = [complete_config(EstimatorConfig(smoothing=smoothing), network) for network in (NANO, SMALL)]
    assert [config.tracker is not None and config.tracker.smoothing is not None for config in configs] == is_smoothed
