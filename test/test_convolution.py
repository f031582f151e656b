"""3x3 convolutions in C++ against PyTorch's in double precision, whatever the shape."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from dualrefine_ros.model import convolution, native
from dualrefine_ros.model.convolution import Convolution3x3, fits

TOLERANCE = 5e-5  # with weights and inputs of size 1 per output; PyTorch's own is 5e-6


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small maps too."""
    assert native.available(), native.reason()
    monkeypatch.setattr(convolution, "_MIN_CHANNELS", 1)
    monkeypatch.setattr(convolution, "_MIN_TILES", 1)


def layer(channels: int, out: int, bias: bool = True) -> Convolution3x3:
    torch.manual_seed(0)
    return Convolution3x3.like(nn.Conv2d(channels, out, 3, padding=1, bias=bias))


def maps(*shapes: tuple[int, int, int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(*shape, generator=generator) for shape in shapes]


def expected(conv: Convolution3x3, *given: Tensor) -> Tensor:
    bias = None if conv.bias is None else conv.bias.double()
    return conv2d(torch.cat(given, 1).double(), conv.weight.double(), bias, padding=1)


def assert_close(actual: Tensor, exact: Tensor) -> None:
    assert actual.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(actual.double(), exact, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("batch", "channels", "out", "height", "width"),
    [
        (1, 64, 128, 12, 20),
        (2, 64, 63, 7, 10),
        (1, 3, 1, 1, 1),
        (3, 33, 40, 4, 5),
        (1, 17, 32, 2, 9),
        (1, 40, 70, 41, 53),
    ],
)
def test_values(batch: int, channels: int, out: int, height: int, width: int, threads: int) -> None:
    conv, (x,) = layer(channels, out), maps((batch, channels, height, width))
    torch.set_num_threads(threads)
    assert_close(conv(x), expected(conv, x))


def test_several_maps_are_one_input() -> None:
    conv, given = layer(64 + 31 + 1, 40), maps((2, 64, 6, 9), (2, 31, 6, 9), (2, 1, 6, 9))
    assert_close(conv(*given), expected(conv, *given))


@pytest.mark.parametrize("own_bias", [True, False])
def test_what_is_added_on_the_way(own_bias: bool) -> None:
    conv = layer(24, 20, own_bias)
    x, addend, bias = maps((2, 24, 9, 6), (2, 20, 9, 6), (2, 20, 1, 1))
    exact = expected(conv, x) + bias + addend
    assert_close(conv(x, bias=bias[:, :, 0, 0], addend=addend), exact)
    assert_close(conv(x, bias=bias[:, :, 0, 0], addend=addend, relu=True), exact.relu())


def test_a_hidden_state_that_lies_in_a_longer_vector() -> None:
    """As the solver hands it over: channels-last, but not at the start of its storage."""
    conv, state = layer(16, 16), torch.randn(1, 5 * 6 * 16 + 30)
    h = state[:, 10 : 10 + 480].view(1, 5, 6, 16).movedim(-1, 1)
    assert_close(conv(h), expected(conv, h))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    conv, (x,) = layer(16, 16), maps((1, 16, 8, 8))
    x[0, 3, 2, 2] = bad
    out = conv(x, relu=True)
    assert not torch.isfinite(out[0, :, 1:4, 1:4]).any()
    assert torch.isfinite(out[0, :, 4:, 4:]).all()


def test_elsewhere_pytorch_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler, with gradients, in other types."""
    conv = layer(24, 20)
    x, addend, bias = maps((2, 24, 9, 6), (2, 20, 9, 6), (2, 20, 1, 1))
    exact = (expected(conv, x) + bias + addend).relu()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        short = conv(x, bias=bias[:, :, 0, 0], addend=addend, relu=True)
    torch.testing.assert_close(short.double(), exact, atol=0.05, rtol=0.05)
    leaf = x.clone().requires_grad_()
    conv(leaf).sum().backward()
    assert leaf.grad is not None
    monkeypatch.setattr(native, "available", lambda: False)
    out = conv(x, bias=bias[:, :, 0, 0], addend=addend, relu=True)
    torch.testing.assert_close(out.double(), exact, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["second map", "bias", "addend"])
@pytest.mark.parametrize("fault", ["shape", "type", "device"])
def test_what_cpp_cannot_read_is_pytorchs(name: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too small, of other numbers, elsewhere: an error, or the sum as PyTorch broadcasts and widens it."""
    monkeypatch.setattr(
        Convolution3x3, "_winograd", lambda *_: pytest.fail("C++ would read outside of memory")
    )
    x, second, addend = maps((2, 16, 9, 6), (2, 8, 9, 6), (2, 20, 9, 6))
    given = {"second map": second, "bias": torch.zeros(2, 20), "addend": addend}
    right = given[name]
    given[name] = {"shape": right[:1], "type": right.half(), "device": right.to("meta")}[fault]
    with contextlib.suppress(RuntimeError):
        layer(24, 20)(x, given["second map"], bias=given["bias"], addend=given["addend"])


def test_maps_with_too_few_channels_are_refused() -> None:
    with pytest.raises(RuntimeError, match="channels"):
        layer(24, 20)(*maps((2, 16, 9, 6), (2, 7, 9, 6)))


def test_weights_of_another_type_are_not_read() -> None:
    conv, (x,) = layer(24, 20).double(), maps((2, 24, 9, 6))
    with pytest.raises(RuntimeError, match="type"):
        conv(x)


def test_what_is_added_has_gradients() -> None:
    conv, (x, addend) = layer(24, 20), maps((2, 24, 9, 6), (2, 20, 9, 6))
    conv(x, addend=addend.requires_grad_()).sum().backward()
    assert addend.grad is not None
    assert bool((addend.grad == 1).all())


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2),
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(8, 8, 3, padding=1),
    ],
)
def test_other_layers_are_left_alone(other: nn.Module) -> None:
    assert not fits(other)
    assert fits(nn.Conv2d(8, 8, 3, padding=1))
