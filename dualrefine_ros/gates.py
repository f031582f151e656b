"""What the engine lets pass: usable images, plausible motions, real movement. Pure decisions, no state kept.

Causes are sentences for the user: they end up in :class:`~dualrefine_ros.frame.Estimate`, logs and
diagnostics.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dualrefine_ros.errors import ConfigError
from dualrefine_ros.frame import NANOSECONDS
from dualrefine_ros.geometry.rigid import rotation_angle

_THINNING = 2  # every second pixel is enough to judge an image by


def _positive(owner: object, *names: str) -> None:
    for name in names:
        if not getattr(owner, name) > 0:
            raise ConfigError(f"{name} must be positive, not {getattr(owner, name)}.")


@dataclass(frozen=True)
class ImageGate:
    """Which images are worth looking at.

    Raises:
        ConfigError: a value is out of range.
    """

    min_contrast: float = 10.0  # gray levels between the darkest and the brightest parts; fewer show nothing
    blur_ratio: float = 0.25  # of the usual fine detail, below which an image counts as blurred; 0 never
    refuse_frozen: bool = True  # an image equal to the last, bit by bit: no camera does that (simulators do)

    def __post_init__(self) -> None:
        if not (self.min_contrast >= 0 and 0 <= self.blur_ratio < 1):
            raise ConfigError("min_contrast must be 0 or more and blur_ratio in [0, 1).")


@dataclass(frozen=True)
class Look:
    """What an image looks like.

    Args:
        digest: equal for equal images.
        low, high: gray levels that 1 % of the pixels are below, and above.
        detail: energy of the fine detail along rows and columns, over that of the whole image.
        usual_detail: what ``detail`` has been lately.
    """

    digest: int
    low: float
    high: float
    detail: tuple[float, float]
    usual_detail: tuple[float, float]


_DETAIL_MEMORY = 0.1  # share of each new image; a lens that stays dirty is the new normal after 20 or so


def look_at(image: npt.NDArray[np.uint8], last: Look | None) -> Look:
    """Look at an (H, W, 3) image, knowing how the last one looked."""
    thin = np.ascontiguousarray(image[::_THINNING, ::_THINNING, 1])
    g = thin.astype(np.float32)
    low, high = np.percentile(thin, (1, 99))
    along = (np.mean(np.diff(g, axis=axis) ** 2) for axis in (1, 0))
    u, v = (float((energy + 1e-3) / (g.var() + 1.0)) for energy in along)
    usual = (u, v)
    if last is not None:
        memory = 1 - _DETAIL_MEMORY
        usual_u, usual_v = last.usual_detail
        usual = (usual_u**memory * u**_DETAIL_MEMORY, usual_v**memory * v**_DETAIL_MEMORY)
    return Look(zlib.adler32(np.ascontiguousarray(image).data), float(low), float(high), (u, v), usual)


def blindness(look: Look, last: Look | None, gate: ImageGate) -> str:
    """Why nothing can be seen in an image; empty where something can."""
    contrast = look.high - look.low
    if contrast < gate.min_contrast:
        shade = "black" if look.high < 64 else "white" if look.low > 191 else "blank"
        return (
            f"The image is {shade} ({contrast:.0f} gray levels of contrast): check the lens, the light and "
            "the exposure."
        )
    if gate.refuse_frozen and last is not None and look.digest == last.digest:
        return "The image is the last one again, bit by bit: the camera or its driver has frozen."
    return ""


def blur(look: Look, gate: ImageGate) -> str:
    """Whether an image lacks the detail its predecessors had; empty where it does not."""
    left = min(now / usual for now, usual in zip(look.detail, look.usual_detail, strict=True))
    if left >= gate.blur_ratio:
        return ""
    return (
        f"The image is blurred ({100 * left:.0f} % of the usual detail): expose shorter, move slower, clean "
        "the lens."
    )


@dataclass(frozen=True)
class MotionLimits:
    """What a motion must keep to; set them to what the robot can do, and wild matches never get through.

    Raises:
        ConfigError: a value is out of range.
    """

    max_speed: float = 60.0  # metres a second, in the published scale
    max_rotation_rate: float = 4.0  # radians a second
    min_agreement: float = 0.1  # correlation of the images through the motion; below it they are unrelated
    max_agreement_loss: float = 0.35  # how much less they may agree through the motion than without any

    def __post_init__(self) -> None:
        _positive(self, "max_speed", "max_rotation_rate", "max_agreement_loss")
        if not -1 <= self.min_agreement < 1:
            raise ConfigError(f"min_agreement must be in [-1, 1), not {self.min_agreement}.")


def not_borne_out(
    T_prev_cur: npt.NDArray[np.float64], agreement: float, agreement_at_rest: float, limits: MotionLimits
) -> str:
    """Why a motion is not what the images show, whatever its scale; empty where it is.

    Args:
        T_prev_cur: (4, 4).
        agreement: see :func:`~dualrefine_ros.image_motion.agreement`, through the motion.
        agreement_at_rest: the same through no motion at all.
        limits: to keep to.
    """
    if not np.isfinite(T_prev_cur).all():
        return "The network gave a motion that is not finite."
    if agreement < limits.min_agreement:
        return (
            f"The images have nothing in common (agreement {agreement:.2f}; min_agreement is "
            f"{limits.min_agreement:g})."
        )
    if agreement < agreement_at_rest - limits.max_agreement_loss:
        return (
            f"The motion explains the images worse than standing still (agreement {agreement:.2f} to "
            f"{agreement_at_rest:.2f})."
        )
    return ""


def too_fast(T_prev_cur: npt.NDArray[np.float64], seconds: float, limits: MotionLimits) -> str:
    """Why the robot cannot have moved like this; empty where it can.

    Args:
        T_prev_cur: (4, 4), finite, metres.
        seconds: it took, positive.
        limits: to keep to.
    """
    speed = float(np.linalg.norm(T_prev_cur[:3, 3])) / seconds
    rate = rotation_angle(T_prev_cur) / seconds
    if speed > limits.max_speed:
        return f"The motion is too fast ({speed:.1f} m/s; max_speed is {limits.max_speed:g})."
    if rate > limits.max_rotation_rate:
        return f"The turn is too fast ({rate:.1f} rad/s; max_rotation_rate is {limits.max_rotation_rate:g})."
    return ""


@dataclass(frozen=True)
class StillGate:
    """When the camera counts as standing still, in pixels of the network's input since the reference frame.

    The reference stays while the camera stands, so slow motion adds up until it is seen, and none is lost.

    Raises:
        ConfigError: a value is out of range.
    """

    enter: float = 0.08  # stands still below this; 0 turns the gate off. Noise of a camera: 0.01 to 0.07
    leave: float = 0.16  # moves again above this

    def __post_init__(self) -> None:
        if not 0 <= self.enter <= self.leave:
            raise ConfigError(f"The gate needs 0 <= enter <= leave, not {self.enter} and {self.leave}.")


def is_still(flow: float, was_still: bool, gate: StillGate) -> bool:
    """Whether the camera stands still, given the motion of the image in pixels."""
    return gate.enter > 0 and flow < (gate.leave if was_still else gate.enter)


class RateLimiter:
    """Thins out a stream of stamps to a rate, evenly; call it with each stamp.

    Args:
        max_rate: most frames a second; 0 lets all pass.

    Raises:
        ConfigError: the rate is negative.
    """

    def __init__(self, max_rate: float) -> None:
        if not max_rate >= 0:
            raise ConfigError(f"max_rate must be 0 or more, not {max_rate}.")
        self._period_ns = round(NANOSECONDS / max_rate) if max_rate else 0
        self._due_ns: int | None = None

    def admits(self, stamp_ns: int) -> bool:
        """Whether the frame of this stamp is due; stamps that jump back begin anew."""
        period = self._period_ns
        if not period:
            return True
        due = self._due_ns
        if due is not None and due - 2 * period < stamp_ns < due - period // 4:  # stamps jitter
            return False
        kept_up = due is not None and abs(stamp_ns - due) < period
        self._due_ns = (due if kept_up and due is not None else stamp_ns) + period
        return True
