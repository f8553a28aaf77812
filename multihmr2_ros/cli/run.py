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

"""`multihmr2 run`: estimates people in images, folders, videos and bags."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from multihmr2_ros.cli import options, result_files
from multihmr2_ros.cli.depth_maps import DepthMaps, add_depth_maps, open_depth_maps
from multihmr2_ros.errors import UserError, make_printable
from multihmr2_ros.weights import resolve_checkpoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from multihmr2_ros.estimator import Estimator, EstimatorConfig
    from multihmr2_ros.frame import Frame, IntrinsicsChoice
    from multihmr2_ros.media.rerun_output import RerunRecording, Viewer
    from multihmr2_ros.media.sources import FrameSource
    from multihmr2_ros.media.video import VideoClock, VideoWriter
    from multihmr2_ros.network.inference import Runtime
    from multihmr2_ros.people import People

HELP = "detect and track people in images, folders of images, videos and bags"
SAVE_CHOICES = ("params", "mesh", "overlay", "video", "rrd")
logger = logging.getLogger(__name__)

SEQUENCE_FPS = 30.0  # for a folder of images written as a video


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs", nargs="+", type=Path, metavar="INPUT",
        help="image, folder of images, video, or bag (rosbag2 folder, .mcap, .db3, .bag)",
    )  # fmt: skip
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for the results; created if missing (may be omitted with --view)",
    )
    result_files.add_overwrite(parser)
    parser.add_argument(
        "--save",
        metavar="KINDS",
        help="comma-separated results: params (npz), mesh (glb), overlay (png), video (mp4), rrd (recording for the "
        "Rerun viewer); default: params,overlay for images; params,video for videos and bags",
    )
    parser.add_argument(
        "--view", nargs="?", const="native", metavar="native|web[:PORT]",
        help="show people in 3D in the Rerun viewer during the run: in a window (default), or in a browser on this "
        "machine",
    )  # fmt: skip
    parser.add_argument("--topic", help="image topic of a bag, raw or compressed (default: the only image topic)")
    options.add_estimation(
        parser, mesh="full", mesh_help="mesh resolution: full (19158 vertices) or low (615 vertices)"
    )
    options.add_camera(parser)
    options.add_bag_cues(parser)
    add_depth_maps(parser)


def run(args: argparse.Namespace) -> int:
    chosen = _parse_save(args.save)
    view = _parse_view(args, chosen)
    writes = args.out is not None
    if not writes:
        chosen, args.out = (), Path()
    else:
        maps = [] if args.depth_maps is None else [args.depth_maps]
        result_files.refuse_input_folder(args.out, [*args.inputs, *maps])
    if args.depth_topic not in (None, "off") and (args.depth_maps is not None or args.depth_model is not None):
        raise UserError("expected --depth-topic TOPIC, --depth-maps or --depth-model, got two of them; omit one")
    resolve_checkpoint(args.checkpoint)  # report mistakes before PyTorch is imported
    intrinsics = options.make_intrinsics_choice(args)
    inputs, failed = [], False
    for path in args.inputs:
        with _ErrorReporter() as outcome:
            inputs.append((path, _open_source(path, args)))
        failed |= outcome.failed
    named = [(path, result_files.RunNames(source, _choose_kinds(source, chosen))) for path, source in inputs]
    result_files.refuse_shared_names(named)
    existing = [file for _, names in named for file in names.find_existing(args.out)]
    result_files.refuse_existing(existing, args.inputs, overwrite=args.overwrite)
    if not inputs:
        return 2
    runtime, config = options.make_runtime(args), options.make_estimator_config(args)
    if writes:  # the options are correct
        options.make_folder(args.out)
    depth_maps = open_depth_maps(args, runtime.device)
    with _open_viewer(view) as viewer:
        estimator = _load_estimator(args, runtime, config)
        for path, source in inputs:
            with _ErrorReporter() as outcome, source:
                _run_source(estimator, intrinsics, depth_maps, path, source, args.out, chosen, viewer)
            failed |= outcome.failed
        with _ErrorReporter() as outcome:
            if depth_maps is not None and depth_maps.missing:
                raise UserError(depth_maps.report())
        failed |= outcome.failed
        if viewer is not None and view is not None and view[0] == "web":
            print(f"the viewer runs at {viewer.address}; press Ctrl-C to stop it")
            viewer.wait()
    return 2 if failed else 0


def _choose_kinds(source: FrameSource, chosen: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the kinds of results of an input: the chosen ones, or its default."""
    return chosen if chosen is not None else (("params", "overlay") if source.fps is None else ("params", "video"))


def _open_source(path: Path, args: argparse.Namespace) -> FrameSource:
    from multihmr2_ros.bags.frames import BagSource
    from multihmr2_ros.bags.storage import is_bag
    from multihmr2_ros.media.sources import open_source

    if is_bag(path):
        return BagSource(path, args.topic, **options.make_bag_cues(args))
    if args.topic is not None:
        raise UserError(f"--topic is for bags, but {path} is not a bag; omit --topic")
    for name, value in options.make_bag_cues(args).items():
        if value:
            raise UserError(
                f"--{name.replace('_', '-')} is for bags, but {path} is not a bag; omit --{name.replace('_', '-')}"
            )
    return open_source(path)


def _load_estimator(args: argparse.Namespace, runtime: Runtime, config: EstimatorConfig) -> Estimator:
    from multihmr2_ros.estimator import Estimator

    return Estimator.load(args.checkpoint, args.device, config=config, runtime=runtime)


def _run_source(
    estimator: Estimator,
    intrinsics: IntrinsicsChoice,
    depth_maps: DepthMaps | None,
    path: Path,
    source: FrameSource,
    out: Path,
    chosen: tuple[str, ...] | None,
    viewer: Viewer | None = None,
) -> None:
    """Estimate people in every frame of one input, in order, write the results, and print a summary line.

    Raises UserError for a damaged input, after its results are written.
    """
    from multihmr2_ros.progress import make_progress_bar

    is_video, kinds = source.fps is not None, _choose_kinds(source, chosen)
    frames = people_seen = 0
    sizes = _ImageSizeChecker(path, with_k=intrinsics.k is not None, with_video="video" in kinds)
    estimator.reset()
    with contextlib.ExitStack() as stack:
        results = ResultWriter(out, source, kinds, estimator, stack, viewer)
        bar = stack.enter_context(make_progress_bar(source, name=path.name, unit="frame", total=source.frame_count))
        for frame in bar:
            if not is_video:
                estimator.reset()
            sizes.check(frame)
            frame = intrinsics.apply(frame)
            if depth_maps is not None:
                frame = depth_maps.apply(frame)
            people = estimator.step(frame)
            results.write(frame, people)
            frames, people_seen = frames + 1, people_seen + len(people)
            bar.set_postfix(people=len(people))
    runtime = estimator.runtime
    place = f" → {out}" if kinds else ""
    frame_unit, people_unit = "frame" if frames == 1 else "frames", "person" if people_seen == 1 else "people"
    counts = f"{frames} {frame_unit}, {people_seen} {people_unit}"
    print(make_printable(f"{path}: {counts} ({runtime.device}, {runtime.precision}){place}"))
    if source.damage:
        raise UserError(source.damage)


class _ImageSizeChecker:
    """Warns once about images of another size if --k or a video is used, because these require one size."""

    def __init__(self, path: Path, *, with_k: bool, with_video: bool) -> None:
        self._path, self._with_k, self._with_video = path, with_k, with_video
        self._first: tuple[int, ...] = ()
        self._is_reported = not (with_k or with_video)

    def check(self, frame: Frame) -> None:
        size = frame.image.shape[:2]
        self._first = self._first or size
        if self._is_reported or size == self._first:
            return
        self._is_reported = True
        text = (
            f"{self._path}: expected images of {self._first[1]} x {self._first[0]} px, as the first one, got {size[1]} "
            f"x {size[0]} px: {frame.name}"
        )
        if self._with_video:
            text += "; the video contains images of other sizes scaled to fit"
        if self._with_k:
            text += "; --k is used for images of all sizes"
        logger.warning("%s", text)


class ResultWriter:
    """Writer of the results listed in --save, frame by frame. A video appears after the last frame."""

    def __init__(
        self,
        folder: Path,
        source: FrameSource,
        save: tuple[str, ...],
        estimator: Estimator,
        stack: contextlib.ExitStack,
        viewer: Viewer | None = None,
    ) -> None:
        self._folder, self._source, self._save = folder, source, save
        self._estimator, self._faces = estimator, estimator.faces
        self._stack, self._viewer = stack, viewer
        self._recording: RerunRecording | None = None
        self._is_first = True
        self._video: VideoWriter | None = None
        self._video_size = (0, 0)
        self._video_clock: VideoClock | None = None

    def write(self, frame: Frame, people: People) -> None:
        """Write the results of one frame. Before the first one, results of an earlier run are removed."""
        from multihmr2_ros.media.export import save_image, save_meshes, save_params
        from multihmr2_ros.media.overlay import draw_people

        if self._is_first:
            names = result_files.RunNames(self._source, self._save)
            result_files.remove_results(names.find_existing(self._folder))
            self._is_first = False
        if "rrd" in self._save or self._viewer is not None:
            self._record(frame, people)
        if "params" in self._save:
            save_params(self._make_path(frame, "params"), people)
        if "mesh" in self._save:
            save_meshes(self._make_path(frame, "mesh"), people, self._faces)
        if "overlay" in self._save or "video" in self._save:
            drawn = draw_people(frame.image, people, self._faces, distort=frame.distort)
            if "overlay" in self._save:
                save_image(self._make_path(frame, "overlay"), drawn)
            if "video" in self._save:
                self._write_video(frame, drawn)

    def _record(self, frame: Frame, people: People) -> None:
        from multihmr2_ros.media.rerun_output import RerunRecording
        from multihmr2_ros.media.rerun_people import BodyTopology
        from multihmr2_ros.media.rerun_recording import FrameContext, Timeline

        if self._recording is None:
            topology = BodyTopology.from_body(self._estimator.body)
            path = self._folder / f"{self._source.name}{result_files.RECORDING_ENDING}" if "rrd" in self._save else None
            timeline: Timeline = "frame" if self._source.fps is None else "stamp"
            recording = RerunRecording(path, topology, self._viewer, self._source.name, timeline)
            self._recording = self._stack.enter_context(recording)
        self._recording.add(frame, people, FrameContext.from_frame(frame))

    def _make_path(self, frame: Frame, kind: str) -> Path:
        return self._folder / f"{frame.name}{result_files.FRAME_ENDINGS[kind]}"

    def _write_video(self, frame: Frame, drawn: NDArray[np.uint8]) -> None:
        from multihmr2_ros.media.video import VideoClock, VideoWriter, fit_image

        if self._video is None or self._video_clock is None:
            self._video_size = height, width = drawn.shape[:2]
            target, fps = self._folder / f"{self._source.name}{result_files.VIDEO_ENDING}", self._source.fps
            self._video = self._stack.enter_context(VideoWriter(target, width, height, fps or SEQUENCE_FPS))
            self._video_clock = VideoClock(fps or SEQUENCE_FPS)
        self._video.write(fit_image(drawn, *self._video_size), self._video_clock.to_time(frame.stamp))


def _parse_view(args: argparse.Namespace, chosen: tuple[str, ...] | None) -> tuple[str, int] | None:
    """Return the viewer's kind and port, or None. Raises UserError for incompatible options."""
    if args.out is None and (args.view is None or chosen is not None):
        raise UserError("expected --out DIR for the results; omit it only with --view and without --save")
    if args.view is None and "rrd" not in (chosen or ()):
        return None
    from multihmr2_ros.media.rerun_output import parse_view
    from multihmr2_ros.media.rerun_recording import import_rerun

    import_rerun()
    return None if args.view is None else parse_view(args.view)


@contextlib.contextmanager
def _open_viewer(view: tuple[str, int] | None) -> Iterator[Viewer | None]:
    if view is None:
        yield None
        return
    from multihmr2_ros.media.rerun_output import Viewer

    viewer = Viewer(*view)
    try:
        if view[0] == "web":
            print(f"open {viewer.address} in a browser on this machine", flush=True)
        yield viewer
    finally:
        viewer.close()


def _parse_save(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    kinds = tuple(kind.strip() for kind in text.split(","))
    unknown = [kind for kind in kinds if kind not in SAVE_CHOICES]
    if unknown:
        raise UserError(f"--save must be a comma-separated list of {', '.join(SAVE_CHOICES)}; got {unknown[0]!r}")
    return kinds


class _ErrorReporter(contextlib.AbstractContextManager["_ErrorReporter"]):
    """Prints the UserError of one input and continues with the others."""

    failed = False

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        self.failed = isinstance(error, UserError)
        if self.failed:
            print(f"multihmr2 run: {error}", file=sys.stderr)
        return self.failed
