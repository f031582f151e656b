"""The network done plainly: what every speed-up is measured against, and must agree with.

As a reader of the paper would write it in PyTorch, without a thought for time: nothing is kept from one frame
to the next, norms are layers of their own, every iteration convolves the context anew, sampled features and
Jacobians exist in memory, maps are contiguous (NCHW), all intermediate disparities are computed. Layers and
the geometry of single points are the package's own; agreement with the published numbers is tested.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dualrefine_ros.geometry.camera import back_project, project, transform
from dualrefine_ros.geometry.se3 import se3_exp
from dualrefine_ros.model.anderson import MEMORY, PLAIN_EVALUATIONS, REGULARISATION
from dualrefine_ros.model.backbones import normalise
from dualrefine_ros.model.coarse_alignment import coarse_pose
from dualrefine_ros.model.depth_marginalisation import depth_flow
from dualrefine_ros.model.disparity import UPSAMPLING
from dualrefine_ros.model.dualrefine import DualRefine
from dualrefine_ros.model.epipolar import depth_candidates, epipolar_coordinates, feature_levels
from dualrefine_ros.model.pose_alignment import projection_jacobian, solve_step
from dualrefine_ros.model.refiner import MatchingFeatures
from dualrefine_ros.model.sampling import plain
from dualrefine_ros.model.update_block import ConvGRU, UpdateBlock
from dualrefine_ros.network_io import StageClock


@dataclass(frozen=True)
class Pair:
    """What the iterations on a pair of frames read: maps (B, ., h, w), intrinsics (B, 4) at their size."""

    match_cur: Tensor
    match_prev: Tensor
    conf_cur: Tensor
    conf_prev: Tensor
    context: Tensor
    intrinsics: Tensor


@dataclass(frozen=True)
class ReferenceResult:
    """Disparities (B, 1, H, W) in [0, 1] and poses (B, 4, 4) of :func:`reference_frame`."""

    disp_teacher: Tensor
    disp_refined: Tensor
    T_prev_cur_teacher: Tensor
    T_prev_cur: Tensor


def reference_frame(
    model: DualRefine,
    image_cur: Tensor,
    image_prev: Tensor,
    intrinsics: Tensor,
    iterations: int,
    clock: StageClock,
) -> ReferenceResult:
    """One whole frame.

    Args:
        model: as it is trained, in evaluation mode, not folded.
        image_cur, image_prev: (B, 3, H, W), RGB in [0, 1].
        intrinsics: (B, 4) at this size.
        iterations: of the refiner.
        clock: measures the stages.
    """
    cur, prev = normalise(image_cur), normalise(image_prev)
    with clock("encode"):
        pair, disparity, hidden = encode_both(model, cur, prev, intrinsics / UPSAMPLING)
    with clock("teacher_pose"):
        T_teacher = model.pose_teacher.to_previous(prev, cur)
    with clock("refine"):
        depth = model.to_depth(disparity)
        T = start(model, pair, depth, T_teacher) if iterations else T_teacher
        refined_hidden, depth, T = solve(model, pair, hidden, depth, T, iterations)
    with clock("upsample"):
        disp_teacher = model.upsample(disparity, hidden)
        disp_refined = model.upsample(model.to_disparity(depth), refined_hidden)
    return ReferenceResult(disp_teacher, disp_refined, T_teacher, T)


def encode_both(
    model: DualRefine, cur: Tensor, prev: Tensor, intrinsics: Tensor
) -> tuple[Pair, Tensor, Tensor]:
    """From normalised images (B, 3, H, W): the pair, the teacher's disparity at 1/4, the first state."""
    refiner, decoder = model.refiner, model.depth_decoder
    pyramid = model.depth_backbone(cur)
    q_cur, q_prev = pyramid.matching, model.depth_backbone.matching(prev)
    x8, d4 = decoder.eighth_and_quarter(pyramid)
    disparities = [  # of all scales that the published network computes
        decoder.disparity_at(3, x8),
        decoder.disparity_at(2, d4),
        decoder.disparity_at(1, decoder.at_half(d4, pyramid)),
    ]
    pair = Pair(
        refiner.matching(q_cur).contiguous(),
        refiner.matching(q_prev).contiguous(),
        refiner.fixed_confidence(q_cur),
        refiner.fixed_confidence(q_prev),
        torch.relu(refiner.context(d4)),
        intrinsics,
    )
    return pair, disparities[1], torch.tanh(refiner.hidden(d4))


def start(model: DualRefine, pair: Pair, depth: Tensor, T_teacher: Tensor) -> Tensor:
    """The pose (B, 4, 4) that refinement starts from; the engine's own code on plain sampling."""
    steps = model.config.coarse_steps
    if steps == 0:
        return T_teacher
    cur = MatchingFeatures(pair.match_cur, pair.conf_cur)
    prev = MatchingFeatures(pair.match_prev, pair.conf_prev)
    return coarse_pose(cur, prev, depth, T_teacher, pair.intrinsics, steps)


def solve(
    model: DualRefine, pair: Pair, hidden: Tensor, depth: Tensor, T_prev_cur: Tensor, iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The fixed point by Anderson acceleration; returns hidden state, depth and pose."""
    (B, C, h, w), n = hidden.shape, hidden[0].numel()
    pose, best_pose, best_norm = T_prev_cur, T_prev_cur, torch.ones_like(T_prev_cur[:, 0, 0])

    def evaluate(x: Tensor) -> Tensor:
        nonlocal pose, best_pose, best_norm
        new_hidden, new_depth, pose, xi = update(
            model, pair, x[:, :n].view(B, C, h, w), x[:, n:].view(B, 1, h, w), pose
        )
        closer = xi.norm(dim=1) < best_norm
        best_pose = torch.where(closer[:, None, None], pose, best_pose)
        best_norm = torch.where(closer, xi.norm(dim=1), best_norm)
        return torch.cat((new_hidden.flatten(1), new_depth.flatten(1)), 1)

    x = result = torch.cat((hidden.flatten(1), depth.flatten(1)), 1)
    smallest = x.new_full((), torch.inf)
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    for k in range(iterations):
        f = evaluate(x)
        difference = (f - x).abs().mean()
        if k < PLAIN_EVALUATIONS:
            result = f
        elif difference < smallest:
            result, smallest = x, difference
        inputs, outputs = [*inputs, x][-MEMORY:], [*outputs, f][-MEMORY:]
        x = f if k + 1 < PLAIN_EVALUATIONS else mixed(torch.stack(inputs, 1), torch.stack(outputs, 1))
    return result[:, :n].view(B, C, h, w), result[:, n:].view(B, 1, h, w), best_pose


def mixed(inputs: Tensor, outputs: Tensor) -> Tensor:
    """Anderson's next iterate (B, n) from the last inputs and outputs (B, k, n) of the update."""
    residuals = outputs - inputs
    B, k, _ = residuals.shape
    system = residuals.new_zeros(B, k + 1, k + 1)
    system[:, 0, 1:] = system[:, 1:, 0] = 1
    identity = torch.eye(k, device=residuals.device)
    system[:, 1:, 1:] = residuals @ residuals.transpose(1, 2) + REGULARISATION * identity
    right = torch.zeros_like(system[:, :, :1])
    right[:, 0] = 1
    weights = torch.linalg.solve(system, right)[:, 1:]
    return (weights * outputs).sum(1)


def update(
    model: DualRefine, pair: Pair, hidden: Tensor, depth: Tensor, T_prev_cur: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One update: depth by matching, pose by alignment; hidden state, depth, pose and twist (B, 6)."""
    refiner, block = model.refiner, model.refiner.update_block
    assert isinstance(block, UpdateBlock)  # not that of inference
    g = refiner.max_update(depth)
    pixels = epipolar_coordinates(depth_candidates(depth, g), T_prev_cur, pair.intrinsics)
    levels = feature_levels(pair.match_prev)
    cost = plain.epipolar_cost(pair.match_cur, levels, pixels)
    hidden = gru(block.gru, hidden, torch.cat((pair.context, block.encoder(cost, depth)), 1))
    depth = depth + torch.tanh(block.depth_head(hidden)) * g
    depth = depth.clamp(model.config.min_depth, model.config.max_depth)
    weight = pair.conf_cur * block.evolving_confidence(hidden)
    T_prev_cur, xi = gauss_newton(depth, T_prev_cur, pair, weight, model.config.depth_deviation)
    return hidden, depth, T_prev_cur, xi


def gru(layers: ConvGRU, h: Tensor, x: Tensor) -> Tensor:
    """The next hidden state (B, 64, h, w) from the input (B, 128, h, w), context and motion features."""
    glo = (torch.sigmoid(layers.w(h)) * h).mean((2, 3), keepdim=True)
    net_z, net_r = layers.conv_net(h).chunk(2, 1)
    inp_z, inp_r = layers.conv_inp(x).chunk(2, 1)
    z = torch.sigmoid(net_z + inp_z + layers.convz_glo(glo))
    r = torch.sigmoid(net_r + inp_r + layers.convr_glo(glo))
    q = torch.tanh(layers.convq(torch.cat((r * h, x), 1)) + layers.convq_glo(glo))
    return (1 - z) * h + z * q


def gauss_newton(
    depth: Tensor, T_prev_cur: Tensor, pair: Pair, weight: Tensor, depth_deviation: float
) -> tuple[Tensor, Tensor]:
    """One step over all pixels and channels, ``J`` (B, 64, 6, h, w) in full; the pose and its twist."""
    h, w = depth.shape[-2:]
    points = transform(T_prev_cur, back_project(depth, pair.intrinsics))
    pixels = project(points, pair.intrinsics)
    weight = weight * plain.sample(pair.conf_prev, pixels, h, w)
    e = pair.match_cur - plain.sample(pair.match_prev, pixels, h, w)
    gu, gv = plain.image_gradient(pair.match_prev, pixels)
    dp_dxi = projection_jacobian(points, pair.intrinsics)  # (B, 2, 6, h, w)
    J = -(gu[:, :, None] * dp_dxi[:, None, 0] + gv[:, :, None] * dp_dxi[:, None, 1])
    rows = J.movedim(2, -1).flatten(1, 3)  # (B, 64 h w, 6)
    weighted = (J * weight[:, :, None]).movedim(2, -1).flatten(1, 3)
    H = weighted.transpose(1, 2) @ rows
    b = (weighted.transpose(1, 2) @ e.reshape(len(e), -1, 1))[:, :, 0]
    if depth_deviation:
        du, dv = depth_flow(points, T_prev_cur, pair.intrinsics).split(1, 1)
        J_depth = -(gu * du + gv * dv)  # (B, 64, h, w)
        variance = (weight * e * e).sum((1, 2, 3)) / (e.shape[1] * weight.sum((1, 2, 3)))
        information = (J_depth * J_depth).sum(1) + variance[:, None, None] / depth_deviation**2
        with_xi = (J_depth[:, :, None] * J).sum(1).flatten(2)  # (B, 6, h w)
        gain = (weight[:, 0] / information).flatten(1)[:, None] * with_xi
        H_marginal = H - gain @ with_xi.transpose(1, 2)
        b_marginal = b - (gain @ (J_depth * e).sum(1).flatten(1)[:, :, None])[:, :, 0]
        length = normalize(torch.cat((T_prev_cur[:, :3, 3], torch.zeros_like(b[:, 3:])), 1))[:, :, None]
        H_lost, b_lost = part_along(length, H_marginal, b_marginal)
        H_known, b_known = part_along(length, H, b)
        H, b = H_marginal - H_lost + H_known, b_marginal - b_lost + b_known
    xi, _ = solve_step(H, b)
    return se3_exp(xi) @ T_prev_cur, xi


def part_along(direction: Tensor, H: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The rank-one part of normal equations (B, 6, 6), (B, 6) that belongs to a direction (B, 6, 1)."""
    along = H @ direction
    share = along / (direction.transpose(1, 2) @ along)
    return share @ along.transpose(1, 2), (share @ (direction.transpose(1, 2) @ b[:, :, None]))[:, :, 0]
