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

"""The nodes of several cameras in one process, which share the network: images that arrive together are one batch."""

from __future__ import annotations

if __name__ == "__main__":  # before the other imports, which take seconds
    from .startup import exit_on_stop_signals

    exit_on_stop_signals()

import functools
import itertools
import re
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from multihmr2_ros.errors import UserError
from multihmr2_ros.terminal import print_output

from .node import PerceptionNode
from .parameters import NodeParameters
from .process import run_nodes
from .restarts import EstimatorFactory, make_configuration

if TYPE_CHECKING:
    from multihmr2_ros.estimator import Estimator, SharedInference

NAME = re.compile(r"([A-Za-z][A-Za-z0-9_]*/)*[A-Za-z][A-Za-z0-9_]*")
USAGE = """usage: perception_cameras CAMERA [CAMERA ...] [--ros-args ...]

Runs one perception_node for each camera, in the namespace /CAMERA and with body_prefix CAMERA_, in one process.
Relative names apply to all cameras: with -r image:=image_raw, the camera front has the images /front/image_raw.
All other ROS arguments, topics and parameters are those of perception_node; see perception_node --help."""


class SharedEstimatorFactory:
    """Creates the estimators of several nodes. Those with the same weights, device, precision and threads share the
    network. Thread-safe."""

    def __init__(self) -> None:
        self._shared: dict[tuple[str, str, str, int], SharedInference] = {}
        self._lock = threading.Lock()

    def __call__(self, parameters: NodeParameters) -> Estimator:
        """Raises UserError, for example if the weights are missing."""
        from multihmr2_ros.estimator import Estimator, EstimatorConfig, Runtime, load_shared

        key = (parameters.checkpoint, parameters.device, parameters.precision, parameters.threads)
        with self._lock:
            if key not in self._shared or self._shared[key].has_failed:
                runtime = Runtime(parameters.device, parameters.precision, threads=parameters.threads)
                self._shared[key] = load_shared(parameters.checkpoint, runtime)
            shared = self._shared[key]
        return Estimator(shared.network, make_configuration(parameters, EstimatorConfig()), shared=shared)


def make_node(camera: str, estimator_factory: EstimatorFactory) -> PerceptionNode:
    """Create the node of a camera. Its own arguments precede those of the process."""
    prefix = f"{_get_last_part(camera)}_"
    own = ["--ros-args", "-r", f"__ns:=/{camera}", "-p", f"body_prefix:={prefix}"]
    return PerceptionNode(estimator_factory, cli_args=own)


def split_cameras(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the names of the cameras, and the other arguments. Raises UserError for unusable names.

    arguments: as sys.argv, with the program's name.
    """
    program, *rest = arguments
    names = list(itertools.takewhile(lambda argument: argument != "--ros-args", rest))
    wrong = [name for name in names if NAME.fullmatch(name) is None]
    if wrong or not names or len(set(names)) < len(names):
        raise UserError(
            "expected different names of cameras, such as front rear, before --ros-args; got "
            f"{' '.join(wrong or names)!r:.200}; see perception_cameras --help"
        )
    if len({_get_last_part(name) for name in names}) < len(names):
        raise UserError(
            f"expected names of cameras that end differently, got {' '.join(names)!r:.200}: the TF frames of people "
            "begin with the last part of the name"
        )
    return names, [program, *rest[len(names) :]]


def _get_last_part(camera: str) -> str:
    return camera.rpartition("/")[2]


def main(args: Sequence[str] | None = None, estimator_factory: EstimatorFactory | None = None) -> int:
    """Run the nodes until SIGINT or SIGTERM. Exit statuses as of perception_node."""
    arguments = list(sys.argv if args is None else args)
    try:
        if {"-h", "--help"} & set(arguments):
            print_output(f"{USAGE}\n")
            return 0
        cameras, others = split_cameras(arguments)
    except UserError as error:
        print(f"perception_cameras: {error}", file=sys.stderr)
        return 2
    factory = estimator_factory or SharedEstimatorFactory()
    return run_nodes(others, *(functools.partial(make_node, camera, factory) for camera in cameras))


if __name__ == "__main__":
    sys.exit(main())
