"""tf without tf2_ros: /tf and /tf_static into the core's TransformBuffer."""

from __future__ import annotations

from collections.abc import Callable

from tf2_msgs.msg import TFMessage

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.tf_buffer import TransformBuffer

from .messages import nanoseconds, transform_from_msg


class TransformListener:
    """Fills a TransformBuffer from a node's subscriptions; `on_change` is called after each message."""

    def __init__(self, node: object, buffer: TransformBuffer, on_change: Callable[[], None] | None = None) -> None:
        self._buffer = buffer
        self._on_change = on_change
        node.input("/tf", lambda message: self._store(message, static=False))
        node.input("/tf_static", lambda message: self._store(message, static=True))

    def _store(self, message: TFMessage, static: bool) -> None:
        problem: InvalidInput | None = None
        for item in message.transforms:
            parent, child = item.header.frame_id.lstrip("/"), item.child_frame_id.lstrip("/")
            try:
                matrix = transform_from_msg(item.transform, f"tf {parent} -> {child}")
                self._buffer.set(parent, child, nanoseconds(item.header.stamp), matrix, static)
            except InvalidInput as error:
                problem = error
        if self._on_change:
            self._on_change()
        if problem:
            raise problem
