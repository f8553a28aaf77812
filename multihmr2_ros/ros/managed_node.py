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

"""A managed node without two faults of rclpy's LifecycleNode."""

from __future__ import annotations

from typing import Any

from rclpy.lifecycle import LifecycleNode


class ManagedNode(LifecycleNode):
    """Lifecycle node that answers invalid transitions, and whose lifecycle services end with it.

    rclpy's LifecycleNode has two faults. With versions of rclpy in which the names used here do not exist, this class
    changes nothing.

    - A transition that is invalid in the current state raises an exception in the service callback: the request gets no
      response, and the executor and the process end. Here, the response has success = false.
    - The lifecycle services are destroyed only by the garbage collector. Until then, clients of a second node of the
      same name in this process may find its services not ready. Here, `destroy_node` destroys them.
    """

    def destroy_node(self) -> None:
        state_machine = getattr(self, "_state_machine", None)
        if state_machine is not None:
            state_machine.destroy_when_not_in_use()
        super().destroy_node()

    def _LifecycleNodeMixin__on_change_state(self, request: Any, response: Any) -> Any:
        try:
            return super()._LifecycleNodeMixin__on_change_state(request, response)
        except RuntimeError as error:  # rclpy's RCLError
            asked = request.transition.label or request.transition.id
            reason = str(error).partition(", at ")[0]
            self.get_logger().error(f"transition {asked!r} rejected: {reason}")
            response.success = False
            return response
