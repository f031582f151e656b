"""What rclpy's lifecycle leaves out: a transition that the state does not have is refused, not fatal."""

from __future__ import annotations

from functools import partial
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rclpy.lifecycle import LifecycleNode


def refuse_impossible_transitions(node: LifecycleNode) -> None:
    """Answer requests for a transition that is not possible now with False.

    rclpy (Humble and Jazzy) raises from the service, which ends the process: a lifecycle manager that
    configures a node which has started by itself would kill it.
    """
    for service in node.services:
        if service.srv_type is ChangeState:
            service.callback = partial(_change_state, node, service.callback)


def _change_state(node: LifecycleNode, change: Any, request: Any, response: Any) -> Any:
    try:
        return change(request, response)
    except RuntimeError as error:  # of the state machine; what the transitions raise, the node keeps
        wanted = request.transition.label or f"number {request.transition.id}"
        node.get_logger().warning(f"The transition {wanted} is not possible in this state ({error}).")
        response.success = False
        return response
