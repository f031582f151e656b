"""The engine: frames in, depth and motion out. No ROS here or below.

One frame walks: look at the image -> network (preprocess, teacher, refine) -> scale -> judge -> chain. All
that is remembered from frame to frame is one :class:`Memory`, replaced when an answer is ready: whatever
fails on the way changes nothing.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from dualrefine_ros.covariance import Matrix, moved, rest_covariance, scale_covariance, symmetric
from dualrefine_ros.devices import attempt, free_cache, resolve_device, why_slow
from dualrefine_ros.errors import ConfigError, DeviceError
from dualrefine_ros.frame import NANOSECONDS, Estimate, Frame, Status
from dualrefine_ros.gates import Look, blindness, blur, look_at
from dualrefine_ros.geometry.rigid import nearest_rigid, rotation_angle
from dualrefine_ros.judgement import Verdict, judge
from dualrefine_ros.memory import Keyframe, Memory, UncertainPose
from dualrefine_ros.model.dualrefine import DualRefine
from dualrefine_ros.model.folding import folded
from dualrefine_ros.model.network import Network
from dualrefine_ros.network_io import StageClock
from dualrefine_ros.observation import PRECISIONS, Observation, Remembered, observe
from dualrefine_ros.odometry_config import OdometryConfig, check_iterations
from dualrefine_ros.scale import Scale, ScaleEstimator

__all__ = ["PRECISIONS", "OdometryConfig", "VisualOdometry", "resolve_device"]

_log = logging.getLogger(__name__)
_OPTICAL_DOWN = np.array([0.0, 1.0, 0.0])  # of a camera that looks along the ground


class VisualOdometry:
    """Monocular visual odometry: call :meth:`process` with one frame after the other.

    Only :meth:`add_speed` may be called while another thread is in another method.
    """

    def __init__(self, model: DualRefine, config: OdometryConfig | None = None) -> None:
        config = config or OdometryConfig()
        self.config = config
        self.iterations = config.iterations
        on_gpu = torch.cuda.is_available() and config.backend == "torch"
        self.device = resolve_device(config.device, on_gpu)
        self.model = _network(model, config.backend).to(self.device)
        self._spare = model if self.device.type != "cpu" else None  # for the CPU, should the device fail
        self._released = False
        self._warn_if_slow()
        self._scale = ScaleEstimator(config.scale)
        self._down = _OPTICAL_DOWN
        self._memory = Memory(self._start())

    def _warn_if_slow(self) -> None:
        if slow := why_slow(self.device, self.config.precision):
            _log.warning(slow)

    @property
    def iterations(self) -> int:
        """Refinement iterations of the next frame; may be changed between frames.

        Raises:
            ConfigError: set to a number out of range.
        """
        return self._iterations

    @iterations.setter
    def iterations(self, value: int) -> None:
        check_iterations(value)
        self._iterations = value

    def reset(self) -> None:
        """Forget all of the past, the measured scale too; a new trajectory starts at the identity."""
        self._scale = ScaleEstimator(self.config.scale)
        self._memory = Memory(self._start())

    def new_pair(self) -> None:
        """Forget the previous frame, as after a pause; the pose stays."""
        self._memory = replace(self._memory, key=None, look=None, still=False, misses=0)

    def set_pose(self, T_world_cam: Matrix, covariance: Matrix | None = None) -> None:
        """Say where the camera was at the last frame; the next motion goes on from there.

        Args:
            T_world_cam: (4, 4).
            covariance: (6, 6) of it, see :mod:`dualrefine_ros.covariance`; None: it is exact, but for the
                least deviations of the configuration, which always count.
        """
        T = nearest_rigid(T_world_cam)
        C = moved(rest_covariance(self.config.covariance), T)
        pose, key = UncertainPose(T, C if covariance is None else C + covariance, T[:3, 3]), self._memory.key
        if key is not None:
            T_last_key = np.linalg.inv(self._memory.pose.T_world_cam) @ key.pose.T_world_cam
            key = replace(key, pose=replace(pose, T_world_cam=T @ T_last_key))
        self._memory = replace(self._memory, pose=pose, key=key)

    def set_extrinsics(self, T_base_cam: Matrix) -> None:
        """Say how the camera sits on a robot whose z axis points up: where the ground is to be found."""
        self._down = -T_base_cam[2, :3].copy()

    def add_speed(self, stamp_ns: int, metres_per_second: float) -> None:
        """A reading of the robot's speed, for ``scale.mode`` external."""
        self._scale.add_speed(stamp_ns, metres_per_second)

    def reconfigure(self, config: OdometryConfig) -> None:
        """Take another configuration from the next frame on.

        Raises:
            ConfigError: it asks for another device or backend.
        """
        if (config.device, config.backend) != (self.config.device, self.config.backend):
            raise ConfigError("Device and backend cannot be changed while the engine runs: start it anew.")
        if config.scale != self.config.scale:
            self._scale = ScaleEstimator(config.scale)
        before, self.config, self.iterations = self.config, config, config.iterations
        if config.precision != before.precision:
            self._warn_if_slow()

    def _start(self) -> UncertainPose:
        return UncertainPose(covariance=rest_covariance(self.config.covariance))

    def release(self) -> None:
        """Give the device's memory back; the pose stays, and the next frame fetches what it needs.

        Of a device that is lost, nothing can be fetched: the network begins anew with the weights it had.
        """
        self.new_pair()
        _, lost = attempt(lambda: self.model.to("cpu"))
        if lost and self._spare is not None:
            self.model = folded(self._spare.cpu())
        self._released = True
        free_cache(self.device)

    @torch.inference_mode()
    def process(self, frame: Frame) -> Estimate:
        """Depth of this frame and its motion since the last.

        The first frame, the first of another camera, the first after a gap, and one whose stamp is not
        later than the last, has depth only and leaves the pose as it is. An exception leaves the engine
        as it was.

        Raises:
            DeviceError: the device failed, and ``on_device_error`` knows no way around it.
        """
        memory, config = self._memory, self.config
        network = self.model.config
        intrinsics = frame.intrinsics.resized(network.width, network.height)
        clock = StageClock(self.device)

        with clock("judge"):
            look = look_at(frame.image, memory.look)
            last_look = memory.look if frame.stamp_ns != memory.stamp_ns else None
            blind = blindness(look, last_look, config.images)
        if blind:
            return self._chain(frame, look, Verdict(Status.LOST, blind), self._scale.current)
        key, cause = memory.partner(frame.stamp_ns, intrinsics, config.max_gap)
        seen, trouble = self._observe(frame, key, clock)
        with clock("judge"):
            self._scale.see_depth(frame.stamp_ns, seen.depth, frame.intrinsics.matrix, self._down)
            scale = self._scale.update(frame.stamp_ns)
            seconds = (frame.stamp_ns - key.stamp_ns) / NANOSECONDS if key else 0.0
            blurred, alone = blur(look, config.images), trouble or cause
            verdict = judge(seen, seconds, scale.factor, memory.still, alone, blurred, config)
            if key is not None and seen.motion is not None and verdict.borne_out:
                T = seen.motion.T_prev_cur
                distance, angle = float(np.linalg.norm(T[:3, 3])), rotation_angle(T)
                self._scale.see_motion(key.stamp_ns, frame.stamp_ns, distance, angle)
            return self._chain(frame, look, verdict, scale, seen, clock)

    def _observe(self, frame: Frame, key: Keyframe | None, clock: StageClock) -> tuple[Observation, str]:
        """What the network says, and why it says less than it was asked; see ``on_device_error``."""

        def run(previous: Remembered | None) -> Observation:
            if self._released:
                self.model.to(self.device)
                self._released = False
            c = self.config
            tolerance, precision = c.solver_tolerance, c.precision
            return observe(self.model, frame, previous, self.iterations, tolerance, precision, clock)

        previous = key.remembered if key else None
        seen, reason = attempt(lambda: run(previous))
        if seen is not None:
            return seen, ""
        free_cache(self.device)
        failed = f"The network failed on {self.device} ({reason})"
        if self.config.on_device_error == "retry":
            for smaller in (previous, None):
                seen, _ = attempt(partial(run, smaller))
                if seen is not None:
                    return seen, f"{failed}: only the depth fitted, and a new pair begins."
        if self.config.on_device_error == "cpu" and self._spare is not None:
            self.device, self.model = torch.device("cpu"), folded(self._spare.cpu())
            self._released = False
            self._warn_if_slow()
            return run(None), f"{failed}: it runs on the CPU from now on, and a new pair begins."
        raise DeviceError(
            f"{failed}: this frame has no answer. Choose a smaller network or free the device; with "
            "on_device_error set to cpu, the engine goes on there."
        )

    def _chain(
        self,
        frame: Frame,
        look: Look,
        verdict: Verdict,
        scale: Scale,
        seen: Observation | None = None,
        clock: StageClock | None = None,
    ) -> Estimate:
        """Move the pose as the verdict says, remember what the next frame needs, and answer."""
        matched = self._memory.key if verdict.T_prev_cur is not None else None
        usable = seen.remembered if seen and np.isfinite(seen.depth).all() else None
        flow = seen.motion.implied_flow if seen and seen.motion else 0.0
        self._memory, pose = self._memory.after(frame.stamp_ns, look, verdict, usable, flow, self.config)
        covariance = None
        if matched is not None and verdict.T_prev_cur is not None and verdict.covariance is not None:
            way = verdict.T_prev_cur[:3, 3]
            covariance = symmetric(verdict.covariance + scale_covariance(way, scale.deviation))
        depth = np.full(frame.image.shape[:2], np.nan, np.float32) if seen is None else seen.depth
        return Estimate(
            stamp_ns=frame.stamp_ns,
            status=verdict.status,
            depth=np.multiply(depth, np.float32(scale.factor), out=depth),  # nobody else has it
            T_world_cam=pose.T_world_cam.copy(),
            T_prev_cur=verdict.T_prev_cur,
            confidence=seen.confidence if seen else None,
            pose_update_norms=seen.pose_update_norms if seen else np.zeros(0, np.float32),
            timings=clock.seconds if clock else {},
            prev_stamp_ns=matched.stamp_ns if matched else None,
            cause=verdict.cause,
            scale=scale.factor,
            scale_confidence=scale.confidence,
            covariance=covariance,
            pose_covariance=pose.reported_covariance(scale.deviation),
        )


def _network(model: DualRefine, backend: str) -> Network:
    """The network as the backend runs it.

    Raises:
        ConfigError: the backend is not installed, or cannot run it.
    """
    if backend == "onnx":
        from dualrefine_ros.model.onnx_network import onnx_network

        return onnx_network(model)
    return folded(model)
