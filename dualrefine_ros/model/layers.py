"""Small layers that several rooms of the network share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class ResidualBlock(nn.Module):
    """conv3x3, norm, relu, conv3x3, norm, relu, add input, relu; as in RAFT (Teed and Deng, 2020)."""

    def __init__(self, channels: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm1 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        y = torch.relu(self.norm1(self.conv1(x)))
        y = torch.relu(self.norm2(self.conv2(y)))
        return torch.relu(x + y)


def residual_head(channels: int) -> nn.Sequential:
    """A residual block with instance norm, then conv3x3: the heads for matching, context and state."""
    return nn.Sequential(
        ResidualBlock(channels, nn.InstanceNorm2d), nn.Conv2d(channels, channels, 3, padding=1)
    )


class ChannelAttention(nn.Module):
    """Squeeze and excitation without biases (Hu et al., 2018), as DIFFNet places it."""

    def __init__(self, channels: int, ratio: int = 16) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // ratio, bias=False),
            nn.ReLU(),
            nn.Linear(channels // ratio, channels, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) times a weight in (0, 1) per channel."""
        weights: Tensor = torch.sigmoid(self.fc(x.mean((2, 3))))
        return x * weights[:, :, None, None]


class ReflectionConv(nn.Module):
    """conv3x3 after a reflection padding of 1."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C', h, w)."""
        out: Tensor = self.conv(x)
        return out


def conv(in_channels: int, out_channels: int, kernel: int = 3) -> nn.Conv2d:
    """A weight-normalised convolution that keeps the size (Salimans and Kingma, 2016)."""
    layer: nn.Conv2d = weight_norm(nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2))
    return layer
