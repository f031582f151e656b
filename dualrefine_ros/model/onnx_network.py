"""The network run by onnxruntime, for the engine; PyTorch keeps what is small: images and solvers."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dualrefine_ros import __version__
from dualrefine_ros.errors import ConfigError
from dualrefine_ros.model.cache import cache_folder, writable_cache
from dualrefine_ros.model.config import ModelConfig
from dualrefine_ros.model.disparity import UPSAMPLING
from dualrefine_ros.model.dualrefine import DualRefine
from dualrefine_ros.model.equilibrium import Proposal, Update, accept
from dualrefine_ros.model.network import EncodedFrame, Network, Updater
from dualrefine_ros.model.onnx_export import GRAPHS, OPSET, export_onnx, graph_paths, require
from dualrefine_ros.model.pose_alignment import AlignmentSystem
from dualrefine_ros.model.refiner import MatchingFeatures

_log = logging.getLogger(__name__)


class OnnxNetwork(Network):
    """The graphs of :mod:`~dualrefine_ros.model.onnx_export` in onnxruntime, on the CPU, one image at a time.

    Args:
        config: of the network.
        graphs: the files, by name.

    Raises:
        ConfigError: onnxruntime is missing, or a file cannot be read.
    """

    def __init__(self, config: ModelConfig, graphs: Mapping[str, Path]) -> None:
        require("onnxruntime")
        super().__init__(config)
        self._graphs = graphs
        self._load(torch.get_num_threads())

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def encode(self, image: Tensor) -> EncodedFrame:
        """See :meth:`Network.encode`; ``context`` are its shares of the gates, as the graphs want them."""
        disparity, features, confidence, context_terms, hidden = self._run("frame", image)
        return EncodedFrame(disparity, MatchingFeatures(features, confidence), context_terms, hidden)

    def teacher_pose(self, image_cur: Tensor, image_prev: Tensor) -> Tensor:
        """See :meth:`Network.teacher_pose`."""
        return self._run("pose", image_cur, image_prev)[0]

    def updater(self, cur: EncodedFrame, prev: MatchingFeatures, intrinsics: Tensor) -> Updater:
        """See :meth:`Network.updater`."""
        frames = (*_parts(cur.matching), *_parts(prev), cur.context, intrinsics / UPSAMPLING)

        def update(hidden: Tensor, depth: Tensor, T_prev_cur: Tensor) -> Update:
            new_hidden, new_depth, *system = self._run("step", hidden, depth, T_prev_cur, *frames)
            proposal = Proposal(new_hidden, new_depth, AlignmentSystem(*system))
            return accept(proposal, hidden, depth, T_prev_cur)

        return update

    def upsample(self, disparity: Tensor, hidden: Tensor) -> Tensor:
        """See :meth:`Network.upsample`."""
        return self._run("upsample", disparity, hidden)[0]

    def _run(self, graph: str, *tensors: Tensor) -> list[Tensor]:
        threads = torch.get_num_threads()
        if threads != self._threads:  # those of the thread that computes; in the node, another one loads
            self._load(threads)
        names = GRAPHS[graph][0]
        feed = {name: tensor.contiguous().numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(array) for array in self._sessions[graph].run(None, feed)]

    def _load(self, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # awake, they would keep PyTorch's from the cores between two runs: a frame takes twice as long
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._sessions = {
                name: onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
                for name, path in self._graphs.items()
            }
        except Exception as error:  # onnxruntime's have no base of their own
            folder = self._graphs["frame"].parent
            raise ConfigError(
                f"The ONNX graphs in {folder} cannot be read ({error}): delete them."
            ) from error
        self._threads = threads


def onnx_network(model: DualRefine) -> OnnxNetwork:
    """The same network in onnxruntime; it is exported once, and kept in the user's cache.

    Raises:
        ConfigError: a package is missing, or the network cannot be exported.
    """
    require("onnxruntime")
    name = f"{_digest(model)}.onnx"
    try:
        # the first may be open to readers only, or not even to them
        for cache in (cache_folder, writable_cache):
            graphs = graph_paths(cache() / "onnx" / name)
            if all(os.path.exists(path) for path in graphs.values()):
                try:
                    return OnnxNetwork(model.config, graphs)
                except ConfigError as error:  # a power cut has cut one off
                    _log.warning(
                        "%s cannot be read (%s): made anew.", graphs["frame"].parent, error.__cause__
                    )
        _log.warning("Exporting the network to ONNX, once; this takes a minute or so.")
        folder = writable_cache() / "onnx"
        folder.mkdir(exist_ok=True)
        return OnnxNetwork(model.config, export_onnx(model, folder / name, {}))
    except OSError as error:
        raise ConfigError(
            f"The ONNX graphs cannot be written ({error}): free space, or set XDG_CACHE_HOME elsewhere."
        ) from error


def _digest(model: DualRefine) -> str:
    """Another one for other weights, another network, and another version of ours or of PyTorch."""
    digest = hashlib.sha256(f"{model.config} {OPSET} {__version__} {torch.__version__}".encode())
    for key, value in model.state_dict().items():
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _parts(matching: MatchingFeatures) -> tuple[Tensor, Tensor]:
    return matching.features, matching.confidence
