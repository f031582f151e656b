"""A replay to watch, live or later, in the Rerun viewer (https://rerun.io); the extra ``rerun``."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from dualrefine_ros.data.depth_files import PNG_SCALE, encode_depth
from dualrefine_ros.errors import ConfigError
from dualrefine_ros.evaluation.replay import Step

log = logging.getLogger(__name__)

PATH_INTERVAL = 10  # frames between two drawings of the whole path, which grows
MAX_SHOWN_DEPTH = 80.0  # metres
FLUSH_SECONDS = 10.0
JPEG_QUALITY = 80  # of the images, and
DEPTH_STRIDE = 2  # pixels of depth, which keep a recording of KITTI 00 below 2 GB


class RerunView:
    """An observer of :func:`dualrefine_ros.evaluation.replay.replay` that shows image, depth and path.

    Args:
        title: the recording and the weights.
        window: open the viewer and follow.
        file: ``.rrd`` to record to; None for none.

    Raises:
        ConfigError: Rerun is not installed, there is no display, or the file cannot be written.
    """

    def __init__(self, title: str, *, window: bool, file: Path | None) -> None:
        try:
            import rerun
        except ImportError:
            raise ConfigError(
                "Rerun is not installed: leave out --view and --rrd, or run "
                "'pip install \"rerun-sdk>=0.23\"' (the extra 'rerun' of this package)."
            ) from None
        if window and sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
            raise ConfigError("There is no display to open a window on: record with --rrd FILE instead.")
        self._rerun = rerun
        self._path: list[npt.NDArray[np.float64]] = []
        self._stream = rerun.RecordingStream("dualrefine")
        try:
            if window:
                # of this Python's environment, which need not be active
                viewer = shutil.which("rerun", path=str(Path(sys.executable).parent))
                rerun.spawn(connect=False, recording=self._stream, executable_path=viewer)
            sinks: list[Any] = [rerun.GrpcSink()] if window else []
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                sinks.append(rerun.FileSink(str(file)))
            self._stream.set_sinks(*sinks)
        except (OSError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"Rerun cannot be started ({reason}): leave out --view or --rrd.") from None
        self._stream.send_recording_name(title)
        self._stream.log("title", rerun.TextDocument(title), static=True)
        # camera axes are optical: x right, y down, z forward
        self._stream.log("world", rerun.ViewCoordinates.RDF, static=True)

    def __call__(self, step: Step) -> None:
        rerun, stream = self._rerun, self._stream
        frame, estimate = step.frame, step.estimate
        T_world_cam, K = estimate.T_world_cam, frame.intrinsics
        stream.set_time("frame", sequence=step.number)
        stream.set_time("stamp", duration=frame.stamp)
        camera = rerun.Transform3D(translation=T_world_cam[:3, 3], mat3x3=T_world_cam[:3, :3])
        stream.log("world/camera", camera)
        pinhole = rerun.Pinhole(image_from_camera=K.matrix, resolution=[K.width, K.height])
        stream.log("world/camera/image", pinhole)
        stream.log("world/camera/image", rerun.Image(frame.image).compress(jpeg_quality=JPEG_QUALITY))
        depth = encode_depth(estimate.depth[::DEPTH_STRIDE, ::DEPTH_STRIDE])
        K = K.resized(depth.shape[1], depth.shape[0])
        pinhole = rerun.Pinhole(image_from_camera=K.matrix, resolution=[K.width, K.height])
        stream.log("world/camera/depth", pinhole)
        shown = [0.0, MAX_SHOWN_DEPTH * PNG_SCALE]
        stream.log("world/camera/depth", rerun.DepthImage(depth, meter=PNG_SCALE, depth_range=shown))
        stream.log("engine/milliseconds", rerun.Scalars(1e3 * step.seconds))
        ran = estimate.pose_update_norms[np.isfinite(estimate.pose_update_norms)]
        if len(ran):
            stream.log("engine/last_pose_update", rerun.Scalars(float(ran[-1])))
        self._path.append(T_world_cam[:3, 3])
        if len(self._path) % PATH_INTERVAL == 1:
            self._draw_path()

    def __enter__(self) -> RerunView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._path:
            self._draw_path()
        try:
            self._stream.flush(timeout_sec=FLUSH_SECONDS)
        except (RuntimeError, ValueError) as failure:  # whoever closed the window has seen enough
            log.warning("Rerun did not take the last frames: %s", failure)

    def _draw_path(self) -> None:
        path = self._rerun.LineStrips3D([np.array(self._path)], colors=[[0, 114, 178]])
        self._stream.log("world/path", path)
