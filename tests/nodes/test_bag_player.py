"""The bag player as a node: rate, offset, pause, step, loop, /clock, late joiners, a clean end."""

import time

import pytest
from std_srvs.srv import SetBool, Trigger
from tf2_msgs.msg import TFMessage

from sparseoccvla_ros.core.paths import bundled_bag
from sparseoccvla_ros.data.bags.reader import BagReader
from sparseoccvla_ros.nodes.bag_player import BagPlayerNode
from sparseoccvla_ros.ros import messages
from sparseoccvla_ros.ros.lifecycle_base import message_class
from sparseoccvla_ros.ros.msg_utils import stamp_of
from sparseoccvla_ros.ros.qos import PROFILES

pytestmark = pytest.mark.ros
FRONT = "/CAM_FRONT/image_rect_compressed"


class Listener:
    """Stamps of the front camera and of /clock, with the time they came."""

    def __init__(self, probe) -> None:
        self.images: list[tuple[int, float]] = []
        self.clock = probe.listen("/clock")
        kind = message_class("sensor_msgs/msg/CompressedImage")
        probe.create_subscription(kind, FRONT, self._image, PROFILES["output"], raw=True)

    def _image(self, raw: bytes) -> None:
        self.images.append((stamp_of(raw), time.monotonic()))


@pytest.fixture
def player(graph):
    def go(**parameters):
        listener = Listener(graph.probe)
        settings = {"bag": str(bundled_bag()), "wait_for": 0, "settle": 0.5, **parameters}
        return graph.add(BagPlayerNode, **settings), listener

    return go


def call(graph, until, kind, name, request):
    client = graph.probe.create_client(kind, f"bag_player/{name}")
    assert client.wait_for_service(timeout_sec=10)
    answer = client.call_async(request)
    assert until(answer.done, 10)
    return answer.result()


@pytest.mark.parametrize("rate", [pytest.param(1.0, marks=pytest.mark.slow), 3.0])
def test_plays_at_rate_and_ends(player, until, rate):
    node, got = player(rate=rate, duration=3.0)
    assert until(lambda: node.finished.is_set(), 20)
    stamps = [s for s, _ in got.images]
    assert len(stamps) == len(set(stamps)) == pytest.approx(3.0 * 6, abs=4)
    assert stamps == sorted(stamps)
    bag = (got.images[-1][0] - got.images[0][0]) / 1e9
    wall = got.images[-1][1] - got.images[0][1]
    assert wall == pytest.approx(bag / rate, rel=0.15)
    clock = [messages.nanoseconds(m.clock) for m in got.clock]
    assert clock == sorted(clock)
    assert (clock[-1] - clock[0]) / 1e9 == pytest.approx(3.0, abs=0.2)
    assert node.active, "the node stays; its process ends when it was started as one"


def test_start_offset_still_delivers_tf_static(player, graph, until):
    static: list[TFMessage] = graph.probe.listen("/tf_static")
    node, got = player(start_offset=10.0, duration=0.5)
    assert until(lambda: node.finished.is_set(), 20)
    with BagReader(bundled_bag()) as reader:
        assert (got.images[0][0] - reader.start) / 1e9 == pytest.approx(10.0, abs=0.3)
    assert {t.child_frame_id for m in static for t in m.transforms} >= {"CAM_FRONT", "CAM_BACK"}


def test_pause_step_and_resume(player, graph, until):
    # The images begin half a second after the bag: at once, were it not paused.
    node, got = player(start_paused=True, start_offset=0.5, duration=1.5)
    time.sleep(1.0)
    assert not got.images
    assert call(graph, until, Trigger, "step", Trigger.Request()).success
    call(graph, until, SetBool, "pause", SetBool.Request(data=False))
    assert not call(graph, until, Trigger, "step", Trigger.Request()).success, "stepping while playing is refused"
    assert until(lambda: len(got.images) > 2, 10)
    call(graph, until, SetBool, "pause", SetBool.Request(data=True))
    time.sleep(0.3)
    count = len(got.images)
    time.sleep(0.5)
    assert len(got.images) == count
    call(graph, until, SetBool, "pause", SetBool.Request(data=False))
    assert until(lambda: node.finished.is_set(), 10)


@pytest.mark.slow
def test_loop_starts_again_at_the_same_stamps(player, until):
    _, got = player(loop=True, duration=1.0)
    assert until(lambda: sum(b[0] < a[0] for a, b in zip(got.images, got.images[1:], strict=False)) >= 2, 15)
    assert len({s for s, _ in got.images}) <= 8


def test_late_joiner_gets_tf_static(player, graph, until):
    _, got = player()
    assert until(lambda: len(got.images) > 3, 15)
    late = graph.probe.listen("/tf_static")
    assert until(lambda: late, 5)


def test_no_subscribers_is_an_error_and_ends(graph, until):
    node = graph.add(BagPlayerNode, bag=str(bundled_bag()), wait_for=1, wait_timeout=1.0)
    assert until(lambda: node.finished.is_set(), 10)
    assert node.exit_code == 1


@pytest.mark.parametrize("bag", ["no/such/bag", ""])
def test_wrong_bag_stays_unconfigured_and_says_why(graph, bag):
    node = graph.add(BagPlayerNode, bag=bag)
    assert not node.active
    assert any(v.key == "last_error" and v.value for v in node.monitor.status(9).values)
