"""Foxglove WebSocket server for the running stack: messages pass unchanged, CDR with their ROS 2 definitions."""

from __future__ import annotations

import threading
from typing import Any

from ..core.errors import InvalidInput
from ..data.bags.writer import typestore

BACKLOG = 256
"""Messages queued for a slow client; the oldest is dropped first."""


class FoxgloveServer:
    """Publisher of messages to Foxglove clients; a new subscriber gets the newest message of its topic at once.

    Safe to call from several threads.

    Args:
        port: 0 picks a free one, shown in `url`.
        host: Address to bind; the protocol has no authentication.

    Raises:
        InvalidInput: foxglove-sdk is not installed, or the address cannot be opened.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        try:
            import foxglove
        except ImportError:
            raise InvalidInput("foxglove", "needs foxglove-sdk (requirements/foxglove.txt)") from None
        self._sdk, self._context = foxglove, foxglove.Context()
        self._channels: dict[str, Any] = {}
        self._newest: dict[str, tuple[int, bytes]] = {}
        self._lock = threading.Lock()
        listener: Any = _Listener(self)  # implements only the callbacks used here
        try:
            self._server = foxglove.start_server(
                name="sparseoccvla", host=host, port=port, context=self._context, server_listener=listener,
                message_backlog_size=BACKLOG,
            )  # fmt: skip
        except (RuntimeError, OSError) as error:
            raise InvalidInput("foxglove_port", f"{host}:{port} cannot be opened: {error}") from None
        self.url = f"ws://{host}:{self._server.port}"

    def send(self, topic: str, msgtype: str, stamp: int, raw: bytes) -> None:
        """Publish a message.

        Args:
            topic: Absolute name.
            msgtype: Such as nav_msgs/msg/Path, from ROS 2 or this project; other types are skipped.
            stamp: Log time, ns.
            raw: CDR with its header of 4 bytes.
        """
        with self._lock:
            if topic not in self._channels:
                self._channels[topic] = self._channel(topic, msgtype)
            channel = self._channels[topic]
            self._newest[topic] = stamp, raw
        if channel is not None:
            channel.log(raw, log_time=stamp)

    def _channel(self, topic: str, msgtype: str) -> Any:
        if msgtype not in typestore().fielddefs:
            return None
        text, _ = typestore().generate_msgdef(msgtype, ros_version=2)
        schema = self._sdk.Schema(name=msgtype, encoding="ros2msg", data=text.encode())
        return self._sdk.Channel(topic, schema=schema, message_encoding="cdr", context=self._context)

    def repeat(self, topic: str) -> None:
        """Send the newest message of a topic again, because camera transforms are published only once."""
        with self._lock:
            channel, newest = self._channels.get(topic), self._newest.get(topic)
        if channel is not None and newest is not None:
            channel.log(newest[1], log_time=newest[0])

    def close(self) -> None:
        """Stop the server and close its channels."""
        self._server.stop()
        for channel in self._channels.values():
            if channel is not None:
                channel.close()


class _Listener:
    """Server callbacks for topic subscriptions."""

    def __init__(self, server: FoxgloveServer) -> None:
        self._server = server

    def on_subscribe(self, client: Any, channel: Any) -> None:
        self._server.repeat(channel.topic)

    def on_unsubscribe(self, client: Any, channel: Any) -> None:
        pass
