"""A rigid transform as a translation (m) and a unit quaternion (x, y, z, w)."""

from __future__ import annotations

import math
from typing import NamedTuple

from geometry_msgs.msg import Transform as TransformMsg

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]


class RigidTransform(NamedTuple):
    """``X_target = rotation * X_source + translation``."""

    translation: Vector = (0.0, 0.0, 0.0)
    rotation: Quaternion = (0.0, 0.0, 0.0, 1.0)

    @classmethod
    def from_msg(cls, msg: TransformMsg) -> RigidTransform:
        """From a geometry_msgs/Transform; the quaternion is normalised.

        Raises:
            ValueError: a number is not finite, or the quaternion's norm is not 1 (within 0.5 %).
        """
        t, q = msg.translation, msg.rotation
        norm = math.sqrt(q.x**2 + q.y**2 + q.z**2 + q.w**2)
        if not all(map(math.isfinite, (t.x, t.y, t.z, norm))):
            raise ValueError("it holds a number that is not finite")
        if abs(norm**2 - 1.0) > 1e-2:
            raise ValueError(f"its quaternion has the norm {norm:.3g} instead of 1")
        return cls((t.x, t.y, t.z), (q.x / norm, q.y / norm, q.z / norm, q.w / norm))

    def to_msg(self) -> TransformMsg:
        """As a geometry_msgs/Transform."""
        msg = TransformMsg()
        msg.translation.x, msg.translation.y, msg.translation.z = self.translation
        msg.rotation.x, msg.rotation.y, msg.rotation.z, msg.rotation.w = self.rotation
        return msg

    def __matmul__(self, other: RigidTransform) -> RigidTransform:
        """``T_a_b @ T_b_c = T_a_c``."""
        x, y, z = rotate(self.rotation, other.translation)
        tx, ty, tz = self.translation
        return RigidTransform((x + tx, y + ty, z + tz), multiply(self.rotation, other.rotation))

    def inverse(self) -> RigidTransform:
        """``T_b_a`` of ``T_a_b``."""
        x, y, z, w = self.rotation
        conjugate = (-x, -y, -z, w)
        tx, ty, tz = rotate(conjugate, self.translation)
        return RigidTransform((-tx, -ty, -tz), conjugate)


def multiply(p: Quaternion, q: Quaternion) -> Quaternion:
    """The Hamilton product: rotate by ``q``, then by ``p``."""
    px, py, pz, pw = p
    qx, qy, qz, qw = q
    return (
        pw * qx + px * qw + py * qz - pz * qy,
        pw * qy - px * qz + py * qw + pz * qx,
        pw * qz + px * qy - py * qx + pz * qw,
        pw * qw - px * qx - py * qy - pz * qz,
    )


def rotate(q: Quaternion, v: Vector) -> Vector:
    """The vector ``q v q*``."""
    x, y, z, w = q
    x, y, z, _ = multiply(multiply(q, (*v, 0.0)), (-x, -y, -z, w))
    return (x, y, z)


def interpolate(start: RigidTransform, end: RigidTransform, ratio: float) -> RigidTransform:
    """From ``start`` (ratio 0) to ``end`` (ratio 1): a straight line, and the shorter arc (slerp)."""
    x, y, z = (a + ratio * (b - a) for a, b in zip(start.translation, end.translation, strict=True))
    return RigidTransform((x, y, z), slerp(start.rotation, end.rotation, ratio))


def slerp(p: Quaternion, q: Quaternion, ratio: float) -> Quaternion:
    """Spherical linear interpolation along the shorter arc (Shoemake, 1985)."""
    cosine = sum(a * b for a, b in zip(p, q, strict=True))
    sign = -1.0 if cosine < 0 else 1.0  # q and -q are the same rotation
    angle = math.acos(min(abs(cosine), 1.0))
    if angle < 1e-6:  # sin(angle) vanishes; the chord is the arc
        weight_p, weight_q = 1.0 - ratio, ratio
    else:
        weight_p = math.sin((1.0 - ratio) * angle) / math.sin(angle)
        weight_q = math.sin(ratio * angle) / math.sin(angle)
    x, y, z, w = (weight_p * a + sign * weight_q * b for a, b in zip(p, q, strict=True))
    norm = math.sqrt(x * x + y * y + z * z + w * w)
    return (x / norm, y / norm, z / norm, w / norm)
