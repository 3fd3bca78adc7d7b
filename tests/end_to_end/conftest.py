"""The whole stack as processes over real DDS, on the bundled bag."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sparseoccvla_ros.bringup import launch_config
from sparseoccvla_ros.bringup.run_on_bag import WATCHED
from sparseoccvla_ros.bringup.supervisor import Supervisor
from sparseoccvla_ros.bringup.topic_monitor import TopicMonitor
from sparseoccvla_ros.core.paths import bundled_bag
from sparseoccvla_ros.ros.parameters import STAGES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def bag() -> Path:
    return bundled_bag()


class Stack:
    """Running processes and somebody who watches them."""

    def __init__(self, supervisor: Supervisor, observer: TopicMonitor, bag: Path) -> None:
        self.supervisor = supervisor
        self.observer = observer
        self.bag = bag

    def play(self, **parameters: object) -> None:
        """Start the bag player with parameters."""
        texts = {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in parameters.items()}
        self.supervisor.start(launch_config.BAG_PLAYER, texts)

    def state(self, name: str) -> str:
        """What a node says of itself."""
        return self.observer.states.get(name, "")

    def wait(self, condition: Callable[[], object], timeout: float, what: str) -> float:
        """Seconds until the condition holds; fails naming what was awaited and what every node says."""
        began = time.monotonic()
        while time.monotonic() - began < timeout:
            self.supervisor.poll()
            if condition():
                return time.monotonic() - began
            time.sleep(0.05)
        raise AssertionError(f"not within {timeout} s: {what}; states: {self.observer.states}")

    def active(self, name: str) -> bool:
        """Configured and activated, whatever its inputs are."""
        return self.state(name).split(":")[0] in ("OK", "DEGRADED", "STALE", "REJECTING")


@pytest.fixture
def start(tmp_path: Path, bag: Path, preset: str, domain: int) -> Iterator[Callable[..., Stack]]:
    """Start the stack with launch arguments and per-node parameters; everything ends with the test."""
    with contextlib.ExitStack() as ends:

        def go(parameters: dict[str, dict[str, str]] | None = None, **arguments: str) -> Stack:
            values = launch_config.resolve({"preset": preset, "bag": str(bag), **arguments}, with_bag=True)
            observer = ends.enter_context(TopicMonitor(WATCHED, domain_id=domain))
            supervisor = ends.enter_context(Supervisor(values, tmp_path / "logs", print))
            stack = Stack(supervisor, observer, bag)
            for entry in launch_config.process_entries(values, with_bag=False):
                supervisor.start(entry, (parameters or {}).get(entry.name))
            stack.wait(lambda: all(stack.active(n) for n in STAGES), 300, "every node active")
            return stack

        yield go
