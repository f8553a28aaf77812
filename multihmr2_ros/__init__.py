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

"""Multi-HMR 2 for robots: camera images in; people with identity, mesh, metric place and velocity out.

>>> from multihmr2_ros import Estimator
>>> estimator = Estimator.load("multihmr2.pt", device="auto")
>>> people = estimator.step(image)          # (H, W, 3) uint8 RGB → People

Importing this package loads no other library; each name loads what it needs on first use.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import UserError
    from .estimator import Estimator
    from .frame import Frame
    from .people import IntrinsicsSource, People, TrackState

# The build puts the generated messages, `multihmr2_ros.msg`, into its own folder of this package's name: both count,
# so that the messages are found beside a source tree.
__path__ = pkgutil.extend_path(__path__, __name__)

__version__ = "0.1.0"
__all__ = ["Estimator", "Frame", "IntrinsicsSource", "People", "TrackState", "UserError", "__version__"]

_HOME = {
    "Estimator": "estimator",
    "Frame": "frame",
    "IntrinsicsSource": "people",
    "People": "people",
    "TrackState": "people",
    "UserError": "errors",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        if name == "Estimator":
            importlib.import_module(".hardware", __name__).make_threads_wait_passively()
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
