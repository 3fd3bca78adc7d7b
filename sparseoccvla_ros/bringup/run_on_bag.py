"""Plays a bag through the whole stack and measures it from outside; shared by demo, bench and tests."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from sparseoccvla_ros.bringup import launch_config
from sparseoccvla_ros.bringup.latency_budget import Hop, latency_budget
from sparseoccvla_ros.bringup.supervisor import Supervisor
from sparseoccvla_ros.bringup.topic_monitor import TopicMonitor, has_poses, plan_trace
from sparseoccvla_ros.camera_sync.profiles import profile
from sparseoccvla_ros.data.bags.reader import BagReader
from sparseoccvla_ros.ros.parameters import STAGES

WATCHED = (
    "frames",
    "occupancy/queries",
    "occupancy/points",
    "occupancy/grid",
    "occupancy/markers",
    "reasoning/state",
    "occupancy/forecast/points",
    "planning/plan",
    "planning/path",
    "planning/trajectory",
    "planning/candidates",
)
TRACKED = (("reasoning", "prefill_ms"), ("reasoning", "answer_tokens_per_s"))
IMAGE_TYPES = {"raw": "sensor_msgs/msg/Image", "compressed": "sensor_msgs/msg/CompressedImage"}


@dataclass(frozen=True)
class Spread:
    """Statistics of times in milliseconds."""

    n: int
    mean: float
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: list[float]) -> Spread | None:
        """Statistics of times in seconds; None without values."""
        if not seconds:
            return None
        ordered = sorted(1e3 * s for s in seconds)
        rank = lambda q: ordered[min(len(ordered) - 1, round(q * (len(ordered) - 1)))]  # noqa: E731
        return cls(
            len(ordered), statistics.fmean(ordered), statistics.median(ordered), rank(0.95), rank(0.99), ordered[-1]
        )


@dataclass
class Outcome:
    """Results of one playback.

    paused_seconds: how long playback waited for the stack; paths: number with poses; empty_paths: number without, which
    tell followers to stop; rates: Hz of wall time; latencies: by name ("camera -> path": from the arrival of the
    reference camera's image to the arrival of the path with its stamp); budget: hops of that latency, see
    latency_budget; cpu: cores used per process; ready_seconds: until every node was active; drops: inputs that each
    node dropped or refused since it started, by reason; prefill_ms, tokens_per_s: of the language model, one value per
    second.
    """

    bag: str
    bag_seconds: float
    rate: float
    wall_seconds: float = 0.0
    paused_seconds: float = 0.0
    ready_seconds: float = 0.0
    camera_sets: int = 0
    paths: int = 0
    empty_paths: int = 0
    stamps_matched: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    latencies: dict[str, Spread] = field(default_factory=dict)
    budget: list[Hop] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)
    active: dict[str, bool] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    memory_mb: dict[str, float] = field(default_factory=dict)
    drops: dict[str, dict[str, int]] = field(default_factory=dict)
    prefill_ms: list[float] = field(default_factory=list)
    tokens_per_s: list[float] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def isolated_domain() -> None:
    """Isolate demo, bench and tests: discovery on localhost and a random domain from 20 to 99, unless set already."""
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    os.environ.setdefault("ROS_DOMAIN_ID", str(random.SystemRandom().randint(20, 99)))


def run_on_bag(
    bag: Path,
    *,
    rate: float = 1.0,
    keep_pace: bool = False,
    duration: float = 0.0,
    arguments: Mapping[str, str] | None = None,
    parameters: Mapping[str, Mapping[str, str]] | None = None,
    out: Path | None = None,
    view: bool = True,
    prefix: Sequence[str] = (),
    on_progress: Callable[[str, float], None] = lambda text, fraction: None,
) -> Outcome:
    """Start the graph, wait until every node is active, play the bag, wait for the last outputs, stop everything.

    keep_pace: pause the bag while the stack is late, so that a slow machine plans with reasoning of the same moment;
    out: folder for logs and, with `view`, the viewer's files; duration: bag seconds to play (0 = all); parameters: of
    processes by name, beyond what launch arguments set; prefix: put before each process's command. Raises InvalidInput
    when the bag or an argument is wrong, RuntimeError with the node's last lines when a node does not become active.
    """
    with BagReader(bag) as reader:
        seconds = min(duration or reader.duration, reader.duration)
    values = launch_config.resolve({"respawn": "false", **(arguments or {}), "bag": str(bag)}, with_bag=True)
    outcome = Outcome(str(bag.name), seconds, rate)
    inputs = profile(values["profile"])
    camera = inputs.cameras[inputs.reference]
    image_type = IMAGE_TYPES[camera.transport]
    logs = out / "logs" if out else None
    began = time.monotonic()
    # Reliable (the bag player offers it), so that every image is counted.
    extra = [(camera.image_topic, image_type, "output")]
    with (
        TopicMonitor(
            WATCHED, extra, ["planning/path", "planning/plan"], TRACKED, namespace=values["namespace"]
        ) as observer,
        Supervisor(values, logs, lambda text: outcome.events.append(text), prefix) as supervisor,
    ):
        chosen = [e for e in launch_config.process_entries(values, with_bag=False) if e is not launch_config.VIEWER]
        # The slowest to load goes first.
        for entry in sorted(chosen, key=lambda e: e.name != "reasoning"):
            supervisor.start(entry, (parameters or {}).get(entry.name))
        player = {"rate": float(rate), "duration": float(duration), "start_paused": "true", "settle": 0.0}
        supervisor.start(launch_config.BAG_PLAYER, {name: str(value) for name, value in player.items()})
        wanted = set(STAGES)
        if view:
            supervisor.start(launch_config.VIEWER, {"out": str(out) if out else ""})
            wanted.add("viewer")
        wait_active(supervisor, observer, wanted, on_progress)
        outcome.ready_seconds = time.monotonic() - began
        observer.pause_player(False)
        usage = {n: psutil.Process(p.popen.pid) for n, p in supervisor.processes.items()}
        for process in usage.values():
            process.cpu_percent()
        played = time.monotonic()
        pacer = Pacer(observer) if keep_pace else None
        _wait_end(supervisor, observer, outcome, seconds / rate, camera.image_topic, pacer, on_progress)
        outcome.paused_seconds = pacer.seconds if pacer is not None else 0.0
        outcome.wall_seconds = time.monotonic() - played
        _drain(observer)
        for name, process in usage.items():
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                outcome.cpu[name] = process.cpu_percent() / 100
                outcome.memory_mb[name] = process.memory_info().rss / 1e6
        outcome.states = {n: s for n, s in (outcome.states or observer.states).items() if n in wanted}
        outcome.active = {n: _active(observer, n) for n in sorted(wanted)}
        on_progress("writing the pictures and recordings" if view else "stopping", 1.0)
        if view:
            supervisor.stop(["viewer"])
        outcome.drops = {n: _drops(observer.details.get(n, {})) for n in STAGES}
        outcome.prefill_ms, outcome.tokens_per_s = (observer.tracked[pair] for pair in TRACKED)
        _measure(observer, outcome, camera.image_topic)
    return outcome


def _drops(details: Mapping[str, str]) -> dict[str, int]:
    """Returns the nonzero counters of inputs that a node did not use, from its diagnostics."""
    names = [
        k for k in details if k.startswith("dropped.") or k in ("dropped_queue_overwrite", "refused", "exceptions")
    ]
    return {name: int(details[name]) for name in sorted(names) if details[name] != "0"}


def _active(observer: TopicMonitor, name: str) -> bool:
    """Whether a node is configured and active; STALE, as after the end of the bag, counts as active."""
    state = observer.states.get(name, "")
    return bool(state) and not state.startswith(("UNCONFIGURED", "INACTIVE", "FAULT"))


def wait_active(supervisor: Supervisor, observer: TopicMonitor, wanted: set[str], on_progress: Callable) -> None:
    """Wait until every node in `wanted` is active. Raises RuntimeError with the reason on a failure or after 300 s."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        ready = [n for n in wanted if _active(observer, n)]
        missing = sorted(wanted - set(ready))
        slow = " (the first time it converts the language model, about a minute)" if missing == ["reasoning"] else ""
        on_progress(f"starting nodes: waiting for {', '.join(missing) or 'nobody'}{slow}", 0.0)
        if not missing:
            return
        for process in supervisor.poll():
            tail = process.log.read_text(errors="replace")[-1500:] if process.log else ""
            raise RuntimeError(f"{process.entry.name} ended with code {process.ended} before it was active\n{tail}")
        failed = [n for n in wanted if observer.details.get(n, {}).get("last_error")]
        if failed:
            raise RuntimeError(f"{failed[0]} could not be configured: {observer.details[failed[0]]['last_error']}")
        time.sleep(0.1)
    raise RuntimeError(f"not active within 300 s: {', '.join(sorted(wanted - set(ready)))}")


class Pacer:
    """Pauses the bag player while plans or reasoning are late on the bag's clock, as they are on a slow machine.

    seconds: how long it has paused the player.
    """

    _LATEST = 1.0
    """Seconds of the bag by which the stack may be behind; planning uses reasoning of up to 2 s."""
    _PATIENCE = 10.0
    """Seconds after which playback goes on: what has not arrived by then will not."""

    def __init__(self, observer: TopicMonitor) -> None:
        self._observer = observer
        self._paused_at: float | None = None
        self._skipped = 0
        self.seconds = 0.0

    def update(self, now: float) -> None:
        """Pause or resume the player by what has arrived. now: s of the steady clock."""
        frames = self._observer.stamps("frames") or [0]
        newest = max(frames)
        answered = min(max(self._observer.stamps(t), default=0) for t in ("planning/plan", "reasoning/state"))
        late = 1e-9 * (newest - max(min(frames), self._skipped, answered))
        if self._paused_at is None:
            if late > self._LATEST:
                self._pause(True)  # without an answer it may still come to it, so that it has to be resumed
                self._paused_at = now
        elif (late <= self._LATEST / 2 or now - self._paused_at > self._PATIENCE) and self._pause(False):
            self._skipped = newest
            self.seconds += now - self._paused_at
            self._paused_at = None

    def _pause(self, paused: bool) -> bool:
        """Whether the player did it; it does not answer any more at the end of the bag."""
        try:
            self._observer.pause_player(paused, timeout=2.0)
        except RuntimeError:
            return False
        return True


def _wait_end(
    supervisor: Supervisor,
    observer: TopicMonitor,
    outcome: Outcome,
    expected: float,
    image_topic: str,
    pacer: Pacer | None,
    on_progress: Callable[[str, float], None],
) -> None:
    images, until = 0, time.monotonic() + 3 * expected + 90
    while True:
        supervisor.poll()
        # After the last image every node goes STALE, as it should; the states during playback are what counts.
        if observer.count(image_topic) > images:
            images = observer.count(image_topic)
            until = max(until, time.monotonic() + 90)
            outcome.states = dict(observer.states)
        player = supervisor.processes.get("bag_player")
        if player is None or player.popen.poll() is not None:
            if player is not None and player.popen.returncode not in (0, -2):
                tail = player.log.read_text(errors="replace")[-1500:] if player.log else ""
                raise RuntimeError(f"bag_player ended with code {player.popen.returncode}\n{tail}")
            return
        if pacer is not None:
            pacer.update(time.monotonic())
        played = observer.stamps(image_topic)
        share = 1e-9 * (max(played) - min(played)) / max(outcome.bag_seconds, 0.1) if played else 0.0
        paths = observer.count("planning/path") if "planning/path" in observer.arrivals else 0
        on_progress(f"playing: {paths} paths", min(1.0, share))
        if time.monotonic() > until:
            outcome.events.append("the bag player did not end in time")
            return
        time.sleep(0.1)


def _drain(observer: TopicMonitor, longest: float = 60.0) -> None:
    """Wait until the last frame set is encoded and no message has arrived for 0.8 s, at most `longest` seconds.

    The last set is still being processed when the bag ends; on a CPU a large encoder takes many seconds for it.
    """
    last, quiet, until = -1, 0, time.monotonic() + longest
    while time.monotonic() < until:
        total = sum(len(a.order) for a in observer.arrivals.values())
        quiet = quiet + 1 if total == last else 0
        last = total
        frames, queries = (max(observer.stamps(topic), default=0) for topic in ("frames", "occupancy/queries"))
        if quiet >= 8 and 0 < frames <= queries:
            return
        time.sleep(0.1)


def _measure(observer: TopicMonitor, outcome: Outcome, image_topic: str) -> None:
    for name, arrivals in observer.arrivals.items():
        times = sorted(arrivals.at.values())
        outcome.counts[name] = len(arrivals.order)
        if len(times) > 1:
            outcome.rates[name] = (len(times) - 1) / max(times[-1] - times[0], 1e-6)
    images = set(observer.stamps(image_topic))
    outcome.camera_sets = len(images)
    if "planning/path" in observer.arrivals:
        received = observer.messages["planning/path"]
        paths = [stamp for stamp, _, raw in received if has_poses(raw)]
        outcome.paths, outcome.empty_paths = len(paths), len(received) - len(paths)
        outcome.stamps_matched = sum(s in images for s in paths)
    pairs = {
        "camera -> frames": (image_topic, "frames"),
        "frames -> queries": ("frames", "occupancy/queries"),
        "queries -> reasoning": ("occupancy/queries", "reasoning/state"),
        "queries -> path": ("occupancy/queries", "planning/path"),
        "camera -> path": (image_topic, "planning/path"),
    }
    for name, (first, last) in pairs.items():
        if first in observer.arrivals and last in observer.arrivals:
            spread = Spread.of(observer.latencies(first, last))
            if spread is not None:
                outcome.latencies[name] = spread
    plans = [(stamp, plan_trace(raw)) for stamp, _, raw in observer.messages["planning/plan"]]
    outcome.budget = latency_budget(plans, observer.arrivals[image_topic].at, observer.arrivals["planning/path"].at)
