"""./run storm: random faults at the running stack, one after the other, and what has to hold through all of them.

No path may be confident where its input was not: each is checked against what the source really sent. No node may stay
away: each fault ends, and the time until the stack plans again is taken. Every picture that the source lost on purpose
and every set that a node passed over is counted.
"""

from __future__ import annotations

import math
import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nav_msgs.msg import Path as PathMsg
from rclpy.serialization import deserialize_message
from sparseoccvla_msgs.msg import Plan
from std_msgs.msg import String

from ..bringup import launch_config
from ..bringup.run_on_bag import wait_active
from ..bringup.supervisor import Supervisor
from ..bringup.topic_monitor import TopicMonitor
from ..core.paths import bundled_bag
from ..ros.parameters import STAGES, TABLES
from ..ros.qos import PROFILES
from .proxy import Fault
from .source import FaultySource

SPREAD_NS = 150_000_000
"""Between a path's stamp and a picture that may belong to its set."""
AGE_MARGIN = 1.0
"""s on top of the planner's max_age: what a path may be old when it arrives."""
LIMIT = {"start": 60.0, "kill": 60.0, "other": 20.0}
RATE = 0.33
"""Of the bundled bag: two frame sets a second, which a processor of two slow cores computes."""
"""s until the stack plans again, by kind of fault; a node that was killed loads torch and its weights anew."""


@dataclass
class Record:
    """What the storm saw. recovery: seconds by kind of fault; broken: promises that were not kept, in words."""

    done: Counter[str] = field(default_factory=Counter)
    recovery: dict[str, list[float]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    paths: int = 0
    flagged: int = 0
    unflagged: int = 0
    drops: Counter[str] = field(default_factory=Counter)


class _Storm:
    def __init__(self, source: FaultySource, observer: TopicMonitor, supervisor: Supervisor, seed: int) -> None:
        self.source = source
        self.observer = observer
        self.supervisor = supervisor
        self.rng = random.Random(seed)
        self.record = Record()
        self._plans: dict[int, Plan] = {}
        self._seen = {"planning/path": 0, "planning/plan": 0}
        self._counted: dict[tuple[str, str, str], int] = {}
        self._max_age = next(p.default for p in TABLES["planning"] if p.name == "max_age")
        self._texts = {
            name: source.node.create_publisher(String, name, PROFILES["output"])
            for name in ("planning/command", "reasoning/question")
        }

    # --- what can happen

    def strike(self) -> str:
        """Do one fault for as long as it lasts; returns its kind."""
        kind = self.rng.choice(
            ("drop_camera", "drop_all", "delay", "skew", "duplicate", "reorder", "corrupt", "jump_ahead", "jump_back",
             "kill", "pause", "hostile_text")
        )  # fmt: skip
        topics = self.source.image_topics
        one = frozenset((topics[self.rng.choice(sorted(topics))],))
        faults = {
            "drop_camera": Fault(one, drop=1.0),
            "drop_all": Fault(drop=1.0),
            "delay": Fault(one, delay=0.4),
            "skew": Fault(one, skew_ns=self.rng.choice((-1, 1)) * self.rng.choice((10, 50, 100, 200)) * 10**6),
            "duplicate": Fault(duplicate=0.5),
            "reorder": Fault(reorder=0.5),
            "corrupt": Fault(one, corrupt=0.7),
        }
        seconds = self.rng.uniform(1.0, 4.0)
        if kind in faults:
            self.source.proxy.set(faults[kind])
            self._watch(seconds)
            self.source.proxy.set()
        elif kind == "jump_ahead":
            self.source.jump_ns += 60 * 10**9
        elif kind == "jump_back":
            self.source.jump_ns -= 20 * 10**9
        elif kind == "hostile_text":
            for text in ("\x1b[31m", "left; rm -rf /", "x" * 10**6, "\u202eleft", ""):
                for publisher in self._texts.values():
                    publisher.publish(String(data=text))
            self._watch(1.0)
        else:
            victim = self.supervisor.processes[self.rng.choice(STAGES)]
            os.killpg(victim.popen.pid, signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
            self._watch(seconds)
            if kind == "kill":  # what it said of itself while it lived is no sign of life
                with self.observer.lock:
                    self.observer.states.pop(victim.entry.name, None)
            if kind == "pause":
                os.killpg(victim.popen.pid, signal.SIGCONT)
        self.record.done[kind] += 1
        return kind

    def recover(self, kind: str) -> None:
        """Wait until a path of after the fault comes and every node is at work again; note how long it took."""
        began, limit = time.monotonic(), LIMIT.get(kind, LIMIT["other"])
        paths = self.observer.count("planning/path")
        while time.monotonic() - began < limit:
            self._watch(0.1)
            if self.observer.count("planning/path") >= paths + 2 and all(map(self._at_work, STAGES)):
                self.record.recovery.setdefault(kind, []).append(time.monotonic() - began)
                return
        states = {n: self.observer.states.get(n, "") for n in STAGES}
        self.record.broken.append(f"not back within {limit:g} s of {kind}: {states}")

    def _at_work(self, name: str) -> bool:
        return self.observer.states.get(name, "").split(":")[0] in ("OK", "DEGRADED")

    # --- what must hold

    def _watch(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            self.supervisor.poll()
            self._read_plans()
            self._note_drops()
            if time.monotonic() >= until:
                return
            time.sleep(0.05)

    def _read_plans(self) -> None:
        for topic, kind in (("planning/plan", Plan), ("planning/path", PathMsg)):
            kept = self.observer.messages[topic]
            for stamp, _, raw in kept[self._seen[topic] :]:
                message = deserialize_message(raw, kind)
                if kind is Plan:
                    self._plans[stamp] = message
                elif message.poses:
                    self._check(stamp, message)
            self._seen[topic] = len(kept)

    def _check(self, stamp: int, path: Any) -> None:
        self.record.paths += 1
        problems = []
        numbers = [v for p in path.poses for v in (p.pose.position.x, p.pose.position.y, p.pose.orientation.z)]
        if not all(map(math.isfinite, numbers)):
            problems.append("holds a number that is not finite")
        with self.source.lock:
            age = (self.source.newest - stamp) / 1e9
            given = {
                camera: any(whole and abs(at - stamp) <= SPREAD_NS for at, whole in sent.items())
                for camera, sent in self.source.sent.items()
            }
            known = any(stamp in sent for sent in self.source.sent.values())
        # After a jump the clock says nothing of a path that was under way.
        if self._max_age + AGE_MARGIN < age < 15.0:
            problems.append(f"is {age:.2f} s old")
        if not known:
            problems.append("has a stamp that no camera sent")
        plan = self._plan(stamp)
        reasons = set(plan.reasons) if plan is not None else set()
        self.record.flagged += bool(reasons)
        for camera, whole in given.items():
            if not whole and f"missing_camera:{camera}" not in reasons:
                problems.append(f"does not say that {camera} was missing or damaged")
        if problems:
            self.record.unflagged += 1
            self.record.broken.append(f"the path of {stamp} {' and '.join(problems)}")

    def _plan(self, stamp: int) -> Plan | None:
        """The plan of a path: a topic of its own, so it may come a moment later."""
        for _ in range(20):
            if stamp in self._plans:
                return self._plans[stamp]
            for at, _, raw in self.observer.messages["planning/plan"][self._seen["planning/plan"] :]:
                self._plans[at] = deserialize_message(raw, Plan)
            time.sleep(0.05)
        return self._plans.get(stamp)

    def _note_drops(self) -> None:
        """Counters of nodes begin again with each of their lives."""
        for node in STAGES:
            details = self.observer.details.get(node, {})
            life = details.get("instance", "")
            for key, value in details.items():
                if key.startswith("dropped") or key in ("refused", "exceptions"):
                    known = self._counted.get((node, life, key), 0)
                    self._counted[node, life, key] = max(known, int(value))
        self.record.drops = Counter()
        for (node, _, key), number in self._counted.items():
            self.record.drops[f"{node} {key}"] += number


def storm(
    preset: str, minutes: float, seed: int, on_event: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Start every node on the bundled bag, let faults happen for `minutes`, and say how the stack fared."""
    bag = bundled_bag()
    values = launch_config.resolve({"preset": preset, "respawn": "true", "bag": str(bag)}, with_bag=True)
    source = FaultySource(bag, values["namespace"], seed, RATE)
    try:
        with (
            TopicMonitor(
                ("planning/path", "planning/plan"),
                keep=("planning/path", "planning/plan"),
                namespace=values["namespace"],
            ) as observer,
            Supervisor(values, Path("out/storm"), on_event) as supervisor,
        ):
            for entry in launch_config.process_entries(values, with_bag=False):
                supervisor.start(entry)
            wait_active(supervisor, observer, set(STAGES), lambda text, fraction: None)
            source.start()
            storm_ = _Storm(source, observer, supervisor, seed)
            began = time.monotonic()
            storm_.recover("start")
            while time.monotonic() - began < 60 * minutes:
                kind = storm_.strike()
                storm_.recover(kind)
                on_event(f"{time.monotonic() - began:4.0f} s {kind}: {_last(storm_.record, kind)}")
                storm_._watch(storm_.rng.uniform(0.5, 2.0))
            lost = [n for n in STAGES if supervisor.processes[n].popen.poll() is not None]
            deaths = {n: supervisor.processes[n].deaths for n in STAGES}
            return _summary(storm_.record, source, lost, deaths, minutes, seed)
    finally:
        source.close()


def _last(record: Record, kind: str) -> str:
    times = record.recovery.get(kind, [])
    return f"plans again after {times[-1]:.1f} s" if len(times) == record.done[kind] else "see what is broken"


def _summary(
    record: Record, source: FaultySource, lost: list[str], deaths: dict[str, int], minutes: float, seed: int
) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    for (what, _), number in source.proxy.counts.items():
        counts[what] += number
    held = counts["in"] + counts["duplicate"] - counts["drop"] - counts["out"]
    waiting = len(source.proxy.drain())
    broken = list(record.broken)
    if lost:
        broken.append(f"lost: {', '.join(lost)}")
    if held != waiting:
        broken.append(f"{held - waiting} pictures of the source are not accounted for")
    if sum(deaths.values()) != record.done["kill"]:
        broken.append(f"{record.done['kill']} nodes were killed, {deaths} ended")
    return {
        "minutes": minutes,
        "seed": seed,
        "faults": dict(sorted(record.done.items())),
        "recovery_s": {
            kind: {"median": round(statistics.median(t), 2), "most": round(max(t), 2), "n": len(t)}
            for kind, t in sorted(record.recovery.items())
        },
        "paths": record.paths,
        "flagged_paths": record.flagged,
        "unflagged_paths": record.unflagged,
        "restarts": deaths,
        "pictures": {k: counts[k] for k in ("in", "out", "drop", "duplicate", "reorder", "delay", "corrupt")},
        "drops_of_nodes": {k: v for k, v in sorted(record.drops.items()) if v},
        "broken": broken,
    }
