"""The cockpit's server: the page, the stream, and who may send what."""

import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator

import pytest

from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.planning.route_command import parse_command
from sparseoccvla_ros.view.cockpit_server import MAX_BODY, PAGE, CockpitServer


class Recorder:
    """Takes down what the page asked for, and refuses what the stack would refuse."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.goals: list[tuple[float, float]] = []
        self.cancelled = threading.Event()

    def command(self, command: str) -> None:
        self.commands.append(parse_command(command).value if command else "")

    def goal(self, x: float, y: float) -> None:
        self.goals.append((x, y))

    def ask(self, question: str) -> Iterator[str]:
        if not question:
            raise InvalidInput("question", "is empty")
        try:
            yield from question.split()
            while question.startswith("endless"):
                yield "."
        except GeneratorExit:
            self.cancelled.set()
            raise


@pytest.fixture
def cockpit():
    server = CockpitServer(Recorder(), port=0)
    yield server
    server.close()


def request(cockpit, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", int(cockpit.url.rsplit(":", 1)[1].strip("/")), timeout=5)
    headers = {k.replace("_", "-"): v for k, v in headers.items()}
    if body is not None:
        headers = {"Content-Type": "application/json", **headers}
        body = body if isinstance(body, (bytes, str)) else json.dumps(body)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_the_page_and_all_that_it_names_are_served(cockpit):
    status, page = request(cockpit, "GET", "/")
    assert status == 200
    named = re.findall(r'(?:src|href)="([\w.]+)"', page)
    assert {"cockpit.js", "cockpit.css"} <= set(named)
    for name in named:
        connection = http.client.HTTPConnection("127.0.0.1", int(cockpit.url.rsplit(":", 1)[1].strip("/")), timeout=5)
        connection.request("GET", f"/{name}")
        answer = connection.getresponse()
        assert (answer.status, answer.read().decode()) == (200, (PAGE / name).read_text())
        assert answer.getheader("Content-Type").count("charset") == 1
    assert "http" not in re.sub(r"<!--.*?-->", "", page), "the page loads nothing from elsewhere"


@pytest.mark.parametrize(
    "path", ["/nothing", "/../cockpit_server.py", "/%2e%2e/cockpit_server.py", "/cockpit/index.html"]
)
def test_nothing_else_is_served(cockpit, path):
    assert request(cockpit, "GET", path)[0] == 404


def read_events(answer, count):
    """The next `count` (event, content) of a stream."""
    out, event = [], ""
    while len(out) < count:
        text = answer.readline().decode().strip()
        if text.startswith("event: "):
            event = text.removeprefix("event: ")
        elif text.startswith("data: "):
            out.append((event, json.loads(text.removeprefix("data: "))))
    return out


def test_a_stream_begins_with_the_newest_of_everything_and_goes_on(cockpit):
    cockpit.send("scene", {"stamp": 1})
    cockpit.send("scene", {"stamp": 2})
    cockpit.send("states", ["ok"])
    assert not cockpit.watched
    connection = http.client.HTTPConnection("127.0.0.1", int(cockpit.url.rsplit(":", 1)[1].strip("/")), timeout=5)
    connection.request("GET", "/events")
    answer = connection.getresponse()
    assert answer.getheader("Content-Type") == "text/event-stream"
    assert read_events(answer, 2) == [("scene", {"stamp": 2}), ("states", ["ok"])]
    assert cockpit.watched
    cockpit.send("scene", {"stamp": 3})
    assert read_events(answer, 1) == [("scene", {"stamp": 3})]
    connection.close()


def test_commands_and_goals_reach_the_stack(cockpit):
    for command in ("left", "RIGHT ", ""):
        assert request(cockpit, "POST", "/command", {"command": command})[0] == 200
    assert request(cockpit, "POST", "/goal", {"x": 12.5, "y": -3})[0] == 200
    assert cockpit.stack.commands == ["left", "right", ""]
    assert cockpit.stack.goals == [(12.5, -3.0)]


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("/command", {"command": "fly"}, "fly"),
        ("/command", {}, "command"),
        ("/command", "no json", "JSON"),
        ("/command", "[]", "object"),
        ("/command", "[" * 4000, "JSON"),
        ("/goal", {"x": "far", "y": 0}, "x"),
        ("/goal", '{"x": NaN, "y": 0}', "x"),
        ("/goal", {"x": 1e9, "y": 0}, "x"),
        ("/ask", {"question": ""}, "question"),
        ("/ask", "x" * (MAX_BODY + 1), "bytes"),
    ],
)
def test_bad_requests_are_refused_with_the_reason(cockpit, path, body, text):
    status, answer = request(cockpit, "POST", path, body)
    assert status == 400
    assert text in json.loads(answer)["error"]
    assert cockpit.stack.commands == cockpit.stack.goals == []


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Host": "127.0.0.1.evil"}],
)
def test_pages_of_others_can_neither_read_nor_steer(cockpit, headers):
    for method, path, body in (("GET", "/events", None), ("GET", "/", None), ("POST", "/command", {"command": "left"})):
        assert request(cockpit, method, path, body, **headers)[0] == 403
    # A form of another page needs no permission to send, but cannot send this type.
    assert request(cockpit, "POST", "/command", '{"command": "left"}', **{"Content-Type": "text/plain"})[0] == 400
    assert cockpit.stack.commands == []


@pytest.mark.parametrize("refused", ["Origin: http://elsewhere.example", "Content-Length: \u00b2"])
def test_nothing_is_taken_from_what_a_refused_request_carries(cockpit, refused):
    port = int(cockpit.url.rsplit(":", 1)[1].strip("/"))
    wanted = b'{"command": "left"}'
    head = f"POST /command HTTP/1.1\r\nHost: localhost:{port}\r\n"
    inside = f"{head}Content-Type: application/json\r\nContent-Length: {len(wanted)}\r\n\r\n".encode() + wanted
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        length = "" if refused.startswith("Content-Length") else f"Content-Length: {len(inside)}\r\n"
        connection.sendall(f"{head}{refused}\r\n{length}\r\n".encode("latin-1") + inside)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.split()[1] in (b"400", b"403")
    assert answer.count(b"HTTP/1.1") == 1
    assert cockpit.stack.commands == []


def test_an_answer_streams_and_ends_when_the_asker_leaves(cockpit):
    assert request(cockpit, "POST", "/ask", {"question": "is the road free"}) == (200, "istheroadfree")
    connection = http.client.HTTPConnection("127.0.0.1", int(cockpit.url.rsplit(":", 1)[1].strip("/")), timeout=5)
    connection.request("POST", "/ask", '{"question": "endless"}', {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.read(7) == b"endless"
    answer.close()
    connection.close()
    assert cockpit.stack.cancelled.wait(10)


def test_a_port_in_use_is_named(cockpit):
    port = int(cockpit.url.rsplit(":", 1)[1].strip("/"))
    with pytest.raises(InvalidInput, match=str(port)):
        CockpitServer(Recorder(), port=port)


def test_another_address_wants_the_token():
    """0.0.0.0 and the like: whoever reaches the machine still has to know what the cockpit printed."""
    server = CockpitServer(Recorder(), host="0.0.0.0", port=0)
    try:
        token = server.token
        assert len(token) >= 16
        assert server.url.endswith(f"?token={token}")
        server.url = server.url.split("?")[0]  # what `request` reads the port from
        for path in ("/", "/cockpit.js", "/events", "/?token=guess"):
            assert request(server, "GET", path)[0] == 401, path
        command = {"command": "left"}
        assert request(server, "POST", "/command", command)[0] == 401
        assert request(server, "POST", "/command", command, Cookie="sparseoccvla_cockpit=guess")[0] == 401
        assert not server.stack.commands
        name = {"Host": "vehicle.local:80"}
        assert request(server, "GET", f"/?token={token}", **name)[0] == 200, "by any name of this machine"
        cookie = {"Cookie": f"sparseoccvla_cockpit={token}"}
        assert request(server, "GET", "/", **cookie)[0] == 200
        assert request(server, "POST", "/command", command, **cookie)[0] == 200
        assert server.stack.commands == ["left"]
        assert request(server, "POST", "/command", command, Origin="http://evil.example", **cookie)[0] == 403
    finally:
        server.close()


def test_by_itself_the_page_stays_on_this_machine(cockpit):
    assert cockpit._http.server_address[0] == "127.0.0.1"
    assert cockpit.token == ""
