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
