"""Triton kernels of the sampler; imported only where Triton is.

A program takes a block of pixels and one candidate after the other: the current features stay in
registers, the four taps are read with the channels side by side, and only the mean leaves the chip.
Maps are channels-last, (B, h, w, C); pixels (B, 2, N, h, w) count in the (h, w) map.
"""

import triton
import triton.language as tl


@triton.jit
def _position(pixels, plane, candidates, k, p, inside, scale_x, scale_y):
    """Where candidate k of pixels p lies in the sampled map, and 0; outside, and NaN, if it is not finite."""
    u = tl.load(pixels + k * plane + p, mask=inside, other=0.0)
    v = tl.load(pixels + (candidates + k) * plane + p, mask=inside, other=0.0)
    x = (u + 0.5) * scale_x - 0.5
    y = (v + 0.5) * scale_y - 0.5
    doubt = 0 * x + 0 * y
    x = tl.where(tl.abs(x) < 1e6, x, -1e6)
    y = tl.where(tl.abs(y) < 1e6, y, -1e6)
    return x, y, doubt


@triton.jit
def _tap(prev, column, row, map_width, map_height, channels, c, mask):
    """Features (pixels, channels) at whole coordinates, zero outside; and where they lie."""
    on_map = (column >= 0) & (column < map_width) & (row >= 0) & (row < map_height)
    at = (row * map_width + column)[:, None] * channels + c[None, :]
    seen = mask & on_map[:, None]
    return tl.load(prev + at, mask=seen, other=0.0), at, seen


@triton.jit
def forward(
    cur, prev, pixels, cost, plane, candidates, channels, map_height, map_width, scale_x, scale_y,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Cost of a block of pixels of one image, for all candidates."""
    batch = tl.program_id(1)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.arange(0, BLOCK_C)
    inside = p < plane
    mask = inside[:, None] & (c < channels)[None, :]
    here = tl.load(cur + batch * plane * channels + p[:, None] * channels + c[None, :], mask=mask, other=0.0)
    prev += batch * map_height * map_width * channels
    pixels += batch * 2 * candidates * plane
    cost += batch * candidates * plane
    for k in range(candidates):
        x, y, doubt = _position(pixels, plane, candidates, k, p, inside, scale_x, scale_y)
        left, top = tl.floor(x), tl.floor(y)
        fx, fy = (x - left)[:, None], (y - top)[:, None]
        column, row = left.to(tl.int32), top.to(tl.int32)
        f00, _, _ = _tap(prev, column, row, map_width, map_height, channels, c, mask)
        f01, _, _ = _tap(prev, column + 1, row, map_width, map_height, channels, c, mask)
        f10, _, _ = _tap(prev, column, row + 1, map_width, map_height, channels, c, mask)
        f11, _, _ = _tap(prev, column + 1, row + 1, map_width, map_height, channels, c, mask)
        sample = (f00 * (1 - fx) + f01 * fx) * (1 - fy) + (f10 * (1 - fx) + f11 * fx) * fy
        mean = tl.sum(tl.where(mask, tl.abs(here - sample), 0.0), 1) / channels
        tl.store(cost + k * plane + p, mean + doubt, mask=inside)


@triton.jit
def backward(
    cur, prev, pixels, grad_cost, grad_cur, grad_prev, grad_pixels,
    plane, candidates, channels, map_height, map_width, scale_x, scale_y,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of pixels of one image; those of the sampled map are added atomically."""
    batch = tl.program_id(1)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    c = tl.arange(0, BLOCK_C)
    inside = p < plane
    mask = inside[:, None] & (c < channels)[None, :]
    own = batch * plane * channels + p[:, None] * channels + c[None, :]
    here = tl.load(cur + own, mask=mask, other=0.0)
    sum_cur = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    prev += batch * map_height * map_width * channels
    grad_prev += batch * map_height * map_width * channels
    pixels += batch * 2 * candidates * plane
    grad_pixels += batch * 2 * candidates * plane
    grad_cost += batch * candidates * plane
    for k in range(candidates):
        x, y, doubt = _position(pixels, plane, candidates, k, p, inside, scale_x, scale_y)
        left, top = tl.floor(x), tl.floor(y)
        fx, fy = (x - left)[:, None], (y - top)[:, None]
        column, row = left.to(tl.int32), top.to(tl.int32)
        f00, at00, on00 = _tap(prev, column, row, map_width, map_height, channels, c, mask)
        f01, at01, on01 = _tap(prev, column + 1, row, map_width, map_height, channels, c, mask)
        f10, at10, on10 = _tap(prev, column, row + 1, map_width, map_height, channels, c, mask)
        f11, at11, on11 = _tap(prev, column + 1, row + 1, map_width, map_height, channels, c, mask)
        upper, lower = f00 * (1 - fx) + f01 * fx, f10 * (1 - fx) + f11 * fx
        difference = here - (upper * (1 - fy) + lower * fy)
        g = (
            tl.where(doubt == 0, tl.load(grad_cost + k * plane + p, mask=inside, other=0.0), 0.0)[:, None]
            / channels
        )
        d = tl.where(difference > 0, g, tl.where(difference < 0, -g, 0.0))
        d = tl.where(mask, d, 0.0)
        sum_cur += d
        tl.atomic_add(grad_prev + at00, -d * (1 - fx) * (1 - fy), mask=on00)
        tl.atomic_add(grad_prev + at01, -d * fx * (1 - fy), mask=on01)
        tl.atomic_add(grad_prev + at10, -d * (1 - fx) * fy, mask=on10)
        tl.atomic_add(grad_prev + at11, -d * fx * fy, mask=on11)
        along_x = (f01 - f00) * (1 - fy) + (f11 - f10) * fy
        grad_u = -tl.sum(d * along_x, 1) * scale_x
        grad_v = -tl.sum(d * (lower - upper), 1) * scale_y
        tl.store(grad_pixels + k * plane + p, grad_u, mask=inside)
        tl.store(grad_pixels + (candidates + k) * plane + p, grad_v, mask=inside)
    tl.store(grad_cur + own, sum_cur, mask=mask)
