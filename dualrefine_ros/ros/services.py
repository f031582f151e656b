"""What others may ask of the node: reset, pause, save the trajectory, set the pose."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from geometry_msgs.msg import PoseWithCovarianceStamped
from std_srvs.srv import SetBool, Trigger

from dualrefine_ros.errors import ConfigError, DualRefineError, MessageError
from dualrefine_ros.geometry.trajectory import Trajectory, read_trajectory, write_tum
from dualrefine_ros.ros.base_odometry import Matrix
from dualrefine_ros.ros.conversions import matrix_from_pose

SUFFIXES = (".txt", ".tum")
_LARGEST = 1e12  # variance that anybody can mean
_FARTHEST = 1e7  # metres from the origin; farther, the numbers of a covariance lose their meaning
Response = TypeVar("Response", Trigger.Response, SetBool.Response)


class Services:
    """The services and the topic ``set_pose``, for as long as the node is configured.

    Args:
        node: a :class:`dualrefine_ros.ros.node.VoNode`.
    """

    def __init__(self, node: Any) -> None:
        self._node = node
        self._services = (
            node.create_service(Trigger, "~/reset", self._on_reset),
            node.create_service(Trigger, "~/save_trajectory", self._on_save_trajectory),
            node.create_service(SetBool, "~/pause", self._on_pause),
        )
        self._set_pose = node.create_subscription(
            PoseWithCovarianceStamped, node.config.set_pose_topic, self._on_set_pose, 10
        )

    def close(self) -> None:
        """Answer no more."""
        for service in self._services:
            self._node.destroy_service(service)
        self._node.destroy_subscription(self._set_pose)

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._node.tracker.reset()
        return _answer(
            response,
            True,
            f"Odometry begins anew at the origin of {self._node.config.odom_frame} with the next image.",
        )

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._node.paused = request.data
        return _answer(response, True, "Paused: images are skipped." if request.data else "Going on.")

    def _on_save_trajectory(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            trajectory = self._node.tracker.trajectory()
            if trajectory is None:
                raise ConfigError("There is no pose to save yet.")
            path = save_trajectory(self._node.config.trajectory_file, trajectory)
        except DualRefineError as error:
            return _answer(response, False, str(error))
        return _answer(response, True, f"Saved {len(trajectory)} poses to {path}.")

    def _on_set_pose(self, message: PoseWithCovarianceStamped) -> None:
        try:
            T_odom_base, covariance = pose_and_covariance(message, self._node.config.odom_frame)
        except MessageError as error:
            self._node.get_logger().warning(f"A pose on set_pose is refused. {error}")
            return
        self._node.tracker.set_pose(T_odom_base, covariance)


def _answer(response: Response, success: bool, message: str) -> Response:
    response.success, response.message = success, message
    return response


def pose_and_covariance(message: PoseWithCovarianceStamped, odom_frame: str) -> tuple[Matrix, Matrix]:
    """Pose (4, 4) and covariance (6, 6) of a message that must be in the odometry frame.

    Raises:
        MessageError: it is in another frame, or a number makes no sense.
    """
    frame = message.header.frame_id.lstrip("/")
    if frame != odom_frame:
        raise MessageError(f"Its frame_id is '{frame}': give the pose of the robot in '{odom_frame}'.")
    covariance = np.asarray(message.pose.covariance, np.float64).reshape(6, 6)
    symmetric = (np.abs(covariance) < _LARGEST).all() and np.allclose(covariance, covariance.T)
    if not symmetric or np.linalg.eigvalsh(covariance)[0] < -1e-9:
        raise MessageError("Its covariance is not finite, symmetric and positive.")
    T_odom_base = matrix_from_pose(message.pose.pose)
    distance = np.abs(T_odom_base[:3, 3]).max()
    if distance > _FARTHEST:
        raise MessageError(
            f"It is {distance:.3g} m from the origin of '{odom_frame}'; {_FARTHEST:g} m is the most."
        )
    return T_odom_base, covariance


def save_trajectory(file: str, trajectory: Trajectory) -> Path:
    """Write a TUM file, complete or not at all; nothing but an earlier trajectory is overwritten.

    Raises:
        ConfigError: the name is unset or unsuitable, or the file cannot be written.
    """
    if not file:
        raise ConfigError("Set the parameter trajectory_file to the file that the trajectory goes to.")
    path = Path(file)
    if "\0" in file or path.suffix not in SUFFIXES:
        raise ConfigError(f"trajectory_file must end in {' or '.join(SUFFIXES)}, not be {file!r}.")
    temporary: Path | None = None
    try:
        path = path.expanduser()  # a RuntimeError where there is no such user
        if path.is_symlink() or (path.exists() and not _is_trajectory(path)):
            raise ConfigError(
                f"{path} exists and is no trajectory: it is not overwritten, name another file."
            )
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        write_tum(temporary, trajectory)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        if temporary is not None:
            with suppress(OSError):  # where nothing can be written, nothing is left either
                temporary.unlink()
        raise ConfigError(f"{path} cannot be written ({error}): name another trajectory_file.") from error
    return path


def _is_trajectory(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        return read_trajectory(path).stamps_ns is not None
    except DualRefineError:
        return path.stat().st_size == 0
