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

"""Sensor effects separately, and reproducibility of random scenes."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from multihmr2_ros.errors import UserError
from multihmr2_ros.simulation.appearance.appearance import sample_appearance
from multihmr2_ros.simulation.appearance.materials import DISPLAY_GAMMA
from multihmr2_ros.simulation.rendering.backdrop import load_image, load_texture_levels, render_backdrop
from multihmr2_ros.simulation.rendering.sensor import MIDDLE_GRAY, apply_sensor_effects
from multihmr2_ros.simulation.scene import SceneOptions, sample_scene
from multihmr2_ros.simulation.scene.environment import Backdrop, list_background_images, sample_environment
from multihmr2_ros.simulation.scene.sensor import SensorEffects, sample_sensor

ADULT = np.full(6, 0.6, np.float32)


def make_image(height: int = 48, width: int = 64) -> np.ndarray:
    """Return (h, w, 3) uint8: a smooth gradient with a bright block."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([60 + x, 80 + y, 120 + 0 * x], axis=-1)
    image[20:30, 30:40] = 230
    return image.astype(np.uint8)


def light(image: np.ndarray) -> np.ndarray:
    return np.power(image.astype(np.float32) / 255.0, DISPLAY_GAMMA)


def apply(seed: int = 0, **effects: Any) -> np.ndarray:
    return apply_sensor_effects(SensorEffects(**effects), light(make_image()), np.random.default_rng(seed))


def test_without_effects_the_image_is_the_light() -> None:
    np.testing.assert_array_equal(apply(), make_image())


@pytest.mark.parametrize(
    "effects",
    [
        {"exposure": 1.5},
        {"auto_exposure": 1.0},
        {"white_balance": (1.2, 1.0, 0.8)},
        {"gamma": 1.2},
        {"contrast": 1.3},
        {"saturation": 0.4},
        {"vignetting": 0.5},
        {"motion_blur_px": 6.0, "motion_blur_rad": 0.7},
        {"defocus_px": 1.5},
        {"electrons": 200.0},
        {"read_noise": 0.02},
        {"jpeg_quality": 30},
    ],
    ids=lambda effects: next(iter(effects)),
)
def test_every_effect_changes_values_but_not_shape_or_type(effects: dict[str, Any]) -> None:
    image = apply(**effects)
    assert image.shape == make_image().shape
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - make_image()).max() > 3
    np.testing.assert_array_equal(image, apply(**effects))


@pytest.mark.parametrize(
    ("effects", "difference"),
    [
        ({"exposure": 1.3}, lambda new, old: new.mean() - old.mean()),
        ({"exposure": 0.6}, lambda new, old: old.mean() - new.mean()),
        ({"white_balance": (1.3, 1.0, 1.0)}, lambda new, old: new[..., 0].mean() - old[..., 0].mean()),
        ({"gamma": 1.3}, lambda new, old: old.mean() - new.mean()),
        ({"contrast": 1.2}, lambda new, old: new.std() - old.std()),
        ({"saturation": 0.0}, lambda new, old: 1.5 - np.ptp(new.astype(int), axis=-1).max()),
        ({"vignetting": 0.5}, lambda new, old: old[0, 0].mean() - new[0, 0].mean()),
        ({"defocus_px": 2.0}, lambda new, old: np.abs(np.diff(old, axis=1)).max() - np.abs(np.diff(new, axis=1)).max()),
    ],
)  # fmt: skip
def test_effects_go_the_right_way(effects: dict[str, Any], difference: Any) -> None:
    assert difference(apply(**effects).astype(float), make_image().astype(float)) > 0


@pytest.mark.parametrize("brightness", [0.06, 0.2, 0.6])
def test_automatic_exposure_brings_dark_and_bright_scenes_to_middle_gray(brightness: float) -> None:
    scene = np.full((8, 8, 3), brightness, np.float32)
    image = apply_sensor_effects(SensorEffects(auto_exposure=1.0), scene, np.random.default_rng(0))
    assert light(image).mean() == pytest.approx(MIDDLE_GRAY, abs=0.01)


def test_motion_blurs_along_its_direction() -> None:
    image = np.zeros((41, 41, 3), np.float32)
    image[20, 20] = 1.0
    blurred = SensorEffects(motion_blur_px=10.0, motion_blur_rad=0.0)
    streak = apply_sensor_effects(blurred, image, np.random.default_rng(0))[..., 0]
    y, x = np.nonzero(streak)
    assert set(y) == {20}
    assert 8 <= np.ptp(x) <= 11


def test_noise_is_drawn_from_the_generator_and_shot_noise_has_poissons_variance() -> None:
    gray = np.full((200, 200, 3), 0.25, np.float32)
    effects = SensorEffects(electrons=400.0)
    first, again, other = (apply_sensor_effects(effects, gray, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5
    assert light(first).std() == pytest.approx(np.sqrt(0.25 / 400.0), rel=0.05)


def test_drawn_data_are_repeatable_and_plausible() -> None:
    options = SceneOptions()
    for draw in (sample_sensor, sample_environment):
        values = [[draw(np.random.default_rng(seed), options) for seed in range(40)] for _ in range(2)]
        assert values[0] == values[1]
        assert len({repr(value) for value in values[0]}) == 40
    sensors = [sample_sensor(np.random.default_rng(seed), options) for seed in range(300)]
    assert all(sensor.jpeg_quality == 0 or 20 <= sensor.jpeg_quality <= 100 for sensor in sensors)
    assert 0.1 < np.mean([sensor.defocus_px > 0 for sensor in sensors]) < 0.4
    looks = [sample_appearance(np.random.default_rng(seed), ADULT) for seed in range(40)]
    assert looks == [sample_appearance(np.random.default_rng(seed), ADULT) for seed in range(40)]
    assert all(not look.worn for look in looks)
    places = [sample_environment(np.random.default_rng(seed), options) for seed in range(100)]
    for place in places:
        assert place.backdrop.photograph is None
        assert place.ground is not None
        for lamp in place.lights:
            assert np.linalg.norm(lamp.direction) == pytest.approx(1.0)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    (tmp_path / "indoor").mkdir()
    (tmp_path / "textures").mkdir()
    cv2.imwrite(str(tmp_path / "indoor" / "room.png"), make_image(100, 160)[..., ::-1])
    cv2.imwrite(str(tmp_path / "textures" / "cloth.jpg"), make_image(50, 50))
    return tmp_path


def test_photographs_are_found_cropped_and_flipped(photographs: Path) -> None:
    assert [path.name for path in list_background_images(photographs, without="textures")] == ["room.png"]
    assert [path.name for path in list_background_images(photographs)] == ["room.png", "cloth.jpg"]
    options = SceneOptions(backgrounds=photographs)
    used = {sample_environment(np.random.default_rng(seed), options).backdrop.photograph for seed in range(20)}
    assert used == {None, photographs / "indoor" / "room.png"}
    path = photographs / "indoor" / "room.png"

    def unused() -> np.ndarray:
        raise AssertionError("a photograph behind the people needs no rays")

    plain = render_backdrop(Backdrop(0, "sky", path, attached="camera"), 160, 100, unused)
    np.testing.assert_allclose(plain, light(make_image(100, 160)), atol=1e-6)
    flipped = render_backdrop(Backdrop(0, "sky", path, attached="camera", flip=True), 160, 100, unused)
    np.testing.assert_array_equal(flipped, plain[:, ::-1])
    cropped = render_backdrop(Backdrop(0, "sky", path, attached="camera", crop=(0.5, 0.0, 1.0, 0.5)), 80, 50, unused)
    np.testing.assert_array_equal(cropped, plain[:50, 80:])


@pytest.mark.parametrize("moving", [False, True])
def test_steep_cameras_that_move_see_ground_instead_of_mirrored_photographs(photographs: Path, moving: bool) -> None:
    options = SceneOptions(backgrounds=photographs, moving_camera=moving, people=(1, 1), duration_s=0.1)
    shown, steep = [], []  # of the scenes with a photograph
    for seed in range(60):
        scene = sample_scene(np.random.default_rng(seed), options)
        if scene.environment.backdrop.photograph is not None:
            half_fov = np.arctan2(scene.camera.height / 2, scene.camera.k[1, 1])
            steep.append(scene.camera.path.pitch_rad + half_fov > np.radians(60))
            shown.append(scene.environment.ground is not None)
    assert 5 < sum(steep) < len(steep) - 5
    assert {is_shown for is_shown, is_steep in zip(shown, steep, strict=True) if not is_steep} == {False, True}
    assert {is_shown for is_shown, is_steep in zip(shown, steep, strict=True) if is_steep} == {moving, True}


def test_many_large_photographs_do_not_stay_in_memory(tmp_path: Path) -> None:
    size = 1000 * 1000 * 3
    tracemalloc.start()
    try:
        for number in range(8):
            path = tmp_path / f"{number}.png"
            path.write_bytes(cv2.imencode(".png", np.full((1000, 1000, 3), number, np.uint8))[1].tobytes())
            render_backdrop(Backdrop(0, "sky", path, attached="camera"), 32, 24, lambda: np.zeros((24, 32, 3)))
        assert tracemalloc.get_traced_memory()[0] < 3 * size
    finally:
        tracemalloc.stop()


def test_a_panorama_wider_than_opencv_can_map_is_scaled_down(tmp_path: Path) -> None:
    path = tmp_path / "panorama.png"
    path.write_bytes(cv2.imencode(".png", np.full((8, 40_000, 3), 90, np.uint8))[1].tobytes())
    rays = np.zeros((3, 4, 3), np.float32)
    rays[..., 0] = 1.0
    image = render_backdrop(Backdrop(0, "sky", path), 4, 3, lambda: rays)
    np.testing.assert_allclose(image, light(np.full((3, 4, 3), 90, np.uint8)), atol=1e-6)


def write_png_header(path: Path, width: int, height: int) -> None:
    """Write a PNG file of this size (px) with incomplete pixels."""
    chunks = {b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT": zlib.compress(bytes(100))}
    data = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks.items()
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def test_a_photograph_beyond_the_limit_of_opencv_is_refused(tmp_path: Path) -> None:
    write_png_header(tmp_path / "huge.png", 40_000, 40_000)
    with pytest.raises(UserError, match=r"huge.png has more than 2\^30 pixels; scale it down"):
        load_image(tmp_path / "huge.png")


def test_textures_become_coarser_and_keep_their_mean(photographs: Path) -> None:
    levels = load_texture_levels(photographs / "textures" / "cloth.jpg")
    assert levels.shape == (6, 256, 256, 3)
    roughness = [float(np.abs(np.diff(level, axis=1)).mean()) for level in levels]
    assert roughness == sorted(roughness, reverse=True)
    np.testing.assert_allclose(
        levels.mean(axis=(1, 2)), np.broadcast_to(levels[0].mean(axis=(0, 1)), (6, 3)), rtol=0.02
    )


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_damaged_photographs_are_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_image(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected images"):
        list_background_images(tmp_path)
