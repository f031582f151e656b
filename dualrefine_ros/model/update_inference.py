"""The learned update as inference computes it: the same sums in fewer, larger convolutions.

By linearity a convolution of several maps is the sum of theirs: hidden state and motion features go through
the gates together, the context's share is added on the way, and so is the global term.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from dualrefine_ros.model.convolution import Convolution3x3
from dualrefine_ros.model.update_block import CHANNELS, UpdateBlock


class InferenceUpdate(nn.Module):
    """Does what an :class:`UpdateBlock` without weight normalisation does; not for training."""

    def __init__(self, block: UpdateBlock) -> None:
        super().__init__()
        encoder, gru = block.encoder, block.gru
        self.cost_1, self.cost_2 = encoder.convc1, Convolution3x3.like(encoder.convc2)
        self.depth_1, self.depth_2 = encoder.convf1, Convolution3x3.like(encoder.convf2)
        self.motion = Convolution3x3.like(encoder.conv)

        state, context, motion = gru.convq.weight.chunk(3, 1)
        of_context, of_motion = gru.conv_inp.weight.chunk(2, 1)
        self.gates = Convolution3x3(torch.cat((gru.conv_net.weight, of_motion), 1), gru.conv_net.bias)
        self.candidate = Convolution3x3(torch.cat((state, motion), 1), None)
        self.context_gates = Convolution3x3(of_context, gru.conv_inp.bias)
        self.context_candidate = Convolution3x3(context, gru.convq.bias)
        self.attention = gru.w
        globals_ = (gru.convz_glo, gru.convr_glo, gru.convq_glo)
        self.global_weight = nn.Parameter(torch.cat([c.weight.flatten(1) for c in globals_]), False)
        self.global_bias = nn.Parameter(torch.cat([c.bias for c in globals_ if c.bias is not None]), False)

        depth_1, confidence_1 = block.depth_head.conv1, block.evolving_confidence[0]
        self.depth_head_1, self.depth_head_2 = Convolution3x3.like(depth_1), block.depth_head.conv2
        assert isinstance(confidence_1, nn.Conv2d)
        self.confidence_1 = Convolution3x3.like(confidence_1)
        self.confidence_2 = block.evolving_confidence[2]
        self.upsampling = block.upsampling

    def context_terms(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`~dualrefine_ros.model.update_block.ConvGRU.context_terms`."""
        return self.context_gates(context), self.context_candidate(context)

    def hidden_state(
        self, h: Tensor, context_terms: tuple[Tensor, Tensor], cost: Tensor, depth: Tensor
    ) -> Tensor:
        """See :meth:`UpdateBlock.hidden_state`."""
        from_cost = self.cost_2(torch.relu_(self.cost_1(cost)), relu=True)
        from_depth = self.depth_2(torch.relu_(self.depth_1(depth)), relu=True)
        motion = self.motion(from_cost, from_depth, relu=True)
        motion = torch.cat((motion, depth.to(motion.dtype)), 1)
        glo = (torch.sigmoid(self.attention(h)) * h).mean((2, 3))
        glo_gates, glo_candidate = linear(glo, self.global_weight, self.global_bias).split(
            (2 * CHANNELS, CHANNELS), 1
        )
        z, r = torch.sigmoid(self.gates(h, motion, bias=glo_gates, addend=context_terms[0])).chunk(2, 1)
        candidate = self.candidate(r * h, motion, bias=glo_candidate, addend=context_terms[1])
        q = 2 * torch.sigmoid(2 * candidate) - 1  # tanh, in half its time on a CPU
        return torch.lerp(h, q.to(h.dtype), z.to(h.dtype))

    def depth_head(self, h: Tensor) -> Tensor:
        """See :class:`~dualrefine_ros.model.update_block.DepthHead`."""
        out: Tensor = self.depth_head_2(self.depth_head_1(h, relu=True))
        return out

    def evolving_confidence(self, h: Tensor) -> Tensor:
        """Hidden state (B, 64, h, w) to (B, 1, h, w) in (0, 1)."""
        return torch.sigmoid(self.confidence_2(self.confidence_1(h, relu=True)))

    def upsampling_logits(self, h: Tensor) -> Tensor:
        """See :meth:`UpdateBlock.upsampling_logits`."""
        out: Tensor = 0.25 * self.upsampling(h)
        return out
