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

"""REP-155 (ROS4HRI): ids of tracked bodies on /humans/bodies/tracked, and topics of each body in /humans/bodies/<id>.

The TF frame of a body must be named body_<id>, and the id must start with a letter to be valid in the name of a ROS 2
topic. If the node's own frames do not have this form (body_7), they are also broadcast with such a name (body_b7),
while /humans/bodies/tracked has subscribers.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from tf2_msgs.msg import TFMessage

from multihmr2_ros.camera import project
from multihmr2_ros.messages.content import HeaderContent
from multihmr2_ros.messages.human_array import compute_boxes, make_body_frames
from multihmr2_ros.people import People
from multihmr2_ros.ros.conversions import header_to_ros, image_to_ros, people_to_transforms
from multihmr2_ros.ros.qos import LATCHED, RELIABLE, SILENT_PUBLISHER, TF, is_wanted
from multihmr2_ros.ros.target_frame import CameraFrame, PlacedPeople

NAMESPACE = "/humans/bodies"
TRACKED = f"{NAMESPACE}/tracked"
REP155_PREFIX = "body_"
KEEP_TOPICS_S = 2.0  # for topics of lost bodies, because tracks are often recovered
MAX_BODIES = 32  # maximum number of bodies with topics

# hri_msgs/Skeleton2D
POINT_COUNT = 18
NECK, RIGHT_SHOULDER, LEFT_SHOULDER = 1, 2, 5

# Point of Skeleton2D → bone whose head is used, within 3.5 cm of the COCO keypoint of the same name.
BONES = {
    RIGHT_SHOULDER: "upperarm01.R", 3: "lowerarm01.R", 4: "wrist.R",
    LEFT_SHOULDER: "upperarm01.L", 6: "lowerarm01.L", 7: "wrist.L",
    8: "upperleg01.R", 9: "lowerleg01.R", 10: "foot.R",
    11: "upperleg01.L", 12: "lowerleg01.L", 13: "foot.L",
}  # fmt: skip
HEAD = "head"

# Nose, left and right eye, left and right ear: their points of Skeleton2D, and for each mesh (number of vertices) the
# vertex nearest to the COCO keypoint (within 2 cm, at every age).
FACE = (0, 14, 15, 16, 17)
FACE_VERTICES = {615: (9, 369, 66, 587, 292), 19158: (201, 7774, 1082, 12131, 5532)}


@dataclass
class BodyPublishers:
    """The publishers of one body."""

    roi: Any
    skeleton: Any
    cropped: Any
    seen_s: float = 0.0

    @property
    def publishers(self) -> tuple[Any, ...]:
        return self.roi, self.skeleton, self.cropped


class BodiesOutput:
    """The publishers of REP-155. messages: classes of hri_msgs; clock: returns monotonic time in s."""

    def __init__(self, node: Any, messages: Any, body_prefix: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._node = node
        self._messages = messages
        self._prefix = make_rep155_prefix(body_prefix)
        self._clock = clock
        self._bodies: dict[str, BodyPublishers] = {}  # by id
        self._published_ids: list[str] | None = None  # the ids of the last list
        self.tracked = node.create_publisher(messages.IdsList, TRACKED, LATCHED)
        has_own_frames = self._prefix != body_prefix
        self._transforms = node.create_publisher(TFMessage, "/tf", TF) if has_own_frames else None

    def publish(
        self, frame: CameraFrame, people: People, placed: PlacedPeople | None, bone_labels: Sequence[str]
    ) -> None:
        """Publish the messages about one image: first TF frames, then each body, then the list of ids.

        frame        of the image
        people       in the camera's frame
        placed       the same people in the frame of the messages; None if the transform is unknown
        bone_labels  of people.joints

        While /humans/bodies/tracked has no subscribers, only changes of the list are published, for later subscribers.
        """
        rows, names = select_tracked_rows(people), make_body_frames(people, self._prefix)
        ids = [names[row].removeprefix(REP155_PREFIX) for row in rows.tolist()]
        if is_wanted(self.tracked):
            people = people.select(rows)
            if self._transforms is not None and placed is not None:
                bodies = placed.people.select(rows)
                self._transforms.publish(people_to_transforms(bodies, placed.header, self._prefix))
            self._update_bodies(ids)
            self._publish_bodies(ids, frame, people, bone_labels)
            self._publish_ids(ids, frame.header)
        else:
            self._update_bodies([])
            if ids != self._published_ids:
                self._publish_ids(ids, frame.header)

    def publish_empty(self, header: HeaderContent) -> None:
        self._publish_ids([], header)
        self._remove_bodies(list(self._bodies))

    def destroy(self) -> None:
        self._remove_bodies(list(self._bodies))
        for publisher in (self.tracked, self._transforms):
            if publisher is not None:
                self._node.destroy_publisher(publisher)

    def _publish_ids(self, ids: list[str], header: HeaderContent) -> None:
        self._published_ids = ids
        self.tracked.publish(self._messages.IdsList(header=header_to_ros(header), ids=ids))

    def _publish_bodies(self, ids: list[str], frame: CameraFrame, people: People, bone_labels: Sequence[str]) -> None:
        bodies = [self._bodies[body_id] for body_id in ids]
        header, skeletons = frame.header, None
        box = compute_boxes(people.joints_2d, people.image_size)
        for row, body in enumerate(bodies):
            x, y, height, width = box[row].tolist()
            if width and height and is_wanted(body.roi):
                body.roi.publish(roi_to_ros(box[row], people.image_size, people.score[row], header, self._messages))
            if width and height and is_wanted(body.cropped):
                body.cropped.publish(image_to_ros(frame.image[y : y + height, x : x + width], header))
            if is_wanted(body.skeleton):
                skeletons = compute_skeletons_2d(people, bone_labels) if skeletons is None else skeletons
                body.skeleton.publish(skeleton_to_ros(skeletons[row], header, self._messages))

    def _update_bodies(self, ids: list[str]) -> None:
        """Create and remove topics, so that at most MAX_BODIES have topics: these bodies, and recently lost ones."""
        now_s = self._clock()
        gone = sorted(set(self._bodies) - set(ids), key=lambda body_id: self._bodies[body_id].seen_s)
        lately = [body_id for body_id in gone if now_s - self._bodies[body_id].seen_s < KEEP_TOPICS_S]
        too_many = max(len(ids) + len(lately) - MAX_BODIES, 0)
        self._remove_bodies(sorted(set(gone) - set(lately[too_many:])))
        for body_id in ids:
            if body_id not in self._bodies:
                self._bodies[body_id] = self._make_body_publishers(body_id)
            self._bodies[body_id].seen_s = now_s

    def _make_body_publishers(self, body_id: str) -> BodyPublishers:
        kinds = (
            (self._messages.NormalizedRegionOfInterest2D, "roi"),
            (self._messages.Skeleton2D, "skeleton2d"),
            (Image, "cropped"),
        )
        # Without event callbacks, so that the executor is not affected when these publishers are created and destroyed.
        return BodyPublishers(
            *[
                self._node.create_publisher(
                    kind, f"{NAMESPACE}/{body_id}/{name}", RELIABLE, event_callbacks=SILENT_PUBLISHER
                )
                for kind, name in kinds
            ]
        )

    def _remove_bodies(self, ids: Sequence[str]) -> None:
        for body_id in ids:
            for publisher in self._bodies.pop(body_id).publishers:
                self._node.destroy_publisher(publisher)


def make_rep155_prefix(body_prefix: str) -> str:
    """Return a prefix of frame names: "body_" and the beginning of the id, which starts with a letter."""
    stem = body_prefix.removeprefix(REP155_PREFIX)
    return f"{REP155_PREFIX}{stem}" if stem[:1].isalpha() else f"{REP155_PREFIX}b{stem}"


def select_tracked_rows(people: People) -> NDArray[np.int64]:
    """Return the rows of the people with a TF frame, at most MAX_BODIES, in descending order of score."""
    has_frame = np.array([bool(name) for name in make_body_frames(people, REP155_PREFIX)], bool)
    return np.flatnonzero(has_frame & np.isfinite(people.pelvis).all(axis=1))[:MAX_BODIES]


def roi_to_ros(
    box: NDArray[np.int64], image_size: tuple[int, int], score: float, header: HeaderContent, messages: Any
) -> Any:
    """Convert a box (4,) to hri_msgs/NormalizedRegionOfInterest2D.

    box         x, y, height, width px
    image_size  (height, width) px
    score       confidence of the region
    header      of the message
    messages    the classes of hri_msgs
    """
    x, y, height, width = box.tolist()
    image_height, image_width = image_size
    return messages.NormalizedRegionOfInterest2D(
        header=header_to_ros(header),
        xmin=x / image_width,
        ymin=y / image_height,
        xmax=(x + width) / image_width,
        ymax=(y + height) / image_height,
        c=float(score),
    )


def skeleton_to_ros(points: NDArray[np.float64], header: HeaderContent, messages: Any) -> Any:
    """Convert points (18, 3), x, y, confidence in [0, 1], to hri_msgs/Skeleton2D."""
    point = messages.NormalizedPointOfInterest2D
    return messages.Skeleton2D(
        header=header_to_ros(header), skeleton=[point(x=x, y=y, c=c) for x, y, c in points.tolist()]
    )


def compute_skeletons_2d(people: People, bone_labels: Sequence[str]) -> NDArray[np.float64]:
    """Return (n, 18, 3): x and y as fractions of the image's width and height, and the confidence, each in [0, 1].

    The confidence is the person's score; it is 0 for points outside the image and unknown points. The neck is the
    middle of the shoulders, as in OpenPose. bone_labels: of people.joints.
    """
    rows = _find_rows(tuple(bone_labels))
    points = np.full((len(people), POINT_COUNT, 2), np.nan)
    points[:, list(BONES)] = people.joints_2d[:, [rows[label] for label in BONES.values()]]
    points[:, NECK] = points[:, [RIGHT_SHOULDER, LEFT_SHOULDER]].mean(axis=1)
    points[:, FACE] = _project_faces(people, rows[HEAD])
    points /= people.image_size[::-1]
    is_inside = np.all((points >= 0) & (points <= 1), axis=2)  # false for NaN
    confidence = np.where(is_inside, people.score[:, None], 0.0)
    return np.dstack([np.nan_to_num(points).clip(0.0, 1.0), confidence])


def _project_faces(people: People, head: int) -> NDArray[np.float64]:
    """Return the face points (n, 5, 2) px of the source image; NaN without a mesh or for an unknown mesh."""
    vertices = FACE_VERTICES.get(people.vertices.shape[1])
    if vertices is None:
        return np.full((len(people), len(FACE), 2), np.nan)
    # joints_2d are distorted by the lens; the distortion at the head is applied to the whole face.
    distortion = people.joints_2d[:, [head]] - project(people.joints[:, [head]], people.k)
    return np.asarray(project(people.vertices[:, vertices], people.k) + distortion, np.float64)


@functools.lru_cache(maxsize=2)
def _find_rows(bone_labels: tuple[str, ...]) -> dict[str, int]:
    return {label: row for row, label in enumerate(bone_labels)}
