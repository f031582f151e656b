"""The learned update: matching costs to a new hidden state (paper, Sec. 3.2.1, Eq. 6, 7 and 9)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

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

    def context_terms(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """The context's share of the gates (B, 128, h, w) and of the candidate (B, 64, h, w).

        The input is the context, which stays, and the motion features, which change: by linearity their
        shares of a convolution add up, and this one is needed once a frame only. Biases are in it.
        """
        inp, q = self.conv_inp, self.convq
        gates = conv2d(context, inp.weight[:, :CHANNELS], inp.bias, padding=1)
        candidate = conv2d(context, q.weight[:, CHANNELS : 2 * CHANNELS], q.bias, padding=1)
        return gates, candidate

    def forward(self, h: Tensor, motion: Tensor, context_terms: tuple[Tensor, Tensor]) -> Tensor:
        """Hidden state and motion features (B, 64, h, w) to the next hidden state (B, 64, h, w)."""
        context_gates, context_candidate = context_terms
        q_weight = self.convq.weight
        motion_gates = conv2d(motion, self.conv_inp.weight[:, CHANNELS:], padding=1)
        motion_candidate = conv2d(motion, q_weight[:, 2 * CHANNELS :], padding=1)
        glo = (torch.sigmoid(self.w(h)) * h).mean((2, 3), keepdim=True)
        gates_z, gates_r = (self.conv_net(h) + motion_gates + context_gates).chunk(2, 1)
        z = torch.sigmoid(gates_z + self.convz_glo(glo))
        r = torch.sigmoid(gates_r + self.convr_glo(glo))
        state_candidate = conv2d(r * h, q_weight[:, :CHANNELS], padding=1)
        q = torch.tanh(state_candidate + motion_candidate + context_candidate + self.convq_glo(glo))
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

    def context_terms(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`ConvGRU.context_terms`."""
        return self.gru.context_terms(context)

    def hidden_state(
        self, h: Tensor, context_terms: tuple[Tensor, Tensor], cost: Tensor, depth: Tensor
    ) -> Tensor:
        """The next hidden state (B, 64, h, w)."""
        out: Tensor = self.gru(h, self.encoder(cost, depth), context_terms)
        return out

    def upsampling_logits(self, h: Tensor) -> Tensor:
        """Weights of the convex upsampling (B, 144, h, w), before softmax."""
        return 0.25 * self.upsampling(h)
