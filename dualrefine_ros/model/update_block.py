"""The learned update: matching costs to a new hidden state (paper, Sec. 3.2.1, Eq. 6, 7 and 9)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dualrefine_ros.model.disparity import UPSAMPLING
from dualrefine_ros.model.epipolar import COSTS
from dualrefine_ros.model.layers import conv

CHANNELS = 64  # of hidden state, context and motion features


class MotionEncoder(nn.Module):
    """Matching costs and depth to features."""

    def __init__(self) -> None:
        super().__init__()
        self.convc1 = conv(COSTS, 96, 1)
        self.convc2 = conv(96, 64)
        self.convf1 = conv(1, 64, 7)
        self.convf2 = conv(64, 32)
        self.conv = conv(64 + 32, CHANNELS - 1)

    def forward(self, cost: Tensor, depth: Tensor) -> Tensor:
        """(B, 51, h, w) and (B, 1, h, w) to (B, 64, h, w), the last channel being the depth itself."""
        from_cost = torch.relu(self.convc2(torch.relu(self.convc1(cost))))
        from_depth = torch.relu(self.convf2(torch.relu(self.convf1(depth))))
        motion = torch.relu(self.conv(torch.cat((from_cost, from_depth), 1)))
        return torch.cat((motion, depth.to(motion.dtype)), 1)


class ConvGRU(nn.Module):
    """A convolutional GRU with a global context term, as in DROID-SLAM (Teed and Deng, 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_net = conv(CHANNELS, 2 * CHANNELS)
        self.conv_inp = conv(2 * CHANNELS, 2 * CHANNELS)
        self.convq = conv(3 * CHANNELS, CHANNELS)
        self.w = conv(CHANNELS, CHANNELS, 1)
        self.convz_glo = conv(CHANNELS, CHANNELS, 1)
        self.convr_glo = conv(CHANNELS, CHANNELS, 1)
        self.convq_glo = conv(CHANNELS, CHANNELS, 1)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Hidden state (B, 64, h, w) and input (B, 128, h, w) to the next hidden state."""
        glo = (torch.sigmoid(self.w(h)) * h).mean((2, 3), keepdim=True)
        net_z, net_r = self.conv_net(h).chunk(2, 1)
        inp_z, inp_r = self.conv_inp(x).chunk(2, 1)
        z = torch.sigmoid(net_z + inp_z + self.convz_glo(glo))
        r = torch.sigmoid(net_r + inp_r + self.convr_glo(glo))
        q = torch.tanh(self.convq(torch.cat((r * h, x), 1)) + self.convq_glo(glo))
        return (1 - z) * h + z * q


class DepthHead(nn.Module):
    """Hidden state to the depth update, before its bound."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv(CHANNELS, CHANNELS)
        self.conv2 = conv(CHANNELS, 1)

    def forward(self, h: Tensor) -> Tensor:
        """(B, 64, h, w) to (B, 1, h, w)."""
        out: Tensor = self.conv2(torch.relu(self.conv1(h)))
        return out


class UpdateBlock(nn.Module):
    """Everything that reads the hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = MotionEncoder()
        self.gru = ConvGRU()
        self.depth_head = DepthHead()
        self.evolving_confidence = nn.Sequential(
            nn.Conv2d(CHANNELS, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 1, 1), nn.Sigmoid()
        )
        self.upsampling = nn.Sequential(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(CHANNELS, 9 * UPSAMPLING * UPSAMPLING, 1),
        )

    def hidden_state(self, h: Tensor, context: Tensor, cost: Tensor, depth: Tensor) -> Tensor:
        """The next hidden state (B, 64, h, w)."""
        x = torch.cat((context, self.encoder(cost, depth)), 1)
        out: Tensor = self.gru(h, x)
        return out

    def upsampling_logits(self, h: Tensor) -> Tensor:
        """Weights of the convex upsampling (B, 144, h, w), before softmax."""
        return 0.25 * self.upsampling(h)
