"""The network as ONNX files, for other runtimes: four graphs of fixed shapes, solvers outside.

======== =============================================== ==================================================
graph    inputs                                          outputs
======== =============================================== ==================================================
frame    image (1, 3, H, W), RGB in [0, 1]               disparity (1, 1, h, w), features (1, 64, h, w),
                                                         confidence (1, 1, h, w), context_terms
                                                         (1, 192, h, w), hidden (1, 64, h, w)
pose     image_cur, image_prev                           T_prev_cur (1, 4, 4)
step     hidden, depth, T_prev_cur, features_cur,        hidden_next, depth_next, H (1, 6, 6), b (1, 6),
         confidence_cur, features_prev, confidence_prev, weight (1, 1, h, w), squares (1,): the normal
         context_terms, intrinsics (1, 4) of the (h, w)  equations ``H xi = -b`` of the pose step
         map                                             ``T' = exp(xi) T``
upsample disparity, hidden                               full (1, 1, H, W)
======== =============================================== ==================================================

h = H/4, w = W/4. Of each frame run ``frame`` once, with its predecessor ``pose``, then ``step`` as often as
there are iterations, solving for xi and mixing (hidden, depth) by Anderson acceleration in between, then
``upsample``. What :class:`~dualrefine_ros.model.network.Network` does around them is not in them: a network
with ``coarse_steps`` starts from :func:`~dualrefine_ros.model.coarse_alignment.coarse_pose` of the features,
confidences, depth of the teacher's disparity and intrinsics at (h, w). Opset 18: GridSample of opset 20 is
wrong in TensorRT.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from dualrefine_ros.errors import ConfigError
from dualrefine_ros.model.disparity import UPSAMPLING
from dualrefine_ros.model.dualrefine import DualRefine
from dualrefine_ros.model.epipolar import feature_levels
from dualrefine_ros.model.folding import folded
from dualrefine_ros.model.refiner import MatchingFeatures, RefinerInputs
from dualrefine_ros.model.sampling import PLAIN
from dualrefine_ros.model.update_block import CHANNELS

OPSET = 18
GRAPHS = {  # inputs, outputs
    "frame": (
        ("image",),
        ("disparity", "features", "confidence", "context_terms", "hidden"),
    ),
    "pose": (("image_cur", "image_prev"), ("T_prev_cur",)),
    "step": (
        (
            "hidden",
            "depth",
            "T_prev_cur",
            "features_cur",
            "confidence_cur",
            "features_prev",
            "confidence_prev",
            "context_terms",
            "intrinsics",
        ),
        ("hidden_next", "depth_next", "H", "b", "weight", "squares"),
    ),
    "upsample": (("disparity", "hidden"), ("full",)),
}
_NEEDED = ("onnx", "onnxscript")


def require(*packages: str) -> None:
    """Raises ConfigError where one of the packages is missing."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"ONNX needs {' and '.join(missing)}: pip install 'dualrefine_ros[onnx]', or pip install "
            f"{' '.join(missing)}."
        )


def export_onnx(model: DualRefine, output: Path, metadata: Mapping[str, str]) -> dict[str, Path]:
    """Write the four graphs of a network, all or none: NAME.frame.onnx ... for the output NAME.onnx.

    Args:
        model: as it is trained.
        output: ends in .onnx; its folder exists.
        metadata: stored in each file, beside the network's configuration.

    Raises:
        ConfigError: a package is missing, or the network has no pose refinement.
        OSError: the files cannot be written.
    """
    require(*_NEEDED)
    if not model.config.pose_updates:
        raise ConfigError("Only networks that refine the pose too can be exported to ONNX.")
    if not output.parent.is_dir():
        raise ConfigError(f"There is no folder {output.parent} to write {output.name} to: create it first.")
    light = folded(model).cpu()
    light.refiner.sampler = "plain"
    graphs = _graphs(light)
    known = {"config": json.dumps(asdict(model.config)), **metadata}
    paths = graph_paths(output)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.stem}.") as folder:
        for name, (graph, inputs) in graphs.items():
            _export(graph, inputs, *GRAPHS[name], Path(folder) / name, known)
        for name, path in paths.items():
            os.replace(Path(folder) / name, path)
    return paths


def graph_paths(output: Path) -> dict[str, Path]:
    """Where the graphs of an output NAME.onnx lie."""
    return {name: output.with_name(f"{output.stem}.{name}.onnx") for name in GRAPHS}


class _Graph(nn.Module):
    """A function of tensors, and the network whose weights it uses."""

    def __init__(self, model: DualRefine, function: Callable[..., tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.model = model
        self.function = function

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        return self.function(*tensors)


def _graphs(model: DualRefine) -> dict[str, tuple[_Graph, tuple[Tensor, ...]]]:
    """Each graph with inputs of its shapes."""
    config, refiner = model.config, model.refiner
    h, w = config.height // UPSAMPLING, config.width // UPSAMPLING

    def frame(image: Tensor) -> tuple[Tensor, ...]:
        encoded = model.encode(image)
        terms = torch.cat(refiner.update_block.context_terms(encoded.context), 1)
        matching = encoded.matching
        return encoded.disparity, matching.features, matching.confidence, terms, encoded.hidden

    def pose(image_cur: Tensor, image_prev: Tensor) -> tuple[Tensor, ...]:
        return (model.teacher_pose(image_cur, image_prev),)

    def step(
        hidden: Tensor,
        depth: Tensor,
        T: Tensor,
        features_cur: Tensor,
        confidence_cur: Tensor,
        features_prev: Tensor,
        confidence_prev: Tensor,
        context_terms: Tensor,
        intrinsics: Tensor,
    ) -> tuple[Tensor, ...]:
        cur = MatchingFeatures(features_cur, confidence_cur)
        prev = MatchingFeatures(features_prev, confidence_prev)
        levels = feature_levels(features_prev)
        terms = context_terms[:, : 2 * CHANNELS], context_terms[:, 2 * CHANNELS :]
        inputs = RefinerInputs(cur, prev, levels, terms, intrinsics, PLAIN)
        proposal = refiner.propose(hidden, depth, T, inputs)
        system = proposal.system
        assert system is not None
        return proposal.hidden, proposal.depth, system.H, system.b, system.weight, system.squares

    def upsample(disparity: Tensor, hidden: Tensor) -> tuple[Tensor, ...]:
        return (model.upsample(disparity, hidden),)

    # each a tensor of its own: the exporter takes one that comes twice for one input
    def maps(*channels: int) -> tuple[Tensor, ...]:
        return tuple(torch.rand(1, c, h, w) + 1 for c in channels)

    def image() -> Tensor:
        return torch.rand(1, 3, config.height, config.width)

    features = (CHANNELS, 1, CHANNELS, 1, 3 * CHANNELS)  # of both frames, their confidence, the context
    intrinsics = torch.tensor([[w / 2.0, w / 2.0, w / 2.0, h / 2.0]])
    return {
        "frame": (_Graph(model, frame), (image(),)),
        "pose": (_Graph(model, pose), (image(), image())),
        "step": (_Graph(model, step), (*maps(CHANNELS, 1), torch.eye(4)[None], *maps(*features), intrinsics)),
        "upsample": (_Graph(model, upsample), maps(1, CHANNELS)),
    }


def _export(
    graph: nn.Module,
    inputs: tuple[Tensor, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    path: Path,
    metadata: Mapping[str, str],
) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of PyTorch about its own
        program = torch.onnx.export(
            graph.eval(),
            inputs,
            input_names=input_names,
            output_names=output_names,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(metadata)
    program.save(path, external_data=False)
