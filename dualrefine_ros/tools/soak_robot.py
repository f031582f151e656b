"""The soak's robot: a camera that plays good frames and every kind of bad one, and asks things meanwhile."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped, TransformStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger
from tf2_ros import StaticTransformBroadcaster

from dualrefine_ros.frame import Frame
from dualrefine_ros.ros.conversions import stamp_from_ns, stamp_to_ns, transform_message
from dualrefine_ros.ros.statistics import ENDS
from dualrefine_ros.tools.demo_player import BASE_FRAME, CAMERA_FRAME, T_BASE_CAM
from dualrefine_ros.tools.soak_account import LONGEST_RECONNECTION, Account
from dualrefine_ros.tools.soak_camera import SoakCamera
from dualrefine_ros.tools.soak_faults import BAD_IMAGES, CALIBRATION_FAULTS, POOR_IMAGES

# What Fast DDS loses it repairs at its next heartbeat, seconds later, unless it has left the queue by then
DEPTH = 50
QOS = QoSProfile(depth=DEPTH)
BEST_EFFORT = QoSProfile(depth=DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)
PATIENCE = 20.0  # seconds for a service, or for what is on its way; more is called lost
TRY_PERIOD = 0.25  # seconds between images while camera and node look for each other
GAP, JUMP_BACK_NS = 2.5, 30 * 10**9


class SoakRobot:
    """Sends one frame after the other and keeps count.

    Args:
        frames: of the clip, played over and over.
        random: decides what goes wrong.
    """

    def __init__(self, frames: list[Frame], random: np.random.Generator) -> None:
        self.account = Account()
        self.faults: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.unanswered_calls: list[str] = []
        self.wrong_answers: list[str] = []
        self.not_finite = 0  # odometry messages
        self.diagnostics: dict[str, dict[str, str]] = {}

        self._random = random
        self._latest: Image | None = None  # good one
        self._tries: set[int] = set()  # stamps of images sent while looking for each other
        self._answered_ns = 0  # stamp of the latest odometry
        self._looks: list[Counter[str]] = []  # the node's last two counts, a second apart
        self.node = Node("soak")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self.camera = SoakCamera(self.node, frames, QOS)
        self._set_pose = self.node.create_publisher(PoseWithCovarianceStamped, "set_pose", QOS)
        self._transforms = StaticTransformBroadcaster(self.node)
        self.node.create_subscription(Odometry, "odometry", self._on_odometry, QOS)
        self.node.create_subscription(Image, "depth/image", lambda _: None, 1)
        self.node.create_subscription(PointCloud2, "depth/points", lambda _: None, 1)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, QOS)
        kinds: dict[str, Any] = {
            "reset": Trigger,
            "save_trajectory": Trigger,
            "pause": SetBool,
            "change_state": ChangeState,
            "set_parameters": SetParameters,
        }
        self._clients: dict[str, Any] = {
            name: self.node.create_client(kind, f"vo_node/{name}") for name, kind in kinds.items()
        }
        # What can happen between two images, by its name
        self._happenings: dict[str, Callable[[], object]] = {
            "gap": lambda: self.spin(GAP),
            "stamps jump back": lambda: self.camera.jump(-JUMP_BACK_NS),
            "frames dropped": lambda: self.camera.skip(5),
            "publisher restarts": lambda: self._restart_camera("publisher restarts"),
            "best-effort camera": self._best_effort_camera,
            "deactivate and activate": self._deactivate_and_activate,
            "clean up and configure": self._clean_up_and_configure,
            "set_pose": lambda: self._send_pose(1.0),
            "set_pose of NaN": lambda: self._send_pose(np.nan),
            "reset": lambda: self._call("reset", lambda answer: answer.success),
            "save_trajectory": lambda: self._call("save_trajectory"),
            "pause and go on": self._pause,
            "iterations change": lambda: self._set("iterations", int(self._random.integers(0, 3)), True),
            "parameter out of range": lambda: self._set("iterations", -1, False),
            "read-only parameter": lambda: self._set("path_length", 1, False),
        }
        self._fault_names = (
            *POOR_IMAGES,
            *BAD_IMAGES,
            *CALIBRATION_FAULTS,
            *self._happenings,
            "frozen",
            "repeated stamp",
        )

    def close(self) -> None:
        """Leave the ROS graph."""
        self._executor.shutdown()
        self.node.destroy_node()

    def spin(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Listen for a while, or until something is true; whether it is."""
        end = time.monotonic() + seconds
        while not until() and (rest := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=rest)
        return until()

    def say_where_the_camera_sits(self) -> None:
        """To TF."""
        header = Header(stamp=self.node.get_clock().now().to_msg(), frame_id=BASE_FRAME)
        self._transforms.sendTransform(
            TransformStamped(
                header=header, child_frame_id=CAMERA_FRAME, transform=transform_message(T_BASE_CAM)
            )
        )

    def step(self, fault_share: float) -> None:
        """Send a frame; with this probability something goes wrong with it, or before it."""
        fault = str(self._random.choice(self._fault_names)) if self._random.random() < fault_share else ""
        if fault:
            self.faults[fault] += 1
        if fault in self._happenings:
            self._happenings[fault]()
        if self.account.stretch is None:  # they have not found each other
            return
        earlier_ns = self.camera.last_stamp_ns
        image, info = self.camera.image()
        if fault in POOR_IMAGES:
            POOR_IMAGES[fault](image, self._random)
        elif fault in BAD_IMAGES:
            BAD_IMAGES[fault](image)
        elif fault == "frozen" and self._latest is not None and self._latest.height == image.height:
            image.data = self._latest.data
        # Of an image before the stretch nobody knows whether it was answered, so whether it may be again
        if repeats := fault == "repeated stamp" and earlier_ns in self.account.stretch.good:
            image.header.stamp = stamp_from_ns(earlier_ns)
        if repeats or fault in BAD_IMAGES:
            self.account.stretch.bad += 1
        else:
            resized = self._latest is None or self._latest.height != image.height
            self.account.stretch.size_changes += resized
            self.account.stretch.good[stamp_to_ns(image.header.stamp)] = None
            self._latest = image
        before, after = CALIBRATION_FAULTS[fault](info) if fault in CALIBRATION_FAULTS else ([info], [])
        self.account.stretch.size_changes += any(one.width != info.width for one in before)
        self.camera.publish(image, before, after)

    def meet(self, after: str) -> None:
        """Send images until one is answered, and begin a stretch."""
        start, first_ns = time.monotonic(), self.camera.now_ns

        def try_one(patience: float, at_least_ns: int | None = None) -> bool:
            image, info = self.camera.image()
            stamp_ns = self.camera.last_stamp_ns
            self._tries.add(stamp_ns)
            self.camera.publish(image, [info])
            return self.spin(patience, lambda: self._answered_ns >= (at_least_ns or stamp_ns))

        self._answered_ns, before = 0, len(self._tries)
        while not (found := try_one(TRY_PERIOD, first_ns)) and self._is_early(start):
            pass
        self.account.reconnected(after, time.monotonic() - start, len(self._tries) - before)
        # Those that were sent before may still arrive. Messages keep their order: none of them after this one
        while found and not try_one(PATIENCE):
            found = self._is_early(start)
        if found:
            self._looks = []
            self.spin(PATIENCE, self._is_at_rest)
            self.account.begin(self._looks[-1] if self._looks else {})

    def settle(self) -> None:
        """Let arrive what is on its way, and end the stretch."""
        if self.account.stretch is not None:
            self._let_arrive()
            self.account.end(self._looks[-1] if self._looks else {})

    def _is_early(self, start: float) -> bool:
        return time.monotonic() - start < 2 * LONGEST_RECONNECTION

    def _is_at_rest(self) -> bool:
        """Whether the node has ended all it has received, for a second or more."""
        return len(self._looks) == 2 and self._looks[0] == self._looks[1] and _all_ended(self._looks[1])

    def _let_arrive(self) -> None:
        stretch = self.account.stretch
        assert stretch is not None
        end = time.monotonic() + PATIENCE
        while not self.spin(1.0, lambda: bool(self._looks) and not stretch.on_their_way(self._looks[-1])):
            if time.monotonic() > end:
                return
            self.camera.calibrate(self.camera.image()[1])  # an image of absurd size is kept until one comes

    # --- what happens between two images

    def _restart_camera(self, after: str, qos: QoSProfile = QOS) -> None:
        self.settle()
        self.camera.restart(qos)
        self.meet(after)

    def _best_effort_camera(self) -> None:
        """Its images get lost by nature, so there is no stretch of it, only the meeting."""
        self._restart_camera("camera becomes best-effort", BEST_EFFORT)
        self.account.stretch = None
        self._restart_camera("camera becomes reliable")

    def _deactivate_and_activate(self) -> None:
        self.settle()
        self._change_state(Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE)
        self.meet("deactivate and activate")

    def _clean_up_and_configure(self) -> None:
        self.settle()
        self._change_state(
            Transition.TRANSITION_DEACTIVATE,
            Transition.TRANSITION_CLEANUP,
            Transition.TRANSITION_CONFIGURE,
            Transition.TRANSITION_ACTIVATE,
        )
        self.meet("clean up and configure")

    def _change_state(self, *transitions: int) -> None:
        for number in transitions:
            self._call("change_state", lambda answer: answer.success, transition=Transition(id=number))

    def _send_pose(self, x: float) -> None:
        message = PoseWithCovarianceStamped(header=Header(frame_id="odom"))
        message.pose.pose.position.x = x
        message.pose.pose.orientation.w = 1.0
        self._set_pose.publish(message)

    def _pause(self) -> None:
        if self.account.stretch is None:
            return
        self._let_arrive()
        self._call("pause", lambda answer: answer.success, data=True)
        for _ in range(3):
            image, info = self.camera.image()
            self.account.stretch.paused += 1
            self.camera.publish(image, [info])
            self.spin(TRY_PERIOD)
        self._let_arrive()
        self._call("pause", lambda answer: answer.success, data=False)

    def _set(self, name: str, value: int, welcome: bool) -> None:
        number = ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=value)
        self._call(
            "set_parameters",
            lambda answer: answer.results[0].successful is welcome,
            parameters=[Parameter(name=name, value=number)],
        )

    def _call(self, name: str, is_right: Callable[[Any], bool] = lambda _: True, **fields: object) -> None:
        client = self._clients[name]
        self.calls[name] += 1
        future = client.call_async(client.srv_type.Request(**fields))
        if not self.spin(PATIENCE, future.done):
            self.unanswered_calls.append(name)
            client.remove_pending_request(future)
        elif not is_right(future.result()):
            self.wrong_answers.append(f"{name}: {future.result()}")

    # --- what comes back

    def _on_odometry(self, message: Odometry) -> None:
        self._answered_ns = stamp_to_ns(message.header.stamp)
        if self.account.stretch is not None and self._answered_ns not in self._tries:
            self.account.stretch.heard[self._answered_ns] += 1
        p = message.pose.pose.position
        numbers = np.concatenate([[p.x, p.y, p.z], message.pose.covariance, message.twist.covariance])
        self.not_finite += not np.isfinite(numbers).all()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            part = status.name.rpartition(": ")[2]
            self.diagnostics[part] = {pair.key: pair.value for pair in status.values}
            if part == "input":
                values = self.diagnostics[part]
                counts = Counter({k: int(values[k]) for k in ("received", *ENDS)})
                self._looks = [*self._looks[-1:], counts]
                if self.account.stretch is not None:
                    self.account.stretch.look(counts)


def _all_ended(counts: Counter[str]) -> bool:
    return counts["received"] == sum(counts[end] for end in ENDS)
