"""``vo_node``: images and their calibration in; depth, odometry, path and TF out.

A lifecycle node: configured it has its network and publishers, active it listens and answers. The node
decides *when* (the newest image, once calibration and extrinsics are known), the engine *what*. Images are
worked on in a thread of their own, so the executor always has time for everything else.
"""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.exceptions import NameValidationException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from dualrefine_ros.errors import ConfigError, DualRefineError
from dualrefine_ros.ros.camera import Camera
from dualrefine_ros.ros.config import NodeConfig
from dualrefine_ros.ros.diagnostics import Diagnostics
from dualrefine_ros.ros.engine import Engine, engine_config, load_engine
from dualrefine_ros.ros.extrinsics import Extrinsics
from dualrefine_ros.ros.intake import Intake, Pair, input_topics, says_rectified
from dualrefine_ros.ros.lifecycle import refuse_impossible_transitions
from dualrefine_ros.ros.outputs import Outputs
from dualrefine_ros.ros.parameters import changed, declare, resolved
from dualrefine_ros.ros.services import Services
from dualrefine_ros.ros.speed import SpeedInput
from dualrefine_ros.ros.statistics import Statistics
from dualrefine_ros.ros.threads import compute_alone, compute_with
from dualrefine_ros.ros.tracker import Tracker
from dualrefine_ros.ros.worker import Worker
from dualrefine_ros.waiting import sleep_soon

SIGNAL_PERIOD = 0.2  # seconds until a signal is noticed
EXIT_CRASH, EXIT_CONFIG = 1, 2


class VoNode(LifecycleNode):
    """Visual odometry as a ROS 2 lifecycle node.

    Args:
        make_engine: from the parameters; raises a DualRefineError where they cannot be met.
        one_thread_computes: whether this process is the node's own, so that PyTorch may be told which.
        options: of :class:`rclpy.node.Node`.
    """

    def __init__(
        self,
        make_engine: Callable[[NodeConfig], Engine] = load_engine,
        one_thread_computes: bool = False,
        **options: Any,
    ) -> None:
        super().__init__("vo_node", **options)
        self.config = declare(self, NodeConfig)
        self.add_on_set_parameters_callback(self._on_parameters)
        refuse_impossible_transitions(self)
        self.statistics = Statistics()
        self.failure: str | None = None  # why configuring failed
        self.crash: BaseException | None = None  # a defect; the process ends with it
        self._make_engine, self._one_thread_computes = make_engine, one_thread_computes
        self._threads: int | None = None  # of the worker, once they are taken from this one
        # while configured
        self.engine: Engine | None = None
        self.tracker: Tracker | None = None
        self._resources: list[Any] = []  # that are closed, last one first
        self._diagnostics: Diagnostics | None = None
        # while active
        self.intake: Intake | None = None
        self.worker: Worker[Pair] | None = None
        self._paused = False

    @property
    def error(self) -> BaseException | None:
        """A defect that ended the work."""
        return self.crash or (self.worker.error if self.worker else None)

    @property
    def paused(self) -> bool:
        """Whether images are skipped."""
        return self._paused

    @paused.setter
    def paused(self, value: bool) -> None:
        self._paused = value
        if self.intake is not None:
            self.intake.paused = value

    # --- lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the network, open the publishers and services."""
        return self._transition(self._configure, undo=self.close)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Listen and answer."""
        return self._transition(self._activate, undo=self._deactivate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Finish the image in hand, listen no more, give the device's memory back; the pose stays."""
        return self._transition(self._deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget the network and everything else."""
        return self._transition(self.close)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As cleanup, from any state."""
        return self._transition(self.close)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Only a defect leads here: the process ends."""
        return TransitionCallbackReturn.FAILURE

    def close(self) -> None:
        """Deactivate if need be, and release everything."""
        if self.worker is not None:
            self._deactivate()
        while self._resources:
            self._resources.pop().close()
        if self.engine is not None:
            self.engine.release()
            self.get_logger().info(self.statistics.summary())
        self.engine = self.tracker = self._diagnostics = None
        self._paused = False

    def _transition(
        self, change: Callable[[], None], undo: Callable[[], None] = lambda: None
    ) -> TransitionCallbackReturn:
        """Run a change of state, or what undoes a half of it; rclpy itself would swallow what it raises."""
        try:
            change()
        except (DualRefineError, NameValidationException) as error:
            self.failure = " ".join(str(error).split())
            self.get_logger().error(f"{change.__name__.strip('_').capitalize()} failed. {self.failure}")
            undo()
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            self.crash = error
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        config = self.config
        self.statistics = Statistics()
        images, _ = (resolved(self, topic) for topic in input_topics(config))  # refuses bad names
        extrinsics = self._keep(Extrinsics(self, config))
        outputs = self._keep(Outputs(self, config, extrinsics.buffer))
        if self._one_thread_computes and self._threads is None:
            self._threads = compute_alone()
        self.engine = self._make_engine(config)
        self._say_what_runs()
        self._camera = Camera(self._is_rectified(images))
        self.tracker = Tracker(
            self, lambda: self.config, self.engine, self._camera, extrinsics, outputs, self.statistics
        )
        if config.scale_mode == "external":
            self._keep(SpeedInput(self, config.scale_topic, config.scale_topic_type, self.engine.add_speed))
        self._keep(Services(self))
        self._diagnostics = self._keep(Diagnostics(self))

    def _activate(self) -> None:
        assert self.tracker is not None
        assert self._diagnostics is not None
        tracker, threads = self.tracker, self._threads
        self.worker = Worker(
            lambda pair: tracker.process(*pair), lambda: None if threads is None else compute_with(threads)
        )
        self.intake = Intake(self, lambda: self.config, self.worker.mailbox, self.statistics, self._camera)
        self.intake.paused = self._paused
        self._diagnostics.activated()

    def _deactivate(self) -> None:
        assert self.engine is not None
        assert self.worker is not None
        if self.intake is not None:  # None where activating failed half-way
            self.intake.close()
        if self.worker.close():
            self.statistics.count("dropped")
        self.crash = self.crash or self.worker.error
        self.engine.release()
        self.intake = self.worker = None

    def _keep(self, resource: Any) -> Any:
        self._resources.append(resource)
        return resource

    def _is_rectified(self, topic: str) -> bool:
        if self.config.rectify != "auto":
            return self.config.rectify == "never"
        rectified = says_rectified(topic)
        self.get_logger().info(
            f"The images of {topic} are taken {'as rectified' if rectified else 'to need rectification'}, by "
            "that name (the parameter rectify says otherwise)."
        )
        return rectified

    def _say_what_runs(self) -> None:
        assert self.engine is not None
        config, weights = self.config, self.config.checkpoint or "the weights that ship"
        if config.has_random_weights:
            weights = "random weights"
            self.get_logger().warning(
                f"'{config.random_network}' runs with RANDOM WEIGHTS, as random_network asks: its "
                "depth and odometry mean nothing."
            )
        self.get_logger().info(f"Running {weights} on {self.engine.device}, {config.iterations} iterations.")

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        try:
            config = changed(self.config, parameters)
            if config != self.config and self.engine is not None:
                engine_config(config)  # refuses what contradicts itself
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self.config = config
        return SetParametersResult(successful=True)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; returns the exit status (0, 1 after a crash, 2 for bad settings).

    The signal handlers are ours because rclpy's shut the context down at once, and every message that is
    then on its way ends in a traceback.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # KeyboardInterrupt, while the model is loaded
    sleep_soon()
    try:
        _init(sys.argv[1:] if args is None else args)
        node = VoNode(one_thread_computes=True)
        if node.config.autostart:
            start(node)
        return spin(node)
    except (DualRefineError, NameValidationException) as error:
        get_logger("vo_node").fatal(" ".join(str(error).split()))
        return EXIT_CONFIG
    except KeyboardInterrupt:
        return 0


def _init(args: Sequence[str]) -> None:
    try:
        rclpy.init(args=list(args), signal_handler_options=SignalHandlerOptions.NO)
        foreign = [argument for argument in remove_ros_args(list(args)) if argument]
    except Exception as error:  # rclpy's own class for a bad argument or parameter file has no public name
        raise ConfigError(f"The ROS arguments cannot be used: {error}") from error
    if foreign:
        rclpy.shutdown()
        raise ConfigError(
            f"vo_node does not know {' '.join(foreign)}: it takes ROS arguments only, as in --ros-args -p "
            "iterations:=4; config/vo.yaml lists the parameters."
        )


def start(node: VoNode) -> None:
    """Configure and activate; a defect on the way is left in ``node.error``.

    Raises:
        ConfigError: it cannot be configured.
    """
    for trigger in (node.trigger_configure, node.trigger_activate):
        outcome = trigger()
        if outcome is TransitionCallbackReturn.FAILURE:
            node.close()
            raise ConfigError(node.failure or "The node cannot be configured.")
        if outcome is not TransitionCallbackReturn.SUCCESS:
            return


def spin(node: VoNode) -> int:
    """Give the node its executor until SIGINT, SIGTERM or a defect; returns the exit status."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not stop.is_set() and node.error is None:
        _attempt(node, lambda: executor.spin_once(timeout_sec=SIGNAL_PERIOD))
    _attempt(node, node.close)
    error = node.error
    if error is not None:
        text = "".join(traceback.format_exception(error))
        node.get_logger().fatal(f"Stopped by an error that should not happen; please report it:\n{text}")
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()
    return EXIT_CRASH if error is not None else 0


def _attempt(node: VoNode, step: Callable[[], None]) -> None:
    """Take a step; what it raises is the node's crash, unless there was one before."""
    try:
        step()
    except Exception as error:
        node.crash = node.error or error


if __name__ == "__main__":
    sys.exit(main())
