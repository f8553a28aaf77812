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

"""Reading of image files of every kind as RGB arrays."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from multihmr2_ros.errors import UserError
from multihmr2_ros.media.images import MAX_PIXELS, read_image

RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GRAY = COLORS[:, :, 0]
ALPHA = RNG.integers(0, 256, (6, 9), dtype=np.uint8)


def make_smooth_image() -> np.ndarray:
    """Return a smooth image (48, 64, 3) uint8, which JPEG preserves well."""
    rows, columns = np.mgrid[0:48, 0:64]
    return np.stack([4 * columns, 5 * rows, 255 - 2 * columns - rows], axis=2).astype(np.uint8)


def blend_over_black(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.round(rgb * (alpha[:, :, None] / 255.0)).astype(int)


def compute_difference(image: np.ndarray, expected: np.ndarray) -> int:
    assert image.dtype == np.uint8
    assert image.shape == expected.shape
    return int(np.abs(image.astype(int) - expected.astype(int)).max())


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff", "PNG"])
def test_lossless_formats_keep_every_value(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(COLORS).save(path)
    image = read_image(path)
    np.testing.assert_array_equal(image, COLORS)
    assert image.flags.writeable
    assert image.flags.c_contiguous


@pytest.mark.parametrize(("suffix", "options"), [("jpg", {"quality": 97, "subsampling": 0}), ("webp", {"quality": 97})])
def test_lossy_formats_keep_colors(tmp_path, suffix, options):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(make_smooth_image()).save(path, **options)
    assert compute_difference(read_image(path), make_smooth_image()) <= 8


def test_lossless_webp_with_alpha_is_laid_over_black(tmp_path):
    path = tmp_path / "image.webp"
    Image.fromarray(np.dstack([COLORS, ALPHA]), "RGBA").save(path, lossless=True, exact=True)
    assert compute_difference(read_image(path), blend_over_black(COLORS, ALPHA)) <= 1


@pytest.mark.parametrize(
    ("original", "expected"),
    [
        (Image.fromarray(GRAY), np.repeat(GRAY[:, :, None], 3, axis=2)),
        # Palette; 54 colors fit, so nothing is lost.
        (Image.fromarray(COLORS).quantize(256, method=Image.Quantize.FASTOCTREE), None),
        (Image.fromarray(GRAY > 127), np.repeat(255 * (GRAY > 127)[:, :, None], 3, axis=2)),
        (Image.fromarray(np.dstack([COLORS, ALPHA]), "RGBA"), blend_over_black(COLORS, ALPHA)),
        (
            Image.fromarray(np.dstack([GRAY, ALPHA]), "LA"),
            blend_over_black(np.repeat(GRAY[:, :, None], 3, axis=2), ALPHA),
        ),
    ],
    ids=["grey", "palette", "one bit", "RGBA", "grey with alpha"],
)
def test_png_modes(tmp_path, original, expected):
    path = tmp_path / "image.png"
    original.save(path)
    if expected is None:
        expected = np.array(original.getpalette()).reshape(-1, 3)[np.asarray(original)]
    assert compute_difference(read_image(path), expected) <= 1


@pytest.mark.parametrize("mode", ["P", "RGB", "L"])
def test_a_transparent_color_becomes_black(tmp_path, mode):
    """PNG can mark one color as transparent instead of having an alpha channel."""
    path = tmp_path / "image.png"
    original = Image.new("RGB", (4, 3), (200, 200, 200))
    original.putpixel((1, 1), (30, 30, 30))
    original = original.quantize(2) if mode == "P" else original.convert(mode)
    original.save(path, transparency=original.getpixel((0, 0)))
    expected = np.zeros((3, 4, 3))
    expected[1, 1] = 30
    assert compute_difference(read_image(path), expected) <= 1


def make_png_16_bit(values: np.ndarray) -> bytes:
    """Return a 16-bit PNG of values (H, W, channels) uint16, assembled from the format's chunks."""
    height, width, channels = values.shape
    color_type = {1: 0, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(make_png_chunk(kind, content) for kind, content in chunks)


def make_png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_16_bit_gray_is_divided_by_257_and_rounded(tmp_path):
    values = np.array([0, 127, 128, 129, 257, 32768, 65406, 65407, 65535], np.uint16)
    (tmp_path / "depth.png").write_bytes(make_png_16_bit(values[None, :, None]))
    image = read_image(tmp_path / "depth.png")
    np.testing.assert_array_equal(image[0, :, 0], np.round(values / 257.0))
    assert (image == image[:, :, :1]).all()


def test_16_bit_gray_tiff(tmp_path):
    values = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "depth.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "depth.tif")[:, :, 1], np.round(values / 257.0))


@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_color_is_within_one_level(tmp_path, channels):
    values = RNG.integers(0, 65536, (8, 9, channels), dtype=np.uint16)
    values[:, :, 3:] = 65535
    (tmp_path / "image.png").write_bytes(make_png_16_bit(values))
    assert compute_difference(read_image(tmp_path / "image.png"), np.round(values[:, :, :3] / 257.0)) <= 1


def test_values_that_are_no_colors_are_refused(tmp_path):
    Image.fromarray(np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match="floating-point"):
        read_image(tmp_path / "float.tif")
    Image.fromarray(np.full((3, 4), 70_000, np.int32)).save(tmp_path / "wide.tif")
    with pytest.raises(UserError, match="outside 0-65535"):
        read_image(tmp_path / "wide.tif")


def test_cmyk_jpeg(tmp_path):
    path = tmp_path / "print.jpg"
    Image.fromarray(make_smooth_image()).convert("CMYK").save(path, quality=97, subsampling=0)
    with Image.open(path) as stored:
        assert stored.mode == "CMYK"
    assert compute_difference(read_image(path), make_smooth_image()) <= 8


# Rotation that makes the stored image upright (EXIF 2.32, tag 0x0112).
ORIENTATIONS = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: np.rot90(image, 1),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "phone.jpg"
    Image.fromarray(make_smooth_image()).save(path, quality=97, subsampling=0, exif=exif)
    assert compute_difference(read_image(path), ORIENTATIONS[orientation](make_smooth_image())) <= 8


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation_of_uncompressed_tiff_files(tmp_path, orientation, mode):
    image = Image.fromarray(GRAY.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(COLORS).convert(mode)
    assert image.mode == mode
    image.save(tmp_path / "plain.tif")
    image.save(tmp_path / "rotated.tif", tiffinfo={0x0112: orientation})
    expected = ORIENTATIONS[orientation](read_image(tmp_path / "plain.tif"))
    np.testing.assert_array_equal(read_image(tmp_path / "rotated.tif"), expected)


@pytest.mark.parametrize("size", [(1, 1), (20_000, 20), (20, 20_000)])
def test_extreme_shapes(tmp_path, size):
    path = tmp_path / "extreme.png"
    Image.new("RGB", size, (10, 20, 30)).save(path)
    image = read_image(path)
    assert image.shape == (size[1], size[0], 3)
    assert (image == (10, 20, 30)).all()


@pytest.mark.parametrize("side", [int(MAX_PIXELS**0.5) + 1, 50_000, 2**31 - 1])
def test_gigapixel_claims_are_refused_without_decoding(tmp_path, side):
    header = make_png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    content = (
        b"\x89PNG\r\n\x1a\n"
        + header
        + make_png_chunk(b"IDAT", zlib.compress(bytes(1000)))
        + make_png_chunk(b"IEND", b"")
    )
    (tmp_path / "bomb.png").write_bytes(content)
    assert_refused(tmp_path / "bomb.png", "pixels")


@pytest.mark.filterwarnings("error")
def test_large_images_give_no_warning(tmp_path, monkeypatch):
    """Pillow's warning limit is below the package's limit; accepted images are read without warnings."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    Image.new("RGB", (60, 50)).save(tmp_path / "large.png")
    assert read_image(tmp_path / "large.png").shape == (50, 60, 3)


def assert_refused(path, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_truncated_files_are_refused(tmp_path, suffix, kept):
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(RNG.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert_refused(path, "complete|not an image")


def test_other_unusable_files_are_refused(tmp_path):
    (tmp_path / "empty.png").touch()
    assert_refused(tmp_path / "empty.png", "empty")
    (tmp_path / "text.png").write_text("This is a shopping list.\n" * 20)
    assert_refused(tmp_path / "text.png", "not an image")
    (tmp_path / "header.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(200))
    assert_refused(tmp_path / "header.jpg", "not an image|complete")
    assert_refused(tmp_path / "missing.png", "No such file")
