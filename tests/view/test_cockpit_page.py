"""The cockpit's page in a real browser: moving pictures, questions, commands, a fault, keys, a phone's width."""

import io
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from sparseoccvla_ros.core.types import PlanStatus
from sparseoccvla_ros.view.cockpit_scene import scene_event, top_view
from sparseoccvla_ros.view.cockpit_server import CockpitServer

WINDOW = {"width": 1280, "height": 800}


class Stack:
    """Answers every question with three words, and notes the rest."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.goals: list[tuple[float, float]] = []
        self.switched: list[tuple] = []

    def command(self, command: str) -> None:
        self.commands.append(command)

    def goal(self, x: float, y: float) -> None:
        self.goals.append((x, y))

    def switch(self, node: str, on: bool) -> None:
        self.switched.append((node, on))

    def kill(self, node: str) -> None:
        self.switched.append((node, "killed"))

    def cover(self, camera: str, on: bool) -> None:
        self.switched.append((camera, on))

    def delay(self, seconds: float) -> None:
        self.switched.append(("delay", seconds))

    def begin(self, scenario: str, weather: str, seed: int) -> None:
        self.switched.append((scenario, weather, seed))

    def ask(self, question: str) -> Iterator[str]:
        yield from ("A ", "car ", "ahead.")


@pytest.fixture(scope="module")
def cockpit(make_frames, make_plan, voxels):
    server = CockpitServer(Stack(), port=0)

    def send(status: PlanStatus = PlanStatus.OK, missing: tuple[str, ...] = (), turn: float = 0.25) -> None:
        event = scene_event(make_frames(missing=missing), voxels, (voxels,) * 3, make_plan(status, turn))
        server.send("scene", {**event, "latency": 400})

    server.show = send
    yield server
    server.close()


@pytest.fixture(scope="module")
def tab(browser, cockpit):
    """The page, opened once since that takes two seconds, and what its scripts complain about."""
    opened = browser.new_page(viewport=WINDOW)
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    # That a connection ended is what one test is about.
    told = lambda message: message.type == "error" and "net::" not in message.text  # noqa: E731
    opened.on("console", lambda message: problems.append(message.text) if told(message) else None)
    cockpit.show()
    opened.goto(cockpit.url)
    opened.wait_for_selector("body[data-scenes]")
    yield opened, problems
    opened.close()


@pytest.fixture
def page(tab, cockpit):
    """The page as after its opening, with a stack that nobody has asked for anything."""
    opened, problems = tab
    problems.clear()
    cockpit.stack = Stack()
    opened.set_viewport_size(WINDOW)
    opened.locator("#horizon").fill("0")
    opened.evaluate("document.activeElement.blur()")
    opened.evaluate("scrollTo(0, 0)")
    show(opened, cockpit)
    yield opened
    assert problems == []


def show(page, cockpit, **scene) -> None:
    """Sends a scene and waits until the page has drawn it."""
    drawn = int(page.get_attribute("body", "data-scenes"))
    cockpit.show(**scene)
    page.wait_for_selector(f"body[data-scenes='{drawn + 1}']")


def until(page, arrived: Callable[[], bool]) -> None:
    """Gives what the page sends up to 3 s to arrive."""
    for _ in range(150):
        if arrived():
            return
        page.wait_for_timeout(20)


def pixels(page, selector: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(page.locator(selector).screenshot())).convert("RGB")).astype(int)


def test_pictures_move_with_the_scenes(page, cockpit):
    assert page.locator("#cameras figure").count() == 6
    assert page.text_content("#speed") == "22 km/h"
    before = {name: pixels(page, name) for name in ("#above", "#behind", "figure[data-name=CAM_FRONT]")}
    show(page, cockpit, turn=-0.25)
    for name, old in before.items():
        assert (np.abs(pixels(page, name) - old).max(-1) > 30).mean() > 0.002, name
    page.locator("#horizon").fill("2")
    assert page.text_content("#seconds") == "+2 s"


def test_behind_the_vehicle_one_sees_the_path_and_turns_around_it(page):
    """Green is the path, orange a car; a drag to the side moves both."""

    def share(picture: np.ndarray, colour: tuple[int, int, int]) -> float:
        return float((np.abs(picture - colour).max(-1) < 40).mean())

    before = pixels(page, "#behind")
    assert share(before, (60, 200, 125)) > 0.005, "the path"
    assert share(before, (60, 63, 70)) > 0.05, "the road"
    box = page.locator("#behind").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 80, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    assert (np.abs(pixels(page, "#behind") - before).max(-1) > 30).mean() > 0.05


def test_a_phone_shows_all_of_it_without_scrolling_sideways(page):
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for part in ("#cameras", "#above", "#behind", "#drive", "#question", "#states"):
        box = page.locator(part).bounding_box()
        assert box["x"] >= 0, part
        assert box["x"] + box["width"] <= 390, part
        assert box["width"] > 150, part


def test_steers_by_button_key_and_click(page, cockpit):
    page.click("button[data-command=left]")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    box = page.locator("#above").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 4)
    until(page, lambda: len(cockpit.stack.commands) == 3 and cockpit.stack.goals)
    assert cockpit.stack.commands == ["left", "right", ""]
    ((x, y),) = cockpit.stack.goals
    assert (x, y) == pytest.approx((20.0, 0.0), abs=0.3), "a quarter from the top of 80 m is 20 m ahead"


def test_asks_and_shows_the_answer(page):
    page.keyboard.press("/")
    page.keyboard.type("What is ahead?")
    page.keyboard.press("Enter")
    page.wait_for_selector("#talk .answer:has-text('A car ahead.')")
    assert page.text_content("#talk .me") == "What is ahead?"


def test_switches_nodes_lenses_and_the_simulated_world(page, cockpit):
    """Lenses, weather and scenario are offered where a simulator runs."""
    cover = page.locator("figure[data-name=CAM_FRONT] button")
    assert not cover.is_visible()
    assert not page.locator("#world").is_visible()
    numbers = {"latency_p50_ms": "12345", "latency_p95_ms": "12345", "rate_hz": "10.1"}
    state = {"name": "planning", "level": "ok", "message": "OK", "silent": False, "switch": True, **numbers}
    cockpit.send("states", [state])
    cockpit.send("simulator", {"scenarios": ["", "red_light"], "weathers": ["", "night"], "delays": [0, 0.5]})
    page.click("tr[data-name=planning] button >> nth=0")
    cockpit.send("states", [{**state, "message": "INACTIVE"}, {**state, "name": "camera_sync"}])
    page.click("tr[data-name=planning] button:has-text('on')")
    page.click("tr[data-name=planning] button:has-text('kill')")
    assert page.evaluate("(a => a.scrollWidth - a.clientWidth)(document.querySelector('aside'))") == 0
    cover.click()
    cockpit.send("covered", ["CAM_FRONT"])
    page.wait_for_selector("figure[data-name=CAM_FRONT] button[aria-pressed=true]")
    page.reload()
    page.wait_for_selector("body[data-scenes]")
    page.wait_for_selector("figure[data-name=CAM_FRONT] button[aria-pressed=true]")
    cover.click()
    page.select_option("#scenario", "red_light")
    page.select_option("#weather", "night")
    page.fill("#seed", "90007")
    page.click("#begin")
    until(page, lambda: len(cockpit.stack.switched) == 6)
    page.select_option("#delay", label="0.5 s late")
    until(page, lambda: len(cockpit.stack.switched) == 7)
    assert cockpit.stack.switched == [
        ("planning", False), ("planning", True), ("planning", "killed"), ("CAM_FRONT", True), ("CAM_FRONT", False),
        ("red_light", "night", 90007), ("delay", 0.5),
    ]  # fmt: skip


def test_faults_are_seen(page, cockpit):
    """The last one to use the page: it ends with the server gone."""
    cockpit.show(status=PlanStatus.BRAKING, missing=("CAM_FRONT",))
    cockpit.send("states", [{"name": "planning", "level": "error", "message": "STALE: no queries", "silent": False}])
    page.wait_for_selector("#status[data-status=braking]")
    page.wait_for_selector("figure.missing[data-name=CAM_FRONT]")
    page.wait_for_selector("#states tr[data-level=error]:has-text('STALE')")
    page.evaluate("shown -= 3000")  # as if the scene had come three seconds earlier
    page.wait_for_selector("#link[data-level=stale]:has-text('nothing new for')")
    cockpit.show()
    page.wait_for_selector("#link[data-level=ok]")
    cockpit.close()
    page.wait_for_selector("#link[data-level=error]")


def test_the_map_has_ahead_on_top_and_left_on_the_left(one_voxel):
    far = top_view(one_voxel(39.9, 39.9, 1.0, "car"))
    assert far[0, 0, 3] == 255
    assert (far[..., 3] > 0).sum() == 1
    assert top_view(one_voxel(-39.9, -39.9, 1.0, "car"))[199, 199, 3] == 255
