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

"""The results of `make demo`: a table, a summary and a video of the recording."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from multihmr2_ros.bags.humans import people_from_human_array
from multihmr2_ros.bags.reading import BagReader
from multihmr2_ros.errors import UserError
from multihmr2_ros.media.overlay import draw_people
from multihmr2_ros.media.video import VideoWriter, fit_image
from multihmr2_ros.messages.images import compressed_image_from_ros
from multihmr2_ros.people import People

NODE = "/perception_node"
ROWS = 16  # of the table
IDENTITIES = 6  # listed in the summary
CAPTION_PX = 28
WHITE = (255, 255, 255)


@dataclass
class Recording:
    """The recorded messages.

    images   stamp (ns) → JPEG message
    answers  (index of the image, HumanArray), in order
    faces    (F, 3) triangles of the mesh
    """

    images: dict[int, Any]
    answers: list[tuple[int, Any]]
    faces: NDArray[np.int64]


def read_recording(path: Path, image_topic: str, node: str) -> Recording:
    """Read a recorded bag. Raises UserError if no message of the node belongs to an image."""
    images: dict[int, Any] = {}
    humans: list[Any] = []
    faces = np.zeros((0, 3), np.int64)
    with BagReader(path) as bag:
        for message in bag.messages([image_topic, "/humans", f"{node}/body_model"]):
            decoded = bag.decode(message)
            if message.topic == image_topic:
                images[stamp_ns(decoded)] = decoded
            elif message.topic == "/humans":
                humans.append(decoded)
            else:
                faces = np.asarray(decoded.faces, np.int64).reshape(-1, 3)
    index = {stamp: number for number, stamp in enumerate(sorted(images))}
    # The node's last message, an empty one when it ends, belongs to no image.
    answers = [(index[stamp_ns(each)], each) for each in humans if stamp_ns(each) in index]
    if not answers:
        raise UserError(
            f"expected messages of the node for {len(images)} images, got none; see {path.parent / 'node.log'}"
        )
    return Recording(images, answers, faces)


def print_table(recording: Recording) -> None:
    """Print ROWS of the answers, evenly spaced, with at most four people each, the nearest first."""
    answers = recording.answers
    chosen = np.unique(np.linspace(0, len(answers) - 1, ROWS).round().astype(int))
    print(f"\n{'frame':>5}  {'latency':>8}  people: #identity distance")
    for row in chosen:
        frame, message = answers[row]
        found = sorted((distance_m(human), human.track_id) for human in message.humans)
        people = "  ".join(f"#{identity} {distance:.1f} m" for distance, identity in found[:4])
        more = f"  and {len(found) - 4} more" if len(found) > 4 else ""
        print(f"{frame:5d}  {message.total_latency * 1e3:5.0f} ms  {people or 'no people'}{more}")
    print(f"({len(chosen)} of {len(answers)} rows)\n")


def print_summary(recording: Recording, played: int, bag: Path) -> None:
    """Print identities, counts of images, and latency. bag: with the played images."""
    answers = recording.answers
    seen = Counter(human.track_id for _, message in answers for human in message.humans)
    longest = ", ".join(f"#{identity} in {count}" for identity, count in seen.most_common(IDENTITIES))
    if seen:
        print(f"{len(seen)} identities in {len(answers)} messages: {longest}{' …' if len(seen) > IDENTITIES else ''}")
    latencies_ms = np.array([message.total_latency for _, message in answers]) * 1e3
    p50, p95 = np.percentile(latencies_ms, [50, 95])
    dropped = max(message.dropped_frames for _, message in answers)
    lost = played - len(answers) - dropped
    print(
        f"{played} images played, {len(answers)} processed, {dropped} dropped by the node in favor of newer ones"
        + (f", {lost} lost before or after the node" if lost > 0 else "")
        + f"\nlatency, from an image's stamp to /humans: p50 {p50:.0f} ms, p95 {p95:.0f} ms"
    )
    if len(answers) < played:
        print(f"To process every image: . scripts/env.sh && multihmr2 run {shlex.quote(str(bag))} --out results")


def write_video(recording: Recording, path: Path) -> None:
    """Write a video of every image, next to the newest processed image with its people. Captions give both numbers.

    Images of another size than the first are scaled to fit.
    """
    stamps = sorted(recording.images)
    answers = dict(recording.answers)
    first = decode(recording, stamps[0])
    height, width = first.shape[:2]
    fps = (len(stamps) - 1) / max((stamps[-1] - stamps[0]) * 1e-9, 1e-3) if len(stamps) > 1 else 10.0
    right = captioned(first, "no people published yet")
    with VideoWriter(path, 2 * width, height + CAPTION_PX, fps) as video:
        for index, stamp in enumerate(stamps):
            image = decode(recording, stamp)
            if index in answers:
                people = people_from_human_array(answers[index], (image.shape[0], image.shape[1]))
                drawn = draw_people(image, drawable(people), recording.faces)
                right = captioned(fit_image(drawn, height, width), f"frame {index}: /humans")
            left = captioned(fit_image(image, height, width), f"frame {index}: camera")
            video.write(np.hstack([left, right]), stamp * 1e-9)


def drawable(people: People) -> People:
    """Return the people whose positions are finite."""
    return people.select(np.isfinite(people.pelvis).all(axis=1))


def captioned(image: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    """Return the image (H, W, 3) with a line of text below it."""
    strip = np.zeros((CAPTION_PX, image.shape[1], 3), np.uint8)
    cv2.putText(strip, text, (8, CAPTION_PX - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.5, WHITE, 1, cv2.LINE_AA)
    return np.vstack([image, strip])


def decode(recording: Recording, stamp: int) -> NDArray[np.uint8]:
    """Decode the image of a stamp (ns) to (H, W, 3) RGB."""
    return compressed_image_from_ros(recording.images[stamp])


def distance_m(human: Any) -> float:
    position = human.pelvis.pose.position
    return float(np.linalg.norm([position.x, position.y, position.z]))


def stamp_ns(message: Any) -> int:
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)
