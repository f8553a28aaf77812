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

"""Contents of ROS messages as plain data, their serialization to CDR, and their reading from message objects.

Imports no ROS. `content` defines the published data; `cdr` serializes them; `ros.message_objects` converts them to
Python message objects. `images`, `depth` and `calibration` read any message object with the fields of `sensor_msgs`.
"""
