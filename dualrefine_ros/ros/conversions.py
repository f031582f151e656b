"""ROS messages to the package's types and back: pure functions, no node.

What a message claims is checked before it is believed: a wrong one raises a MessageError that names the
field at fault, and nothing else happens.
"""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, Quaternion, Transform, Twist, Vector3
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from dualrefine_ros.data.image_encoding import SUPPORTED_ENCODINGS, RgbImage, decode_image
from dualrefine_ros.errors import MessageError
from dualrefine_ros.frame import NANOSECONDS, Intrinsics
from dualrefine_ros.geometry.quaternion import quaternion_from_rotation, rotation_from_quaternion

Matrix = npt.NDArray[np.float64]
_TOLERANCE = 1e-6  # of the size of a quaternion, which should be one


def stamp_to_ns(stamp: Time) -> int:
    """A ROS time in nanoseconds, exactly."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


def stamp_from_ns(nanoseconds: int) -> Time:
    """The inverse of :func:`stamp_to_ns`."""
    seconds, rest = divmod(nanoseconds, NANOSECONDS)
    return Time(sec=seconds, nanosec=rest)


def rgb_from_image(message: Image) -> RgbImage:
    """The pixels of an image message, (H, W, 3) uint8 RGB.

    The usual encodings are decoded here; cv_bridge, where it is installed, decodes every other one.

    Raises:
        MessageError: the encoding is unknown, or the sizes contradict each other or the data.
    """
    if message.encoding not in SUPPORTED_ENCODINGS:
        return _rgb_by_cv_bridge(message)
    return decode_image(
        message.data, message.width, message.height, message.step, message.encoding, message.is_bigendian
    )


def _rgb_by_cv_bridge(message: Image) -> RgbImage:
    alternative = f"publish one of {', '.join(SUPPORTED_ENCODINGS)}."
    try:
        from cv_bridge import CvBridge
    except Exception as error:  # one that was built for another NumPy raises more than ImportError
        raise MessageError(
            f"Image encoding '{message.encoding}' needs cv_bridge, which cannot be imported ({error}): "
            f"install it, or {alternative}"
        ) from error
    try:
        rgb = np.ascontiguousarray(CvBridge().imgmsg_to_cv2(message, desired_encoding="rgb8"))
    except Exception as error:  # CvBridgeError, cv2.error, TypeError: whatever the message led to
        raise MessageError(
            f"cv_bridge cannot decode image encoding '{message.encoding}' ({error})."
        ) from error
    if rgb.shape != (message.height, message.width, 3) or rgb.dtype != np.uint8:
        raise MessageError(
            f"cv_bridge made {rgb.shape} {rgb.dtype} of {message.width}x{message.height} pixels in "
            f"'{message.encoding}': {alternative}"
        )
    return rgb


def rgb_image(rgb: RgbImage, header: Header) -> Image:
    """An RGB picture (H, W, 3) as a message; :func:`rgb_from_image` reads it back."""
    height, width = rgb.shape[:2]
    message = Image(
        header=header,
        height=height,
        width=width,
        encoding="rgb8",
        is_bigendian=0,
        step=3 * width,
    )
    append_bytes(message.data, rgb)
    return message


def camera_info_message(intrinsics: Intrinsics, header: Header) -> CameraInfo:
    """The calibration of a rectified image."""
    K = intrinsics.matrix
    return CameraInfo(
        header=header,
        height=intrinsics.height,
        width=intrinsics.width,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=K.ravel(),
        r=np.eye(3).ravel(),
        p=np.hstack([K, np.zeros((3, 1))]).ravel(),
    )


def append_bytes(data: array[int], values: npt.NDArray[np.generic]) -> None:
    """Put an array's bytes into a message's empty ``data``.

    In place, for constructors and assignments copy what they are given (and check bytes one by one).
    """
    data.frombytes(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)


def bytes_field(values: npt.NDArray[np.generic]) -> array[int]:
    """A copy of an array's bytes as a message takes them."""
    data = array("B")
    append_bytes(data, values)
    return data


def pose_message(T: Matrix) -> Pose:
    """A rigid motion (4, 4) as a pose."""
    return Pose(position=Point(**_xyz(T[:3, 3])), orientation=_quaternion(T))


def transform_message(T: Matrix) -> Transform:
    """A rigid motion (4, 4) as a transform."""
    return Transform(translation=Vector3(**_xyz(T[:3, 3])), rotation=_quaternion(T))


def twist_message(xi: Matrix) -> Twist:
    """A twist (6,), translation then rotation, as a message."""
    return Twist(linear=Vector3(**_xyz(xi[:3])), angular=Vector3(**_xyz(xi[3:])))


def matrix_from_transform(message: Transform) -> Matrix:
    """The (4, 4) of a transform message.

    Raises:
        MessageError: a number is not finite, or the quaternion is zero.
    """
    return _matrix(message.translation, message.rotation)


def matrix_from_pose(message: Pose) -> Matrix:
    """The (4, 4) of a pose message.

    Raises:
        MessageError: a number is not finite, or the quaternion is zero.
    """
    return _matrix(message.position, message.orientation)


def _matrix(t: Point | Vector3, q: Quaternion) -> Matrix:
    quaternion, translation = np.array([q.x, q.y, q.z, q.w]), np.array([t.x, t.y, t.z])
    unit = 1 / _TOLERANCE > np.abs(quaternion).max() > _TOLERANCE
    if not (np.isfinite(quaternion).all() and np.isfinite(translation).all() and unit):
        raise MessageError(f"Translation {translation} and quaternion {quaternion} are no rigid motion.")
    T = np.eye(4)
    T[:3, :3] = rotation_from_quaternion(quaternion)
    T[:3, 3] = translation
    return T


def _xyz(vector: Matrix) -> dict[str, float]:
    return dict(zip("xyz", vector.tolist(), strict=True))


def _quaternion(T: Matrix) -> Quaternion:
    return Quaternion(**dict(zip("xyzw", quaternion_from_rotation(T[:3, :3]).tolist(), strict=True)))
