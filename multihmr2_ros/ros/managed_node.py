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

"""A managed node that a wrong request does not end."""

from __future__ import annotations

from typing import Any

from rclpy.lifecycle import LifecycleNode


class ManagedNode(LifecycleNode):
    """rclpy's, but a transition that is not legal in the present state is answered with success = false.

    rclpy raises from the service's callback: the request stays unanswered and the executor stops, and with it the
    process. Where another rclpy names the callback differently, this changes nothing.
    """

    def _LifecycleNodeMixin__on_change_state(self, request: Any, response: Any) -> Any:
        try:
            return super()._LifecycleNodeMixin__on_change_state(request, response)
        except RuntimeError as error:  # rclpy's RCLError
            asked = request.transition.label or request.transition.id
            reason = str(error).partition(", at ")[0]
            self.get_logger().error(f"transition {asked!r} refused: {reason}")
            response.success = False
            return response
