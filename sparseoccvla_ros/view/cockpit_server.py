"""Web server of the cockpit: the page, its event stream and its requests to the stack. Standard library only."""

from __future__ import annotations

import hmac
import json
import re
import secrets
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from ..core.errors import InvalidInput

PAGE = Path(__file__).parent / "cockpit"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
MAX_BODY = 4096
"""Largest request body in bytes; questions have at most 500 characters."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
COOKIE = "sparseoccvla_cockpit"
KEEP_ALIVE = 10.0
"""Seconds without events after which a stream sends a comment, to detect clients that have disconnected."""


class Stack(Protocol):
    """Requests of the page to the running stack. Each method raises InvalidInput with a message for the page."""

    def command(self, command: str) -> None:
        """Set the navigation command until the next call; "" follows the route."""

    def goal(self, x: float, y: float) -> None:
        """Set a goal position in base_link of the newest scene, m."""

    def ask(self, question: str) -> Iterator[str]:
        """Yield the answer in pieces as they are generated; closing the iterator cancels it."""

    def switch(self, node: str, on: bool) -> None:
        """Switch a node off or on."""

    def kill(self, node: str) -> None:
        """In simulation: kill the process of a node."""

    def cover(self, camera: str, on: bool) -> None:
        """In simulation: cover the lens of a camera, or uncover it."""

    def delay(self, seconds: float) -> None:
        """In simulation: delay images by `seconds` of simulation time."""

    def begin(self, scenario: str, weather: str, seed: int) -> None:
        """In simulation: start a new drive; an empty scenario or weather is drawn from the seed."""


class Stream:
    """Pending events of one client; only the newest of each name is kept, so a slow client skips older ones."""

    def __init__(self, waiting: dict[str, str]) -> None:
        self._waiting = dict(waiting)
        self._changed = threading.Condition()
        self._closed = False

    def put(self, event: str, data: str) -> None:
        """Replace the pending data of this event."""
        with self._changed:
            self._waiting[event] = data
            self._changed.notify()

    def close(self) -> None:
        """Close the stream; `take` then returns None."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def take(self, timeout: float) -> dict[str, str] | None:
        """Return pending data by event; empty after `timeout` seconds without events, None when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed, timeout)
            if self._closed:
                return None
            taken, self._waiting = self._waiting, {}
            return taken


class CockpitServer:
    """HTTP server of the cockpit page; runs until closed.

    With a loopback `host` (the default) the Host header must name a loopback address. With any other host a request
    needs the token in `url`, which is new for each server; the page keeps it as a cookie. Requests with a foreign
    Origin are refused, so other sites in the same browser can neither read the stream nor send commands.
    """

    def __init__(self, stack: Stack, host: str = "127.0.0.1", port: int = 8088) -> None:
        self.stack = stack
        self.names = {"localhost", "127.0.0.1", "[::1]"}
        self.token = "" if host in LOOPBACK else secrets.token_urlsafe(16)
        self._latest: dict[str, str] = {}
        self._streams: set[Stream] = set()
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"cockpit": self})
        try:
            self._http = ThreadingHTTPServer((host, port), handler)
        except OSError as error:
            raise InvalidInput("port", f"{host}:{port} cannot be opened: {error.strerror}") from None
        self._http.daemon_threads = True
        self.url = f"http://{host}:{self._http.server_port}/" + (f"?token={self.token}" if self.token else "")
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.2,), name="cockpit", daemon=True)
        self._thread.start()

    @property
    def watched(self) -> bool:
        """Whether a page is open; if not, nothing needs to be drawn."""
        return bool(self._streams)

    def send(self, event: str, content: Any) -> None:
        """Send an event to every open page, and to pages opened before the next event of this name."""
        data = json.dumps(content, separators=(",", ":"))
        with self._lock:
            self._latest[event] = data
            for stream in self._streams:
                stream.put(event, data)

    def open_stream(self) -> Stream:
        """Open a stream that starts with the newest data of every event."""
        with self._lock:
            stream = Stream(self._latest)
            self._streams.add(stream)
        return stream

    def close_stream(self, stream: Stream) -> None:
        """Remove a client's stream."""
        with self._lock:
            self._streams.discard(stream)

    def close(self) -> None:
        """Close every stream and stop the server."""
        with self._lock:
            for stream in self._streams:
                stream.close()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(2.0)


class _Handler(BaseHTTPRequestHandler):
    cockpit: CockpitServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Suppress request logging."""

    def _refused(self) -> bool:
        """Refuse the request if it is not allowed; returns True if refused.

        A refusal closes the connection without reading the body. On an open connection the body would be parsed as
        the next request, with headers chosen by the foreign page.
        """
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        foreign = origin is not None and urlsplit(origin).netloc != host
        token = self.cockpit.token
        # With a token, any host name is accepted.
        kept, self.close_connection = self.close_connection, True
        if foreign or (not token and re.sub(r":\d+$", "", host) not in self.cockpit.names):
            self._answer(HTTPStatus.FORBIDDEN, {"error": "this address is not the cockpit's"})
            return True
        if token and not any(hmac.compare_digest(token.encode(), given.encode()) for given in self._tokens()):
            self._answer(HTTPStatus.UNAUTHORIZED, {"error": "open the address that the cockpit printed"})
            return True
        self.close_connection = kept
        return False

    def _tokens(self) -> list[str]:
        """Return the tokens of the request: from the URL at first, from the cookie afterwards."""
        try:
            cookie = SimpleCookie(self.headers.get("Cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        return parse_qs(urlsplit(self.path).query).get("token", []) + ([cookie.value] if cookie else [])

    def do_GET(self) -> None:
        if self._refused():
            return
        path = urlsplit(self.path).path
        if path == "/events":
            self._stream()
            return
        file = PAGE / ("index.html" if path == "/" else path.lstrip("/"))
        if file.parent != PAGE or file.suffix not in KINDS or not file.is_file():
            self._answer(HTTPStatus.NOT_FOUND, {"error": f"no page {path}"})
            return
        self._send(HTTPStatus.OK, KINDS[file.suffix], file.read_bytes())

    def do_POST(self) -> None:
        if self._refused():
            return
        try:
            body = self._body()
            path = urlsplit(self.path).path
            if path == "/command":
                self.cockpit.stack.command(_text(body, "command"))
            elif path == "/goal":
                self.cockpit.stack.goal(_number(body, "x"), _number(body, "y"))
            elif path == "/switch":
                self.cockpit.stack.switch(_text(body, "node"), _flag(body, "on"))
            elif path == "/kill":
                self.cockpit.stack.kill(_text(body, "node"))
            elif path == "/cover":
                self.cockpit.stack.cover(_text(body, "camera"), _flag(body, "on"))
            elif path == "/delay":
                self.cockpit.stack.delay(_number(body, "seconds"))
            elif path == "/begin":
                seed = round(_number(body, "seed", 2_000_000_000))
                self.cockpit.stack.begin(_text(body, "scenario"), _text(body, "weather"), seed)
            elif path == "/ask":
                self._answer_question(_text(body, "question"))
                return
            else:
                self._answer(HTTPStatus.NOT_FOUND, {"error": f"nothing to do at {path}"})
                return
        except InvalidInput as error:
            self._answer(HTTPStatus.BAD_REQUEST, {"error": str(error)})
            return
        self._answer(HTTPStatus.OK, {})

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,9}", length) or int(length) > MAX_BODY:
            self.close_connection = True
            raise InvalidInput("body", f"want at most {MAX_BODY} bytes with their length, got {length or 'no length'}")
        raw = self.rfile.read(int(length))
        if self.headers.get_content_type() != "application/json":
            raise InvalidInput("body", f"want application/json, got {self.headers.get_content_type()}")
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):
            raise InvalidInput("body", "is no JSON") from None
        if not isinstance(body, dict):
            raise InvalidInput("body", "is no JSON object")
        return body

    def _answer_question(self, question: str) -> None:
        pieces = self.cockpit.stack.ask(question)
        first = next(pieces, "")  # a refused question raises before the response starts
        self._begin("text/plain; charset=utf-8")
        try:
            self._chunk(first)
            for piece in pieces:
                self._chunk(piece)
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True
        finally:
            pieces.close()  # type: ignore[attr-defined]

    def _stream(self) -> None:
        stream = self.cockpit.open_stream()
        try:
            self._begin("text/event-stream")
            while (events := stream.take(KEEP_ALIVE)) is not None:
                for event, data in events.items():
                    self._chunk(f"event: {event}\ndata: {data}\n\n")
                if not events:
                    self._chunk(": still there\n\n")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            pass
        finally:
            self.cockpit.close_stream(stream)
            self.close_connection = True

    def _begin(self, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, text: str) -> None:
        data = text.encode()
        if data:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()

    def _answer(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(content).encode())

    def _send(self, status: HTTPStatus, kind: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", "default-src 'self'; img-src 'self' data:")
        self.send_header("Referrer-Policy", "no-referrer")
        if self.cockpit.token and status is HTTPStatus.OK:
            self.send_header("Set-Cookie", f"{COOKIE}={self.cockpit.token}; HttpOnly; SameSite=Strict")
        self.end_headers()
        self.wfile.write(data)


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise InvalidInput(name, f"want text, got {type(value).__name__}")
    return value


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if not isinstance(value, bool):
        raise InvalidInput(name, f"want true or false, got {type(value).__name__}")
    return value


def _number(body: dict[str, Any], name: str, most: float = 1000.0) -> float:
    value = body.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= most:
        raise InvalidInput(name, f"want a number of at most {most:.0f}")
    return float(value)
