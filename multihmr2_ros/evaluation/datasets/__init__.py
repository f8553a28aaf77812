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

"""Readers and evaluation of public data sets in their downloaded layout. The package contains none of their data."""

MSCOCO, POSETRACK, MOT, THREEDPW, PANOPTIC = "mscoco", "posetrack21", "mot17", "3dpw", "cmu-panoptic"
EMDB, HI4D, HARMONY4D, VIDEOS = "emdb", "hi4d", "harmony4d", "calibrated-videos"
RELATIVE_HUMAN = "relative-human"
DATASETS = (MSCOCO, POSETRACK, MOT, THREEDPW, EMDB, HI4D, HARMONY4D, PANOPTIC, VIDEOS, RELATIVE_HUMAN)
