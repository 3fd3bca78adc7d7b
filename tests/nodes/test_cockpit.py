"""The cockpit beside a running stack: scenes arrive on the page, and what the page asks for reaches the stack."""

import base64
import http.client
import json
import threading
import time

import cv2
import numpy as np
import pytest
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.parameter import Parameter
from rclpy.task import Future
from sensor_msgs.msg import CompressedImage
from sparseoccvla_msgs.action import AskScene

from sparseoccvla_ros.nodes import cockpit as cockpit_module
from sparseoccvla_ros.nodes.cockpit import CockpitNode
from sparseoccvla_ros.nodes.follower import FollowerNode
from sparseoccvla_ros.nodes.occupancy import OccupancyNode
from sparseoccvla_ros.nodes.planning import PlanningNode
from sparseoccvla_ros.nodes.reasoning import ReasoningNode
from sparseoccvla_ros.nodes.simulator import SimulatorNode
from sparseoccvla_ros.ros import messages
from sparseoccvla_ros.ros.topics import ACTION

pytestmark = pytest.mark.ros


class Page:
    """What the page does, without a browser."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.events: dict[str, list] = {}
        self._stream = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._stream.request("GET", "/events")
        threading.Thread(target=self._listen, args=(self._stream.getresponse(),), daemon=True).start()

    def _listen(self, answer) -> None:
        event = ""
        while line := answer.readline().decode():
            if line.startswith("event: "):
                event = line.removeprefix("event: ").strip()
            elif line.startswith("data: "):
                self.events.setdefault(event, []).append(json.loads(line.removeprefix("data: ")))

    def post(self, path: str, body: dict) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def decoded(data: str) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_UNCHANGED)


def test_sees_asks_and_steers(graph, preset, frames, until, free_port):
    graph.add(OccupancyNode, preset=preset)
    graph.add(ReasoningNode, preset=preset, question_period=0.0)
    planning = graph.add(PlanningNode, preset=preset, stale_after=60.0)
    graph.add(CockpitNode, preset=preset, port=free_port, rate=30.0)
    plans = graph.probe.listen("planning/plan")
    commands = graph.probe.listen("planning/command")
    for index in (0, 1):
        graph.probe.send("frames", messages.frames_to_msg(frames(index)), receivers=2)
        assert until(lambda index=index: len(plans) > index, 30)
    page = Page(free_port)
    scenes = page.events.setdefault("scene", [])

    def shown(index: int) -> bool:
        return bool(scenes) and scenes[-1]["stamp"] == str(frames(index).stamp)

    def drive(index: int) -> dict:
        graph.probe.send("frames", messages.frames_to_msg(frames(index)), receivers=2)
        assert until(lambda: shown(index), 30)
        return scenes[-1]

    assert until(lambda: shown(1), 10), "a page that opens gets what was planned while none was open"
    scene = scenes[-1]
    assert scene["speed"] == pytest.approx(5.0)
    for i, name in enumerate(frames(1).names):
        camera = scene["cameras"][name]
        assert decoded(camera["jpeg"]).shape == frames(1).images.shape[1:]
        np.testing.assert_allclose(camera["matrix"], frames(1).ego2img[i].ravel(), atol=1e-5)
    assert decoded(scene["occupancy"][0]["above"]).shape == (200, 200, 4)
    assert until(lambda: {s["name"] for s in page.events.get("states", [[]])[-1]} >= {"occupancy", "planning"}, 10)

    assert page.post("/command", {"command": "left"})[0] == 200
    assert until(lambda: len(commands) >= 3 and {c.data for c in commands} == {"left"}, 10), "it is held"
    scene = drive(2)
    assert (scene["command"], scene["source"]) == ("left", "topic")
    assert page.post("/command", {"command": "fly"})[0] == 400
    assert page.post("/command", {"command": ""})[0] == 200

    assert page.post("/goal", {"x": 20.0, "y": -20.0})[0] == 200
    planning.set_parameters([Parameter("command_timeout", value=0.3)])
    until(lambda: False, 0.5)  # the command times out; then the goal decides
    scene = drive(3)
    assert (scene["command"], scene["source"]) == ("right", "route")

    status, answer = page.post("/ask", {"question": "What is ahead?"})
    assert status == 200
    assert answer
    assert page.post("/ask", {"question": " "})[0] == 400
    assert len(plans) == 4


def test_switches_nodes_and_the_simulated_world(graph, preset, until, free_port):
    images = []
    graph.probe.create_subscription(CompressedImage, "/CAM_FRONT/image_rect_compressed", images.append, 10)
    simulator = graph.add(
        SimulatorNode, height=18, width=32, lockstep=False, real_time_factor=5.0, wait_for=["follower"]
    )
    follower = graph.add(FollowerNode)
    graph.add(CockpitNode, preset=preset, port=free_port)
    page = Page(free_port)

    def shown() -> np.ndarray:
        return cv2.imdecode(np.frombuffer(images[-1].data, np.uint8), cv2.IMREAD_COLOR)

    routes = graph.probe.listen("planning/route")
    assert until(lambda: images and shown().any(), 60)
    assert until(lambda: routes and len(routes[-1].poses) > 10, 20), "commands come from the page, or along the route"
    assert until(lambda: "red_light" in page.events.get("simulator", [{"scenarios": []}])[-1]["scenarios"], 20)
    assert page.post("/cover", {"camera": "CAM_FRONT", "on": True})[0] == 200
    assert until(lambda: not shown().any(), 20)
    assert page.events["covered"][-1] == ["CAM_FRONT"]
    assert page.post("/delay", {"seconds": 0.5})[0] == 200
    assert simulator.values.image_delay == 0.5
    assert until(lambda: page.events.get("delayed") == [0.5], 5)
    assert page.post("/delay", {"seconds": 3})[0] == 400
    assert page.post("/switch", {"node": "follower", "on": False})[0] == 200
    assert not follower.active
    assert page.post("/switch", {"node": "follower", "on": True})[0] == 200
    assert follower.active
    status, answer = page.post("/switch", {"node": "planning", "on": False})
    assert (status, "planning is not running" in answer) == (400, True)
    assert page.post("/switch", {"node": "cockpit", "on": False})[0] == 400
    status, answer = page.post("/kill", {"node": "follower"})
    assert (status, "started together" in answer) == (400, True)
    status, answer = page.post("/begin", {"scenario": "", "weather": "hail", "seed": 3})
    assert (status, "weather" in answer) == (400, True)
    status, answer = page.post("/begin", {"scenario": "nothing", "weather": "", "seed": 3})
    assert (status, "not one of" in answer) == (400, True)
    assert page.post("/begin", {"scenario": "", "weather": "night", "seed": 30_002})[0] == 200
    assert until(lambda: simulator._cameras._renderer.weather.word == "night", 60)
    assert simulator._episode.simulator.scene.seed == 30_002


def test_without_reasoning_a_question_is_refused_and_goals_wait_for_a_scene(graph, preset, until, free_port):
    cockpit = graph.add(CockpitNode, preset=preset, port=free_port)
    page = Page(free_port)
    status, answer = page.post("/ask", {"question": "What is ahead?"})
    assert (status, "reasoning" in answer) == (400, True)
    status, answer = page.post("/goal", {"x": 1.0, "y": 1.0})
    assert (status, "scene" in answer) == (400, True)
    assert page.post("/command", {"command": "left"})[0] == 200
    cockpit.trigger_deactivate()
    assert until(lambda: page.events.get("held", [None])[-1] == "", 10), "let go"
    status, answer = page.post("/command", {"command": "left"})
    assert (status, "not active" in answer) == (400, True)


@pytest.mark.parametrize("accepts_after", [0.0, 1.0], ids=["at once", "late"])
def test_a_question_that_nobody_answers_is_cancelled(graph, preset, until, free_port, monkeypatch, accepts_after):
    """So that the language model does not go on for nobody; also where it is accepted only after the page gave up."""
    monkeypatch.setattr(cockpit_module, "ANSWER_TIMEOUT", 0.5)
    cancelled = Future()

    def accept(_):
        time.sleep(accepts_after)
        return GoalResponse.ACCEPT

    async def execute(goal):
        await cancelled
        goal.canceled()
        return AskScene.Result(reason="cancelled")

    def cancel(_):
        cancelled.set_result(None)
        return CancelResponse.ACCEPT

    server = ActionServer(graph.probe, AskScene, ACTION, execute, goal_callback=accept, cancel_callback=cancel)
    cockpit = graph.add(CockpitNode, preset=preset, port=free_port)
    assert until(cockpit._asking.server_is_ready, 20)
    assert list(cockpit.ask("What is ahead?")) == ["[no answer]"]
    assert until(cancelled.done, 10)
    server.destroy()
