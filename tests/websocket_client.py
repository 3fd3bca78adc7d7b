"""A WebSocket client of the standard library alone, for tests of servers that speak it (RFC 6455)."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
from typing import Any


class WebSocketClient:
    """Text goes and comes as JSON, binary messages come as bytes."""

    def __init__(self, port: int, subprotocol: str, timeout: float = 20.0) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout)
        self._stream = self._socket.makefile("rb")
        lines = [
            "GET / HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: Upgrade", "Upgrade: websocket",
            "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            f"Sec-WebSocket-Protocol: {subprotocol}", "", "",
        ]  # fmt: skip
        self._socket.sendall("\r\n".join(lines).encode())
        status = self._stream.readline().decode()
        assert "101" in status, status
        while self._stream.readline().strip():
            pass

    def send(self, content: dict[str, Any]) -> None:
        """A text message of less than 64 KiB."""
        data, mask = json.dumps(content).encode(), os.urandom(4)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))
        self._socket.sendall(b"\x81" + struct.pack(">BH", 0x80 | 126, len(data)) + mask + masked)

    def receive(self) -> dict[str, Any] | bytes:
        """The next message that is no ping."""
        while True:
            kind, length = struct.unpack("BB", self._stream.read(2))
            if length >= 126:
                length = struct.unpack(
                    *((">H", self._stream.read(2)) if length == 126 else (">Q", self._stream.read(8)))
                )[0]
            data = self._stream.read(length)
            if kind & 15 in (1, 2):
                return json.loads(data) if kind & 15 == 1 else data

    def close(self) -> None:
        """End the connection."""
        self._stream.close()
        self._socket.close()
