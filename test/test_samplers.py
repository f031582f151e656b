"""Every implementation of the sampler against plain PyTorch, values and gradients.

Triton's kernels run in its interpreter, which must be chosen before they are defined: run in a process
of their own (``TRITON_INTERPRET=1``), started by the last test.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from dualrefine_ros.errors import ConfigError
from dualrefine_ros.geometry.se3 import se3_exp
from dualrefine_ros.model import cache
from dualrefine_ros.model.epipolar import feature_levels
from dualrefine_ros.model.native import compiled
from dualrefine_ros.model.sampling import PLAIN, Sampler, choose, plain

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CPU = torch.device("cpu")
NAME = "triton" if INTERPRETED else "native"
Inputs = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def fused() -> Sampler:
    return choose(NAME, CPU)


def inputs(batch: int, channels: int, h: int, w: int, spread: float = 3.0, seed: int = 0) -> Inputs:
    """Current and previous features, and 6 candidates a pixel around it, some outside the image."""
    generator = torch.Generator().manual_seed(seed)
    cur, prev = torch.randn(2, batch, channels, h, w, generator=generator)
    v, u = torch.meshgrid(torch.arange(float(h)), torch.arange(float(w)), indexing="ij")
    pixels = torch.stack((u, v))[None, :, None] + spread * torch.randn(batch, 2, 6, h, w, generator=generator)
    return cur, prev, pixels


def costs(epipolar_cost: Callable[..., Tensor], cur: Tensor, prev: Tensor, pixels: Tensor) -> Tensor:
    """Two levels, the second of half the resolution."""
    return epipolar_cost(cur, [prev, avg_pool2d(prev, 2)], pixels)


@pytest.mark.parametrize("shape", [(1, 64, 8, 16), (2, 64, 6, 10), (2, 5, 4, 6)])
def test_costs(fused: Sampler, shape: tuple[int, int, int, int]) -> None:
    given = inputs(*shape)
    torch.testing.assert_close(
        costs(fused.epipolar_cost, *given), costs(plain.epipolar_cost, *given), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("shape", [(1, 64, 8, 16), (2, 5, 4, 6)])
def test_gradients(fused: Sampler, shape: tuple[int, int, int, int]) -> None:
    """Against double precision; a difference so small that its sign is rounding would spoil it."""
    cur, prev, pixels = inputs(*shape)
    weights = torch.randn(shape[0], 6, *shape[2:], generator=torch.Generator().manual_seed(9))

    def gradients(epipolar_cost: Callable[..., Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [t.to(dtype).requires_grad_() for t in (cur, prev, pixels)]
        return torch.autograd.grad((costs(epipolar_cost, *leaves) * weights).sum(), leaves)

    actual = gradients(fused.epipolar_cost, torch.float32)
    expected = gradients(plain.epipolar_cost, torch.float64)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e.float(), atol=2e-5, rtol=1e-4)


def test_gradcheck_of_the_definition() -> None:
    """The plain sampler, to which the others are compared, against finite differences."""
    cur, prev, pixels = inputs(1, 2, 3, 4, spread=0.3)
    leaves = [t.double().requires_grad_() for t in (cur, prev, pixels)]
    assert torch.autograd.gradcheck(
        lambda a, b, at: plain.epipolar_cost(a, [b], at), leaves, eps=1e-7, atol=1e-5
    )


@pytest.mark.parametrize("channels", [64, 3])
def test_moments(fused: Sampler, channels: int) -> None:
    cur, prev, pixels = inputs(2, channels, 8, 10)
    actual = fused.alignment_moments(cur, prev, pixels[:, :, 0])
    expected = plain.alignment_moments(cur.double(), prev.double(), pixels[:, :, 0].double())
    torch.testing.assert_close(actual, expected.float(), atol=1e-4, rtol=1e-5)


def test_moments_give_gradients(fused: Sampler) -> None:
    given = [t.requires_grad_() for t in (*inputs(1, 4, 4, 6)[:2], inputs(1, 4, 4, 6)[2][:, :, 0])]
    a = torch.autograd.grad(fused.alignment_moments(*given).sum(), given)
    b = torch.autograd.grad(plain.alignment_moments(*given).sum(), given)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", ["plain", NAME])
@pytest.mark.parametrize("far", [1e8, -1e30, 3e38])
def test_far_coordinates_count_as_outside(name: str, far: float) -> None:
    cur, prev, pixels = inputs(1, 64, 4, 6)
    pixels[:] = far
    sampler = choose(name, CPU)
    expected = cur.abs().mean(1, keepdim=True).expand(1, 6, 4, 6)
    torch.testing.assert_close(costs(sampler.epipolar_cost, cur, prev, pixels), expected)
    moments = sampler.alignment_moments(cur, prev, pixels[:, :, 0])
    assert bool((moments[:, :5] == 0).all())
    torch.testing.assert_close(moments[:, 5], cur.square().sum(1))


@pytest.mark.parametrize("name", ["plain", NAME])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_at_coordinates_that_are_not_finite_there_is_no_number(name: str, axis: int, bad: float) -> None:
    """Neither a cost nor moments, and no gradient of the features; all other places are as they were."""
    cur, prev, pixels = inputs(1, 64, 4, 6)
    wrong = pixels.clone()
    wrong[0, axis, :, 1, 2] = bad
    there = torch.zeros(4, 6, dtype=torch.bool)
    there[1, 2] = True
    sampler = choose(name, CPU)
    leaves = [t.clone().requires_grad_() for t in (cur, prev)]
    cost = costs(sampler.epipolar_cost, *leaves, wrong)
    gradients = torch.autograd.grad(cost.sum(), leaves)
    moments = sampler.alignment_moments(cur, prev, wrong[:, :, 0])
    for actual, exact in (
        (cost.detach(), costs(plain.epipolar_cost, cur, prev, pixels)),
        (moments, plain.alignment_moments(cur, prev, pixels[:, :, 0])),
    ):
        assert bool(actual[..., there].isnan().all())
        torch.testing.assert_close(actual[..., ~there], exact[..., ~there], atol=2e-4, rtol=1e-5)
    assert bool((gradients[0][..., there] == 0).all())
    assert bool(torch.isfinite(gradients[1]).all())


@pytest.mark.parametrize("name", ["plain", NAME])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [(0, 0), (0, 5), (3, 5), (2, 1)])
def test_features_that_are_not_finite_touch_their_neighbours_only(
    name: str, place: tuple[int, int], bad: float
) -> None:
    """Those of the previous frame, where they are sampled; outside of the image least of all."""
    cur, prev, pixels = inputs(1, 64, 4, 6, spread=2.0)
    prev[0, 7, place[0], place[1]] = bad
    sampler = choose(name, CPU)
    u, v = pixels[0, 0] - place[1], pixels[0, 1] - place[0]
    beside, beside_gradient = (u.abs() < 1) & (v.abs() < 1), (u.abs() < 2) & (v.abs() < 2)
    cost = sampler.epipolar_cost(cur, [prev], pixels)
    assert torch.equal(~torch.isfinite(cost[0]), beside)
    moments = sampler.alignment_moments(cur, prev, pixels[:, :, 0])
    assert bool(torch.isfinite(moments[0, :, ~beside_gradient[0]]).all())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_search_among_what_is_not_finite(fused: Sampler, bad: float) -> None:
    """As the plain one does it: depth, and features in the corners, where candidates from outside look."""
    cur, prev, _ = inputs(1, 64, 8, 16)
    depth = 0.1 + 40 * torch.rand(1, 1, 8, 16, generator=torch.Generator().manual_seed(2))
    depth[0, 0, 4, 5] = bad
    prev[0, 7, 0, 0] = prev[0, 7, 7, 15] = bad
    twist, intrinsics = (
        torch.tensor([[0.3, -0.1, -0.5, 0.02, 0.05, -0.01]]),
        torch.tensor([[9.5, 11, 8, 3]]),
    )
    given = (cur, feature_levels(prev), depth, depth / 8, se3_exp(twist), intrinsics)
    expected = PLAIN.epipolar_search(*given).isfinite()
    with torch.inference_mode():
        actual = fused.epipolar_search(*given)
    assert bool(actual[0, :, 4, 5].isnan().all())
    assert (
        actual.isfinite() != expected
    ).float().mean() < 1e-3  # the last bit moves a sample to its neighbour
    assert 0.7 < expected.float().mean() < 1


@pytest.mark.parametrize("shape", [(1, 64, 4, 12), (2, 5, 6, 4)])
@pytest.mark.parametrize("forwards", [0.5, -9.0, 60.0], ids=["on", "back", "through the plane of the camera"])
def test_search_in_one_step(fused: Sampler, shape: tuple[int, int, int, int], forwards: float) -> None:
    """Coordinates from depth and pose computed on the way, for close and far candidates alike."""
    cur, prev, _ = inputs(*shape)
    B, _, h, w = shape
    depth = 0.1 + 40 * torch.rand(B, 1, h, w, generator=torch.Generator().manual_seed(2))
    twist = torch.tensor([[0.3, -0.1, -forwards, 0.02, 0.05, -0.01]]).expand(B, 6)
    intrinsics = torch.tensor([[0.6 * w, 0.7 * w, 0.5 * w, 0.4 * h]]).expand(B, 4)
    given = (cur, feature_levels(prev), depth, depth / 8, se3_exp(twist), intrinsics)
    expected = PLAIN.epipolar_search(*given)
    with torch.inference_mode():
        actual = fused.epipolar_search(*given)
    # close to the camera's plane a pixel is far from certain: the last bit of 1/Z moves it
    wrong = (actual - expected).abs() > 1e-3
    assert wrong.float().mean() < 1e-3
    assert expected.std() > 0.05


def test_half_precision_is_widened(fused: Sampler) -> None:
    cur, prev, pixels = inputs(1, 64, 4, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cost = fused.epipolar_cost(cur.bfloat16(), [prev.bfloat16()], pixels)
    expected = plain.epipolar_cost(cur.bfloat16().float(), [prev.bfloat16().float()], pixels)
    torch.testing.assert_close(cost, expected, atol=1e-5, rtol=0)


@pytest.mark.skipif(INTERPRETED, reason="the choice on a CPU without the interpreter")
def test_choice() -> None:
    assert choose("plain", CPU) is PLAIN
    assert choose("auto", CPU).name == "native"
    with pytest.raises(ConfigError, match="CUDA"):
        choose("triton", CPU)
    with pytest.raises(ConfigError, match="no sampler 'abacus'"):
        choose("abacus", CPU)
    with pytest.raises(ConfigError, match="runs on the CPU, not on cuda:1"):
        choose("native", torch.device("cuda:1"))


@pytest.mark.skipif(not INTERPRETED, reason="about the triton sampler")
def test_kernels_are_launched_on_the_gpu_of_their_tensors(
    fused: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dualrefine_ros.model.sampling import triton_kernels

    steps: list[str] = []

    @contextlib.contextmanager
    def device_of(tensor: Tensor) -> Iterator[None]:
        steps.append(f"to {tensor.device}")
        yield
        steps.append("back")

    def kernel(name: str) -> Mapping[tuple[int, int], Callable[..., None]]:
        return defaultdict(lambda: lambda *_, **__: steps.append(name))

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(triton_kernels, "forward", kernel("forward"))
    monkeypatch.setattr(triton_kernels, "backward", kernel("backward"))
    cur, prev, pixels = inputs(1, 4, 4, 6)
    fused.epipolar_cost(cur.requires_grad_(), [prev], pixels).sum().backward()
    assert steps == ["to cpu", "forward", "back", "to cpu", "backward", "back"]


@pytest.mark.skipif(INTERPRETED, reason="about the native sampler")
def test_a_compiled_library_that_was_cut_off_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_library", None)
    monkeypatch.setattr(compiled, "_reason", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = compiled._compiled()
    whole = path.stat().st_size
    os.truncate(path, whole // 3)
    assert compiled.available(), compiled.reason()
    assert path.stat().st_size == whole


@pytest.mark.skipif(INTERPRETED, reason="about the native sampler")
@pytest.mark.parametrize("home", ["a file", "/proc", "none"])
def test_without_a_cache_the_library_is_compiled_for_this_process(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiled, "_library", None)
    monkeypatch.setattr(compiled, "_reason", "")
    cache._temporary.cache_clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (tmp_path / "a file").write_text("no folder")
    monkeypatch.setenv("HOME", str(tmp_path / home))
    if home == "none":
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert choose("native", CPU).name == "native"
    assert len(caplog.messages) == 1
    assert "XDG_CACHE_HOME" in caplog.text
    assert len(list(tmp_path.rglob("*.so"))) == 1
    assert not (tmp_path / "~").exists()


@pytest.mark.skipif(INTERPRETED, reason="about the native sampler")
def test_a_cache_that_may_not_be_looked_into_is_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Permissions do not hold root back, so that the refusal is made."""
    monkeypatch.setattr(compiled, "_library", None)
    monkeypatch.setattr(compiled, "_reason", "")
    cache._temporary.cache_clear()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/closed")
    glob = Path.glob

    def refused(path: Path, pattern: str) -> Iterator[Path]:
        if path.is_relative_to("/proc/closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return glob(path, pattern)

    monkeypatch.setattr(Path, "glob", refused)
    assert choose("native", CPU).name == "native"
    assert len(caplog.messages) == 1


@pytest.mark.skipif(INTERPRETED, reason="about the native sampler")
@pytest.mark.parametrize("compiler", ["", "/bin/false", "no-such-compiler"])
def test_without_a_working_compiler_the_plain_sampler_serves(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_library", None)
    monkeypatch.setattr(compiled, "_reason", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "" if not compiler else os.environ["PATH"])
    monkeypatch.setenv("CXX", compiler)
    assert choose("auto", CPU) is PLAIN
    with pytest.raises(ConfigError, match="native sampler is not to be had"):
        choose("native", CPU)
    assert list(tmp_path.rglob("*.so")) == []


@pytest.mark.skipif(INTERPRETED, reason="starts this very file in the interpreter")
@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed (it has no CPU-only wheels)")
def test_triton_in_its_interpreter() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:]
