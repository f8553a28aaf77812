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

"""Every parser of outside data on a few hundred damaged inputs, and the faults found earlier.

`python -m test.fuzz` runs any number of inputs.
"""

from __future__ import annotations

import dataclasses
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS is not in this shell: source scripts/env.sh")
pytest.importorskip("multihmr2_ros.msg", reason="our messages are not built: make setup")

from multihmr2_ros.bags.frames import BagSource
from multihmr2_ros.bags.humans import people_from_human_array
from multihmr2_ros.bags.reading import BagReader
from multihmr2_ros.errors import UserError
from multihmr2_ros.messages.calibration import intrinsics_from_info
from multihmr2_ros.messages.images import MAX_PIXELS, MAX_SCANS, compressed_image_from_ros, image_from_ros
from multihmr2_ros.network import checkpoint
from multihmr2_ros.network.config import NetworkConfig
from test.fuzz import fuzzing as fuzz
from test.fuzz.files import Garments
from test.fuzz.messages import RecordedPeople
from test.fuzz.mutations import damaged_value
from test.helpers.bag_factory import START_NS, camera_info, camera_messages, make, make_image, raw_image, write_bag

INPUTS = 200


@pytest.mark.parametrize("name", sorted(fuzz.PARSERS))
def test_damaged_inputs_are_read_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    target = fuzz.load(name, tmp_path)
    outcomes = [fuzz.outcome(target, fuzz.input_of(target, 0, index)) for index in range(INPUTS)]
    assert not {outcome: outcomes.index(outcome) for outcome in outcomes if outcome not in ("", "refused")}
    # Errors in a camera_info do not stop estimation; of metadata.yaml only the file names are used.
    if name not in ("camera_info", "metadata"):
        assert "refused" in outcomes


def test_the_fuzzer_finds_what_it_looks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "HANGS_S", 1.0)
    report = fuzz.fuzz("harmful.Harmful", 40, seed=828)  # a crash, then a hang, then all the others
    assert report.inputs == 40
    assert report.refused > 0
    found = " | ".join(report.findings)
    for words in (
        "KeyError in harmful.py:parse",
        "UserError that says nothing",
        "the process ends with -6",
        "hangs",
    ):
        assert words in found


def test_messages_without_fields_stay_as_they_are() -> None:
    @dataclasses.dataclass
    class Empty:
        pass

    assert damaged_value(random.Random(0), Empty()) == Empty()


def test_the_fuzzer_finds_crashes_after_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "HANGS_S", 1.0)
    found = list(fuzz.fuzz("harmful.Harmful", 40, seed=223).findings)  # a hang, then a crash, then sys.exit
    assert found.index("hangs") < found.index("the process ends with -6") < found.index("the process ends with 0")


# --- faults found earlier


def make_png(width: int, height: int) -> bytes:
    """Return a complete PNG of a few bytes whose header states this size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


def make_jpeg(width: int, height: int, **options: int) -> bytes:
    """Return a JPEG of 16 × 16 px whose header states another size."""
    settings = [value for name, number in options.items() for value in (getattr(cv2, name), number)]
    content = bytearray(cv2.imencode(".jpg", make_image(0, 16, 16), settings)[1].tobytes())
    frame = next(
        place for place in range(len(content)) if content[place] == 0xFF and content[place + 1] in (0xC0, 0xC2)
    )
    content[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def make_compressed_image(data: bytes) -> Any:
    return make("sensor_msgs/msg/CompressedImage", header=None, format="", data=np.frombuffer(data, np.uint8))


@pytest.mark.parametrize("data", [make_png(30_000, 30_000), make_png(2**31 - 1, 2**31 - 1), make_jpeg(65_500, 65_500)])
def test_compressed_images_that_claim_to_be_huge_are_refused_unread(data: bytes) -> None:
    before_mib = fuzz.most_mib()
    with pytest.raises(UserError, match=f"an image may have at most {MAX_PIXELS} pixels, got"):
        compressed_image_from_ros(make_compressed_image(data))
    assert fuzz.most_mib() - before_mib < 50
    assert len(data) < 2000


def test_a_png_chunk_that_claims_gigabytes_takes_no_memory() -> None:
    whole = make_png(16, 16)
    place = whole.index(b"IDAT") - 4
    before_mib = fuzz.most_mib()
    with pytest.raises(UserError, match="cannot be decoded"):
        compressed_image_from_ros(
            make_compressed_image(whole[:place] + struct.pack(">I", 2**31 - 1) + whole[place + 4 :])
        )
    assert fuzz.most_mib() - before_mib < 50


def test_raw_images_that_are_huge_are_refused() -> None:
    message = raw_image(make_image(0), "mono8", START_NS)
    message.width = message.step = 2**20
    message.height, message.data = 2**10, np.zeros(2**30, np.uint8)  # not written to: takes no memory
    with pytest.raises(UserError, match="an image may have at most"):
        image_from_ros(message)


def test_jpegs_of_endlessly_many_scans_are_refused() -> None:
    whole = make_jpeg(16, 16, IMWRITE_JPEG_PROGRESSIVE=1)
    assert compressed_image_from_ros(make_compressed_image(whole)).shape == (16, 16, 3)
    last = whole.rindex(b"\xff\xda")
    assert 2 < whole.count(b"\xff\xda") < MAX_SCANS / 2
    with pytest.raises(UserError, match="cannot be decoded"):
        compressed_image_from_ros(make_compressed_image(whole[:-2] + whole[last:-2] * 100 + whole[-2:]))


@pytest.mark.parametrize(("model", "count"), [("plumb_bob", 5), ("rational_polynomial", 8), ("equidistant", 4)])
@pytest.mark.parametrize("coefficient", [1e308, -1e150, 1e7])
def test_lenses_that_overflow_are_ignored(model: str, count: int, coefficient: float) -> None:
    message = camera_info(START_NS, d=(coefficient,) * count)
    message.distortion_model = model
    given = intrinsics_from_info(message, make_image(0), rectified=False)
    assert given.k is not None
    assert given.lens is None
    assert "distortion coefficients must be" in given.problem
    assert "K is used without distortion" in given.problem


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_sizes_are_read_from_every_header(suffix: str) -> None:
    from multihmr2_ros.messages.images import read_stated_size

    rng = np.random.default_rng(0)
    for width, height in [(1, 1), (7, 300), (640, 480), (1921, 3)]:
        for options in ([], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 1]):
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            data = cv2.imencode(f".{suffix}", pixels, options if suffix == "jpg" else [])[1].tobytes()
            assert read_stated_size(data) == (width, height)
            assert compressed_image_from_ros(make_compressed_image(data)).shape == (height, width, 3)
    assert read_stated_size(data[:20]) is None


@pytest.mark.parametrize("name", ["x'ff00'", "'/a' || char(10) || 'b'"])
def test_a_bag_whose_topics_have_no_names(tmp_path: Path, name: str) -> None:
    import sqlite3

    path = write_bag(tmp_path / "bag.db3", camera_messages(2))
    with sqlite3.connect(path) as database:
        database.execute(f"UPDATE topics SET name = {name}")
    database.close()
    with pytest.raises(UserError, match="cannot read the bag"):
        BagSource(path)


@pytest.mark.parametrize("text", ["[" * 5000, "a: " + "{b: " * 2000])
def test_deeply_nested_metadata_is_skipped(tmp_path: Path, text: str) -> None:
    path = write_bag(tmp_path / "bag", camera_messages(2))
    (path / "metadata.yaml").write_text(text)
    with BagReader(path) as bag:
        assert "/camera/image_raw" in bag.topics
        assert bag.damage


@pytest.mark.parametrize("line", ["message_count: 4", "nanoseconds: 300001000"])
@pytest.mark.parametrize("number", ["four", "[]", "1e3", "1" * 400])
def test_metadata_with_invalid_numbers_is_skipped(tmp_path: Path, line: str, number: str) -> None:
    path = write_bag(tmp_path / "bag", camera_messages(4))
    text = (path / "metadata.yaml").read_text()
    assert line in text
    (path / "metadata.yaml").write_text(text.replace(line, f"{line.partition(' ')[0]} {number}"))
    with BagSource(path) as source:
        assert (source.frame_count, len(list(source))) == (4, 4)
        assert not source.damage  # the counts are read from the files


@pytest.mark.parametrize(
    "values",
    [
        {"encoder_depth": 10**9},
        {"max_grid": 10**5},
        {"decoder_width": 2**20},
        {"queries": 10**9},
        {"stem_widths": [8] * 9, "stem_depths": [0] * 9},
        {"stem_widths": [8] * 4, "stem_depths": [10**9] * 4},
        {"a\nb": 1},
    ],
)
def test_networks_that_are_too_large_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        NetworkConfig.from_dict(values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\x80\x02X\x05", b"\x80\x02}q\x00(K", b"\x80\x02\x8a\xff"])
def test_pickles_that_end_within_an_instruction(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(UserError, match="not a complete PyTorch file"):
        checkpoint.load_network(tmp_path / "a.pt")


def test_a_garment_whose_file_name_no_system_takes(tmp_path: Path) -> None:
    garments = Garments(tmp_path)
    mhclo = garments.MHCLO.replace("patch.obj", "a\0b.obj").encode()
    with pytest.raises(UserError, match=r"must have an \.obj file"):
        garments.parse(len(mhclo).to_bytes(4, "little") + mhclo + garments.OBJ.encode())


def test_safetensors_whose_error_has_several_lines(tmp_path: Path) -> None:
    header = b'{"a\\nb": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}'
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(UserError, match="not a complete safetensors file") as caught:
        checkpoint.load_network(tmp_path / "a.safetensors")
    assert "\n" not in str(caught.value)


def test_zip_files_that_claim_to_span_several_disks(tmp_path: Path) -> None:
    end = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 2) + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0, 0, 0, 0, 0)
    (tmp_path / "a.pt").write_bytes(end)
    with pytest.raises(UserError, match="not a complete PyTorch file"):
        checkpoint.load_network(tmp_path / "a.pt")


@pytest.mark.parametrize("change", ["intrinsics_source", "joints", "joints_2d", "vertices"])
def test_recorded_people_whose_fields_do_not_fit(tmp_path: Path, change: str) -> None:
    message = RecordedPeople(tmp_path).seeds[2]
    if change == "intrinsics_source":
        message.intrinsics_source = 9
    else:
        setattr(message.humans[0], change, getattr(message.humans[0], change)[:-1])
    with pytest.raises(UserError, match="fields of a HumanArray do not fit"):
        people_from_human_array(message, (480, 640))


def test_a_message_that_quotes_what_it_was_given_stays_one_line() -> None:
    """MOT17's seqinfo.ini named a folder of two lines; a name may also contain terminal control characters."""
    assert str(UserError("no image in img1\n\x9cameRate=100; see \x1b[2J, or Bühne")) == (
        "no image in img1??ameRate=100; see ?[2J, or Bühne"
    )
