"""The buffer: a tree of frames over time, and lookups in it."""

from __future__ import annotations

import threading

from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.time import Time

from tf2_ros.exceptions import (
    ConnectivityException,
    ExtrapolationException,
    InvalidArgumentException,
    LookupException,
    TransformException,
)
from tf2_ros.frame_history import NEWEST, MovingFrame, Sample, StaticFrame
from tf2_ros.transform import RigidTransform

NO_WAIT = Duration()


class Buffer:
    """Stores transforms and answers what lies between two frames; safe to use from several threads.

    Args:
        cache_time: how far back it reaches, 10 s if None.
        node: accepted for the real buffer's sake, which offers the service ``tf2_frames`` on it.
    """

    def __init__(self, cache_time: Duration | None = None, node: Node | None = None) -> None:
        self._cache_time = (cache_time or Duration(seconds=10)).nanoseconds
        self._frames: dict[str, MovingFrame | StaticFrame] = {}  # of each child
        self._names: set[str] = set()  # of children and parents
        self._changed = threading.Condition()

    def set_transform(self, transform: TransformStamped, authority: str) -> None:
        """Add ``T_parent_child`` at its stamp; what makes no sense is logged and left out.

        Args:
            transform: ``header.frame_id`` is the parent, ``child_frame_id`` the child.
            authority: who says so, for the log.
        """
        self._store(transform, authority, is_static=False)

    def set_transform_static(self, transform: TransformStamped, authority: str) -> None:
        """Add ``T_parent_child`` for all times; otherwise like :meth:`set_transform`."""
        self._store(transform, authority, is_static=True)

    def lookup_transform(
        self, target_frame: str, source_frame: str, time: Time, timeout: Duration = NO_WAIT
    ) -> TransformStamped:
        """``T_target_source``: it maps points of the source frame to the target frame.

        Args:
            target_frame, source_frame: names of the frames.
            time: when; zero is the newest time at which every transform between the two is known.
            timeout: how long to wait for it.

        Raises:
            LookupException: a frame is unknown, or the tree has a loop.
            ConnectivityException: the frames are in different trees.
            ExtrapolationException: ``time`` is outside what the buffer holds.
            InvalidArgumentException: a frame name is empty.
        """
        self.can_transform(target_frame, source_frame, time, timeout)
        with self._changed:
            return self._lookup(target_frame, source_frame, time.nanoseconds)

    def can_transform(
        self,
        target_frame: str,
        source_frame: str,
        time: Time,
        timeout: Duration = NO_WAIT,
        return_debug_tuple: bool = False,
    ) -> bool | tuple[bool, str]:
        """Whether :meth:`lookup_transform` will succeed, after waiting up to ``timeout`` for that.

        The timeout is real time, also under simulated time. With ``return_debug_tuple`` the reason
        against it comes along (empty if there is none).
        """

        def reason() -> str:
            try:
                self._lookup(target_frame, source_frame, time.nanoseconds)
            except TransformException as error:
                return str(error)
            return ""

        with self._changed:
            self._changed.wait_for(lambda: not reason(), timeout.nanoseconds * 1e-9)
            against = reason()
        return (not against, against) if return_debug_tuple else not against

    def clear(self) -> None:
        """Forget every transform."""
        with self._changed:
            self._frames.clear()
            self._names.clear()

    def _store(self, transform: TransformStamped, authority: str, is_static: bool) -> None:
        parent, child = transform.header.frame_id.lstrip("/"), transform.child_frame_id.lstrip("/")
        try:
            if not parent or not child:
                raise ValueError("a frame name is empty")
            if parent == child:
                raise ValueError("a frame cannot be its own parent")
            sample = Sample(parent, RigidTransform.from_msg(transform.transform))
            with self._changed:
                if is_static:
                    self._frames[child] = StaticFrame(sample)
                else:
                    self._insert(child, Time.from_msg(transform.header.stamp).nanoseconds, sample)
                self._names |= {parent, child}
                self._changed.notify_all()
        except ValueError as error:
            get_logger("tf2").warning(
                f"Ignoring the transform from '{child}' to '{parent}' of {authority or 'unknown'}: {error}"
            )

    def _insert(self, child: str, time: int, sample: Sample) -> None:
        frame = self._frames.get(child)
        if not isinstance(frame, MovingFrame):
            frame = self._frames[child] = MovingFrame(self._cache_time)
        frame.insert(time, sample)

    def _lookup(self, target_frame: str, source_frame: str, time: int) -> TransformStamped:
        target, source = self._known("target_frame", target_frame), self._known("source_frame", source_frame)
        if time == NEWEST:
            time = self._newest_common_time(target, source)
        from_target, target_gap = self._ancestors(target, time)
        from_source, source_gap = self._ancestors(source, time)
        common = next((name for name in from_source if name in from_target), None)
        if common is None:
            gap = source_gap or target_gap
            if gap:
                raise ExtrapolationException(
                    f"{gap}, when looking up transform from frame [{source}] to frame [{target}]"
                )
            raise _unconnected(target, source)
        result = TransformStamped()
        result.header.stamp = Time(nanoseconds=time).to_msg()
        result.header.frame_id = target
        result.child_frame_id = source
        result.transform = (from_target[common].inverse() @ from_source[common]).to_msg()
        return result

    def _known(self, argument: str, name: str) -> str:
        name = name.lstrip("/")
        if not name:
            raise InvalidArgumentException(f"Invalid argument {argument}: a frame name cannot be empty")
        if name not in self._names:
            raise LookupException(f'"{name}" passed to lookupTransform argument {argument} does not exist.')
        return name

    def _ancestors(
        self, frame: str, time: int
    ) -> tuple[dict[str, RigidTransform], ExtrapolationException | None]:
        """``T_ancestor_frame`` of the frame and its ancestors, nearest first, as far up as they are known.

        The exception, if any, says why the walk ended below the root.
        """
        chain = {frame: RigidTransform()}
        name = frame
        while name in self._frames:
            try:
                sample = self._frames[name].at(time)
            except ExtrapolationException as gap:
                return chain, gap
            if sample.parent in chain:
                raise LookupException(f"The tf tree has a loop at frame '{sample.parent}'.")
            chain[sample.parent] = sample.transform @ chain[name]
            name = sample.parent
        return chain, None

    def _newest_common_time(self, target: str, source: str) -> int:
        """The newest time at which everything that moves between the two is known; 0 if nothing moves."""
        target_chain, source_chain = self._ancestors(target, NEWEST)[0], self._ancestors(source, NEWEST)[0]
        if target == source:
            between = {source}
        else:
            shared = target_chain.keys() & source_chain.keys()
            if not shared:
                raise _unconnected(target, source)
            between = target_chain.keys() ^ source_chain.keys()
        times = (self._frames[name].newest_time for name in between if name in self._frames)
        return min((time for time in times if time is not None), default=0)


def _unconnected(target: str, source: str) -> ConnectivityException:
    return ConnectivityException(
        f"Could not find a connection between '{target}' and '{source}' because they are not part of the "
        "same tree. Tf has two or more unconnected trees."
    )
