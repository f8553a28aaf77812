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

"""A managed node that survives invalid lifecycle requests."""

from __future__ import annotations

from typing import Any

from rclpy.lifecycle import LifecycleNode


class ManagedNode(LifecycleNode):
    """Lifecycle node that answers transitions that are invalid in the current state with success = false.

    In rclpy's LifecycleNode, the service callback raises an exception: the request gets no response, and the executor
    and the process end. With versions of rclpy in which the callback has another name, this class changes nothing.
    """

    def _LifecycleNodeMixin__on_change_state(self, request: Any, response: Any) -> Any:
        try:
            return super()._LifecycleNodeMixin__on_change_state(request, response)
        except RuntimeError as error:  # rclpy's RCLError
            asked = request.transition.label or request.transition.id
            reason = str(error).partition(", at ")[0]
            self.get_logger().error(f"transition {asked!r} rejected: {reason}")
            response.success = False
            return response
