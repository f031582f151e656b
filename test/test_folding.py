"""The folded network says what the original says."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from dualrefine_ros.model import SMALL, DualRefine, random_model
from dualrefine_ros.model.folding import folded

INTRINSICS = torch.tensor([[90.0, 90.0, 48.0, 32.0]])


def with_lived_in_norms(model: DualRefine) -> DualRefine:
    """Batch statistics and weights far from the identity."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in (
                (module.running_var, 0.5),
                (module.weight.data, 0.5),
                (module.bias.data, -0.5),
            ):
                tensor.copy_(low + torch.rand(tensor.shape, generator=generator))
            module.running_mean.copy_(0.2 * torch.randn(module.num_features, generator=generator))
    return model


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "resnet18", "hrnet_w18"])
@torch.inference_mode()
def test_folding_changes_nothing_but_rounding(backbone: str) -> None:
    config = replace(SMALL, depth_backbone=backbone, pose_backbone="resnet18", height=64, width=96)
    model = with_lived_in_norms(random_model(config))
    before = copy.deepcopy(model.state_dict())
    light = folded(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in light.modules())
    assert not any(parametrize.is_parametrized(m) for m in light.modules())
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    a, b = (m(images[:1], images[1:], INTRINSICS, iterations=2) for m in (model, light))
    torch.testing.assert_close(a.disp_teacher, b.disp_teacher, atol=1e-4, rtol=0)
    torch.testing.assert_close(a.disp_refined, b.disp_refined, atol=1e-4, rtol=0)
    torch.testing.assert_close(a.T_prev_cur, b.T_prev_cur, atol=1e-4, rtol=0)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert any(parametrize.is_parametrized(m) for m in model.modules())


@torch.inference_mode()
def test_a_network_that_orders_its_layers_otherwise_keeps_its_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the order misread, the check against the original would notice and leave the norms in place."""
    model = with_lived_in_norms(random_model(replace(SMALL, height=64, width=96)))
    monkeypatch.setattr(
        "dualrefine_ros.model.folding.fuse_conv_bn_weights",
        lambda weight, bias, *norm: (nn.Parameter(2 * weight), nn.Parameter(torch.zeros(len(weight)))),
    )
    light = folded(model)
    assert any(isinstance(m, nn.BatchNorm2d) for m in light.modules())
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    a, b = (m(images[:1], images[1:], INTRINSICS, iterations=1) for m in (model, light))
    torch.testing.assert_close(a.disp_refined, b.disp_refined, atol=1e-5, rtol=0)
