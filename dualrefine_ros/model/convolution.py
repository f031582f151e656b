"""3x3 convolutions at inference: fewer multiplications on the CPU, and what follows them done on the way."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from dualrefine_ros.model import native

_MIN_CHANNELS = 32  # with fewer, or on smaller maps, PyTorch's convolution is the faster one
_MIN_TILES = 100  # of 4x4 pixels


class Convolution3x3(nn.Module):
    """A convolution with stride 1 and padding 1, on weights that stay.

    On the CPU, in float32, it runs by Winograd's algorithm (see ``native/convolution.cpp``), which rounds
    differently: by some 1e-5 where PyTorch does by 1e-6.

    Args:
        weight: (O, C, 3, 3).
        bias: (O,), or None.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        self._packed: Tensor | None = None  # the weights as the algorithm reads them

    @classmethod
    def like(cls, conv: nn.Conv2d) -> Convolution3x3:
        """One that does the same; see :func:`fits`."""
        return cls(conv.weight, conv.bias)

    def forward(
        self, *maps: Tensor, bias: Tensor | None = None, addend: Tensor | None = None, relu: bool = False
    ) -> Tensor:
        """The convolution of maps (B, ., H, W), whose channels follow each other, to (B, O, H, W).

        Args:
            maps: together (B, C, H, W).
            bias: (B, O), added to the layer's own.
            addend: (B, O, H, W), added before the relu.
            relu: whether negative numbers become 0.
        """
        if self._can_read(maps, bias, addend) and self._is_worth_it(maps):
            return self._winograd(maps, bias, addend, relu)
        out = conv2d(maps[0] if len(maps) == 1 else torch.cat(maps, 1), self.weight, self.bias, padding=1)
        if bias is not None:
            out = out + bias[:, :, None, None]
        if addend is not None:
            out = out + addend
        return torch.relu(out) if relu else out

    def _is_worth_it(self, maps: tuple[Tensor, ...]) -> bool:
        B, _, H, W = maps[0].shape
        return (
            not torch.compiler.is_compiling()
            and not torch.is_autocast_enabled("cpu")
            and self.weight.shape[1] >= _MIN_CHANNELS
            and B * -(-H // 4) * -(-W // 4) >= _MIN_TILES
            and native.available()
        )

    def _can_read(self, maps: tuple[Tensor, ...], bias: Tensor | None, addend: Tensor | None) -> bool:
        """Whether all numbers lie where C++ looks for them; else PyTorch computes, or says what is wrong."""
        weight, grad = self.weight, torch.is_grad_enabled()
        for t in (weight, self.bias, bias, addend, *maps):
            if t is not None and (t.dtype != torch.float32 or not t.is_cpu or (grad and t.requires_grad)):
                return False
        (outs, ins, _, _), (B, _, H, W) = weight.shape, maps[0].shape
        channels = 0
        for m in maps:
            shape = m.shape
            if shape != (B, shape[1], H, W):
                return False
            channels += shape[1]
        return (
            channels == ins
            and (bias is None or bias.shape == (B, outs))
            and (addend is None or addend.shape == (B, outs, H, W))
        )

    def _winograd(
        self, maps: tuple[Tensor, ...], bias: Tensor | None, addend: Tensor | None, relu: bool
    ) -> Tensor:
        library = native.library()
        (outs, ins), (B, _, H, W) = self.weight.shape[:2], maps[0].shape
        if self._packed is None:
            packed = torch.empty(native.packed_size(outs, ins))
            weight = self.weight.contiguous()
            library.convolution_pack(native.pointer(weight), outs, ins, native.pointer(packed))
            self._packed = packed
        maps = tuple(m.contiguous(memory_format=torch.channels_last) for m in maps)
        if addend is not None:
            addend = addend.contiguous(memory_format=torch.channels_last)
        total: Tensor | None = self.bias
        if bias is not None:
            total = bias.contiguous() if total is None else bias + total
        out = torch.empty(B, outs, H, W, memory_format=torch.channels_last)
        count = len(maps)
        library.convolution(
            (ctypes.c_int * 5)(B, H, W, outs, count),
            (ctypes.c_int * count)(*(m.shape[1] for m in maps)),
            (ctypes.c_void_p * count)(*(m.data_ptr() for m in maps)),
            native.pointer(self._packed),
            native.pointer(total),
            0 if bias is None else outs,
            native.pointer(addend),
            int(relu),
            native.pointer(out),
            torch.get_num_threads(),
        )
        return out


def fits(module: nn.Module) -> bool:
    """Whether a module is a convolution that :class:`Convolution3x3` can stand in for."""
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == (3, 3)
        and module.stride == module.padding == module.dilation == (1, 1)
        and module.groups == 1
        and module.padding_mode == "zeros"
    )
