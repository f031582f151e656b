"""tf2_ros as the node sees it: the real package where it is installed, else the one of pypi_ros/.

The oracle of all poses is SciPy on 4x4 matrices.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from itertools import pairwise

import numpy as np
import pytest
import rclpy
import tf2_ros
from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.time import Time
from scipy.spatial.transform import Rotation, Slerp

SECOND = 1_000_000_000
T0 = 1_700_000_000 * SECOND  # a date of our times: stamps must stay exact in nanoseconds


def random_pose(rng: np.random.Generator) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = Rotation.random(random_state=rng.integers(2**31)).as_matrix()
    T[:3, 3] = rng.normal(scale=5, size=3)
    return T


def stamped(
    parent: str, child: str, T_parent_child: np.ndarray, time_ns: int = T0, sign: float = 1.0
) -> TransformStamped:
    message = TransformStamped()
    message.header.stamp = Time(nanoseconds=time_ns).to_msg()
    message.header.frame_id = parent
    message.child_frame_id = child
    t, q = message.transform.translation, message.transform.rotation
    t.x, t.y, t.z = T_parent_child[:3, 3].tolist()
    q.x, q.y, q.z, q.w = (sign * Rotation.from_matrix(T_parent_child[:3, :3]).as_quat()).tolist()
    return message


def matrix(message: TransformStamped) -> np.ndarray:
    t, q = message.transform.translation, message.transform.rotation
    np.testing.assert_allclose(np.linalg.norm([q.x, q.y, q.z, q.w]), 1.0, atol=1e-12)
    T = np.eye(4)
    T[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    T[:3, 3] = t.x, t.y, t.z
    return T


def at(time_ns: int) -> Time:
    return Time(nanoseconds=time_ns)


@pytest.fixture
def buffer() -> tf2_ros.Buffer:
    return tf2_ros.Buffer()


def test_every_pair_of_a_tree_through_the_common_ancestor(buffer):
    rng = np.random.default_rng(1)
    parents = {"odom": "map", "base": "odom", "camera": "base", "optical": "camera", "imu": "base"}
    T_root = {"map": np.eye(4)}
    for child, parent in parents.items():
        T_parent_child = random_pose(rng)
        T_root[child] = T_root[parent] @ T_parent_child
        static = child in ("camera", "imu")
        send = buffer.set_transform_static if static else buffer.set_transform
        send(stamped(parent, child, T_parent_child), "test")
    for target in T_root:
        for source in T_root:
            found = buffer.lookup_transform(target, source, at(T0))
            assert (found.header.frame_id, found.child_frame_id) == (target, source)
            assert Time.from_msg(found.header.stamp).nanoseconds == T0
            expected = np.linalg.inv(T_root[target]) @ T_root[source]
            np.testing.assert_allclose(matrix(found), expected, atol=1e-9)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_interpolates_linearly_and_along_the_shorter_arc(buffer, sign):
    rng = np.random.default_rng(2)
    stamps = T0 + np.array([0, 700_000_001, 1_200_000_000, 3_000_000_000])
    poses = [random_pose(rng) for _ in stamps]
    for i, (stamp, T) in enumerate(zip(stamps, poses, strict=True)):
        buffer.set_transform(stamped("odom", "base", T, int(stamp), sign if i % 2 else 1.0), "test")
    for (t_a, T_a), (t_b, T_b) in pairwise(zip(stamps, poses, strict=True)):
        slerp = Slerp([0, 1], Rotation.from_matrix(np.stack([T_a[:3, :3], T_b[:3, :3]])))
        for ratio in (0.0, 0.1, 0.5, 0.77, 1.0):
            time_ns = int(t_a + round(ratio * int(t_b - t_a)))
            exact = (time_ns - int(t_a)) / int(t_b - t_a)
            T = matrix(buffer.lookup_transform("odom", "base", at(time_ns)))
            np.testing.assert_allclose(T[:3, :3], slerp(exact).as_matrix(), atol=1e-9)
            np.testing.assert_allclose(T[:3, 3], (1 - exact) * T_a[:3, 3] + exact * T_b[:3, 3], atol=1e-9)


def test_samples_may_arrive_out_of_order(buffer):
    for second in (2, 0, 3, 1):
        T = np.eye(4)
        T[0, 3] = second**2
        buffer.set_transform(stamped("odom", "base", T, T0 + second * SECOND), "test")
    found = buffer.lookup_transform("odom", "base", at(T0 + 5 * SECOND // 2))
    assert found.transform.translation.x == pytest.approx((4 + 9) / 2)


def test_the_last_of_two_samples_of_one_time_counts(buffer):
    first, last = (random_pose(np.random.default_rng(seed)) for seed in (7, 8))
    for T in (first, last):
        buffer.set_transform(stamped("odom", "base", T), "test")
    for moment in (Time(), at(T0)):
        np.testing.assert_allclose(matrix(buffer.lookup_transform("odom", "base", moment)), last, atol=1e-12)


def test_time_zero_is_the_newest_common_time(buffer):
    T = np.eye(4)
    for second in range(4):
        T[0, 3] = second
        buffer.set_transform(stamped("map", "odom", T, T0 + second * SECOND), "test")
    for second in range(3):
        T[0, 3] = 10 * second
        buffer.set_transform(stamped("odom", "base", T, T0 + second * SECOND + SECOND // 2), "test")
    buffer.set_transform_static(stamped("base", "camera", np.eye(4), 0), "test")
    found = buffer.lookup_transform("map", "camera", Time())
    assert Time.from_msg(found.header.stamp).nanoseconds == T0 + 5 * SECOND // 2
    assert found.transform.translation.x == pytest.approx(2.5 + 20)


def test_a_static_transform_holds_at_every_time(buffer):
    T = random_pose(np.random.default_rng(3))
    buffer.set_transform_static(stamped("base", "camera", T), "test")
    for time_ns in (0, 1, T0 - 1000 * SECOND, T0, T0 + 1000 * SECOND):
        found = buffer.lookup_transform("base", "camera", at(time_ns))
        np.testing.assert_allclose(matrix(found), T, atol=1e-12)
        assert Time.from_msg(found.header.stamp).nanoseconds == time_ns


def test_never_extrapolates(buffer):
    for second in (0, 1):
        buffer.set_transform(stamped("odom", "base", np.eye(4), T0 + second * SECOND), "test")
    buffer.set_transform_static(stamped("base", "camera", np.eye(4)), "test")
    for time_ns, direction in ((T0 - 1, "past"), (T0 + SECOND + 1, "future")):
        with pytest.raises(tf2_ros.ExtrapolationException, match=direction):
            buffer.lookup_transform("odom", "camera", at(time_ns))
        assert not buffer.can_transform("odom", "camera", at(time_ns))
        buffer.lookup_transform("base", "camera", at(time_ns))  # nothing moves between these two
    for time_ns in (T0, T0 + SECOND):
        buffer.lookup_transform("odom", "camera", at(time_ns))


def test_forgets_after_ten_seconds_or_as_told():
    for buffer, seconds in ((tf2_ros.Buffer(), 10), (tf2_ros.Buffer(Duration(seconds=2)), 2)):
        for second in range(31):
            buffer.set_transform(stamped("odom", "base", np.eye(4), T0 + second * SECOND), "test")
        buffer.lookup_transform("odom", "base", at(T0 + (30 - seconds) * SECOND))
        with pytest.raises(tf2_ros.ExtrapolationException):
            buffer.lookup_transform("odom", "base", at(T0 + (28 - seconds) * SECOND))
        buffer.set_transform(stamped("odom", "base", np.eye(4), T0), "test")  # too old: left out
        with pytest.raises(tf2_ros.ExtrapolationException):
            buffer.lookup_transform("odom", "base", at(T0 + SECOND))


def test_says_what_is_missing(buffer):
    buffer.set_transform_static(stamped("odom", "base", np.eye(4)), "test")
    buffer.set_transform_static(stamped("world", "lidar", np.eye(4)), "test")
    for target, source in (("odom", "nowhere"), ("nowhere", "odom"), ("nowhere", "nowhere")):
        with pytest.raises(tf2_ros.LookupException, match="nowhere"):
            buffer.lookup_transform(target, source, Time())
    for time_ns in (0, T0):
        with pytest.raises(tf2_ros.ConnectivityException, match=r"(?s)base.*lidar"):
            buffer.lookup_transform("base", "lidar", at(time_ns))
    with pytest.raises(tf2_ros.InvalidArgumentException):
        buffer.lookup_transform("", "base", Time())
    possible, reason = buffer.can_transform("odom", "nowhere", Time(), return_debug_tuple=True)
    assert not possible
    assert "nowhere" in reason
    kinds = ("Lookup", "Connectivity", "Extrapolation", "InvalidArgument")
    for kind in kinds:
        assert issubclass(getattr(tf2_ros, f"{kind}Exception"), tf2_ros.TransformException)


def nonsense() -> dict[str, TransformStamped]:
    not_finite, not_unit = stamped("odom", "base", np.eye(4)), stamped("odom", "base", np.eye(4))
    not_finite.transform.translation.y = float("nan")
    not_unit.transform.rotation.w = 0.5
    return {
        "own parent": stamped("base", "base", np.eye(4)),
        "no parent": stamped("", "base", np.eye(4)),
        "no child": stamped("odom", "", np.eye(4)),
        "not finite": not_finite,
        "not a unit quaternion": not_unit,
        "zero quaternion": TransformStamped(
            header=not_unit.header, child_frame_id="base", transform=_zero_rotation()
        ),
    }


def _zero_rotation():
    transform = TransformStamped().transform
    transform.rotation.w = 0.0
    return transform


@pytest.mark.parametrize("kind", nonsense())
def test_leaves_out_what_makes_no_sense(buffer, kind):
    buffer.set_transform(nonsense()[kind], "test")
    assert not buffer.can_transform("odom", "base", Time())
    T = random_pose(np.random.default_rng(4))
    buffer.set_transform(stamped("odom", "base", T), "test")
    buffer.set_transform(nonsense()[kind], "test")
    np.testing.assert_allclose(matrix(buffer.lookup_transform("odom", "base", Time())), T, atol=1e-12)


def test_a_frame_can_change_its_parent(buffer):
    T_odom, T_dock = (random_pose(np.random.default_rng(seed)) for seed in (5, 6))
    buffer.set_transform(stamped("odom", "base", T_odom, T0), "test")
    buffer.set_transform(stamped("dock", "base", T_dock, T0 + SECOND), "test")
    half = at(T0 + SECOND // 2)
    np.testing.assert_allclose(matrix(buffer.lookup_transform("odom", "base", half)), T_odom, atol=1e-12)
    np.testing.assert_allclose(matrix(buffer.lookup_transform("dock", "base", Time())), T_dock, atol=1e-12)
    with pytest.raises(tf2_ros.TransformException):
        buffer.lookup_transform("odom", "base", Time())


def test_a_loop_is_an_error_and_no_endless_walk(buffer):
    buffer.set_transform_static(stamped("a", "b", np.eye(4)), "test")
    buffer.set_transform_static(stamped("b", "a", np.eye(4)), "test")
    buffer.set_transform_static(stamped("c", "d", np.eye(4)), "test")
    with pytest.raises(tf2_ros.TransformException):
        buffer.lookup_transform("a", "d", Time())


def test_clear_forgets(buffer):
    buffer.set_transform_static(stamped("odom", "base", np.eye(4)), "test")
    buffer.clear()
    assert not buffer.can_transform("odom", "base", Time())


def test_waits_for_what_arrives_later(buffer):
    later = threading.Timer(0.2, lambda: buffer.set_transform(stamped("odom", "base", np.eye(4), T0), "test"))
    later.start()
    with pytest.raises(tf2_ros.TransformException):
        buffer.lookup_transform("odom", "base", at(T0))  # does not wait by default
    buffer.lookup_transform("odom", "base", at(T0), timeout=Duration(seconds=60))
    later.join()
    with pytest.raises(tf2_ros.ExtrapolationException):
        buffer.lookup_transform("odom", "base", at(T0 + 1), timeout=Duration(seconds=0.1))


def test_lookups_and_arrivals_in_many_threads(buffer):
    """Each sample's translation is its time in seconds: whatever is looked up must agree with its stamp."""
    errors: list[BaseException] = []
    done = threading.Event()

    def write() -> None:
        for step in range(2000):
            T = np.eye(4)
            T[0, 3] = step / 100
            buffer.set_transform(stamped("odom", "base", T, T0 + step * SECOND // 100), "test")
        done.set()

    def read() -> None:
        try:
            while not done.is_set():
                if buffer.can_transform("odom", "base", Time()):
                    found = buffer.lookup_transform("odom", "base", Time())
                    elapsed = (Time.from_msg(found.header.stamp).nanoseconds - T0) / SECOND
                    assert found.transform.translation.x == pytest.approx(elapsed)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=target) for target in (write, read, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


BROADCASTER = """
import sys
import rclpy
import tf2_ros
from geometry_msgs.msg import TransformStamped
from rclpy.time import Time

rclpy.init()
node = rclpy.create_node("broadcaster")
static, moving = tf2_ros.StaticTransformBroadcaster(node), tf2_ros.TransformBroadcaster(node)
camera, imu = TransformStamped(child_frame_id="camera"), TransformStamped(child_frame_id="imu")
for sensor, x in ((camera, 0.5), (imu, -0.25)):
    sensor.header.frame_id = "base"
    sensor.transform.translation.x = x
static.sendTransform([camera, imu])
print("latched", flush=True)
second = 0

def step():
    global second
    base = TransformStamped(child_frame_id="base")
    base.header.frame_id = "odom"
    base.header.stamp = Time(nanoseconds=int(sys.argv[1]) + second * 10**9).to_msg()
    base.transform.translation.y = float(second)
    moving.sendTransform(base)
    second += 1

node.create_timer(0.05, step)
rclpy.spin(node)
"""


@pytest.fixture
def broadcaster():
    process = subprocess.Popen(
        [sys.executable, "-c", BROADCASTER, str(T0)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "latched\n", process.stderr.read()
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def node():
    rclpy.init()
    node = rclpy.create_node("listener")
    yield node
    node.destroy_node()
    rclpy.try_shutdown()


def test_between_two_processes_over_dds(broadcaster, node, buffer):
    """The listener comes after the static transforms were sent: it must still get all of them."""
    listener = tf2_ros.TransformListener(buffer, node)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    deadline = time.monotonic() + 60
    while not (
        buffer.can_transform("odom", "camera", Time())
        and buffer.can_transform("base", "imu", Time())
        and Time.from_msg(buffer.lookup_transform("odom", "base", Time()).header.stamp).nanoseconds > T0
    ):
        assert time.monotonic() < deadline, "nothing arrived"
        assert broadcaster.poll() is None, broadcaster.stderr.read()
        executor.spin_once(timeout_sec=0.1)
    found = buffer.lookup_transform("odom", "camera", Time())
    second = (Time.from_msg(found.header.stamp).nanoseconds - T0) / SECOND
    translation = found.transform.translation
    assert (translation.x, translation.y, translation.z) == (0.5, second, 0.0)
    assert buffer.lookup_transform("base", "imu", Time()).transform.translation.x == -0.25
    # Whoever has another definition of the message has another hash, and would not be heard.
    (publisher,) = node.get_publishers_info_by_topic("/tf")
    assert publisher.topic_type == "tf2_msgs/msg/TFMessage"
    assert str(publisher.topic_type_hash).endswith(
        "e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087"
    )
    listener.unregister()


def test_listens_in_a_thread_of_its_own(broadcaster, node, buffer):
    listener = tf2_ros.TransformListener(buffer, node, spin_thread=True)
    assert buffer.can_transform("odom", "camera", Time(), timeout=Duration(seconds=60))
    listener.executor.shutdown()
