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

"""Readers of datasets that a user may own. Masks in their samples mark the annotations that can supervise training.

Anny-One, on which the paper trains as well, has no reader: no public description of its files was found. Its bodies are
Anny's, so it can be converted to the format of `pseudo`.
"""

from multihmr2_ros.training.readers.bedlam import BedlamReader
from multihmr2_ros.training.readers.coco import CocoReader
from multihmr2_ros.training.readers.common import HashSplit
from multihmr2_ros.training.readers.empty import EmptyImageReader
from multihmr2_ros.training.readers.pseudo import PseudoTruthReader

__all__ = ["BedlamReader", "CocoReader", "EmptyImageReader", "HashSplit", "PseudoTruthReader"]
