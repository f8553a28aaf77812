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

"""A ROS domain that no other process on this machine uses, for this test process."""

from __future__ import annotations

import os

from multihmr2_ros.ros.domain import make_isolation_environment, reserve_domain

DOMAIN_ID = reserve_domain()
ENVIRONMENT = make_isolation_environment(DOMAIN_ID)
# For child processes, and for rclpy contexts of this process, which pass the domain explicitly.
os.environ.update(ENVIRONMENT)
