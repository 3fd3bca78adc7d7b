"""./run storm: injects random faults into the running stack, one after the other, and checks its requirements.

Every path must flag missing or damaged input: it is checked against what the source sent. Every node must recover: the
time from the end of each fault until the stack plans again is measured. Every image that the source dropped and every
frame set that the encoder skipped must be accounted for.
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
from sparseoccvla_msgs.msg import Plan
from std_msgs.msg import String

from ..bringup import launch_config
from ..bringup.run_on_bag import wait_active
from ..bringup.supervisor import Supervisor
from ..bringup.topic_monitor import TopicMonitor
from ..core.paths import bundled_bag
from ..ros.msg_utils import decode
from ..ros.parameters import STAGES, TABLES
from ..ros.qos import PROFILES
from .proxy import Fault
from .source import FaultySource

SPREAD_NS = 150_000_000
"""Largest difference, ns, between a path's stamp and that of an image of its frame set."""
AGE_MARGIN = 1.0
"""Tolerance, s, of a path's age on arrival, in addition to the planner's max_age."""
LIMIT = {"start": 60.0, "kill": 90.0, "other": 20.0}
"""Maximum time, s, until the stack plans again, by kind of fault; a killed node has to reload torch and its weights, of
which the language model takes longest."""
RATE = 0.33
"""Playback rate of the bundled bag: two frame sets per second, feasible on two slow CPU cores."""
UNDER_WAY = 2
"""Maximum number of frame sets received but not yet counted by the encoder: one in progress, one queued."""


@dataclass
class Record:
    """Observations of a storm. recovery: seconds by kind of fault; broken: descriptions of violated requirements."""

    done: Counter[str] = field(default_factory=Counter)
    recovery: dict[str, list[float]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    paths: int = 0
    flagged: int = 0
    unflagged: int = 0


@dataclass(frozen=True)
class InjectedFault:
    """A finished fault. since: when it ended or the node was killed, in s of the monotonic clock; victim, life: name of
    the killed node and its instance id before the kill."""

    kind: str
    since: float
    victim: str = ""
    life: str = ""


class _Storm:
    def __init__(self, source: FaultySource, observer: TopicMonitor, supervisor: Supervisor, seed: int) -> None:
        self.source = source
        self.observer = observer
        self.supervisor = supervisor
        self.rng = random.Random(seed)
        self.record = Record()
        self._plans: dict[int, Plan] = {}
        self._seen = {"planning/path": 0, "planning/plan": 0}
        self.counted: dict[tuple[str, str], dict[str, int]] = {}
        """(node, instance id) -> latest counters, which restart at zero with every process."""
        self._max_age = next(p.default for p in TABLES["planning"] if p.name == "max_age")
        self._texts = {
            name: source.node.create_publisher(String, name, PROFILES["output"])
            for name in ("planning/command", "reasoning/question")
        }

    # --- faults

    def strike(self) -> InjectedFault:
        """Inject one random fault; returns when it has ended."""
        kind = self.rng.choice(
            ("drop_camera", "drop_all", "delay", "skew", "duplicate", "reorder", "corrupt", "jump_ahead", "jump_back",
             "kill", "pause", "hostile_text")
        )  # fmt: skip
        self.record.done[kind] += 1
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
            victim = self.rng.choice(STAGES)
            process = self.supervisor.processes[victim].popen.pid
            if kind == "kill":
                life = self._life(victim)
                os.killpg(process, signal.SIGKILL)
                return InjectedFault(kind, time.monotonic(), victim, life)
            os.killpg(process, signal.SIGSTOP)
            self._watch(seconds)
            os.killpg(process, signal.SIGCONT)
        return InjectedFault(kind, time.monotonic())

    def recover(self, strike: InjectedFault) -> str:
        """Wait until every node works (a killed one as a new instance) and two more paths have arrived; records the
        time and returns a description."""
        limit = LIMIT.get(strike.kind, LIMIT["other"])
        paths: int | None = None
        while (passed := time.monotonic() - strike.since) < limit:
            self._watch(0.1)
            reborn = not strike.victim or self._life(strike.victim) not in ("", strike.life)
            if not reborn or not all(map(self._at_work, STAGES)):
                continue
            if paths is None:
                paths = self.observer.count("planning/path")
            if self.observer.count("planning/path") >= paths + 2:
                self.record.recovery.setdefault(strike.kind, []).append(passed)
                return f"{strike.kind} {strike.victim}: plans again after {passed:.1f} s"
        states = {n: self.observer.states.get(n, "") for n in STAGES}
        self.record.broken.append(f"not back within {limit:g} s of {strike.kind} {strike.victim}: {states}")
        return self.record.broken[-1]

    def _life(self, name: str) -> str:
        """Instance id of a node, different for each of its processes."""
        return self.observer.details.get(name, {}).get("instance", "")

    def _at_work(self, name: str) -> bool:
        return self.observer.states.get(name, "").split(":")[0] in ("OK", "DEGRADED")

    # --- requirements

    def _watch(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            self.supervisor.poll()
            self._read_plans()
            self._note_counts()
            if time.monotonic() >= until:
                return
            time.sleep(0.05)

    def _read_plans(self) -> None:
        for topic, kind in (("planning/plan", Plan), ("planning/path", PathMsg)):
            kept = self.observer.messages[topic]
            for stamp, _, raw in kept[self._seen[topic] :]:
                message = decode(raw, kind)
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
        # After a clock jump the age of a path computed before it is meaningless.
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
        """The plan of a path; waits up to 1 s, since it is on another topic and may arrive later."""
        for _ in range(20):
            if stamp in self._plans:
                return self._plans[stamp]
            for at, _, raw in self.observer.messages["planning/plan"][self._seen["planning/plan"] :]:
                self._plans[at] = decode(raw, Plan)
            time.sleep(0.05)
        return self._plans.get(stamp)

    def _note_counts(self) -> None:
        for node in STAGES:
            details = self.observer.details.get(node, {})
            counts = {k: int(v) for k, v in details.items() if k in _COUNTERS or k.startswith("dropped")}
            self.counted[node, details.get("instance", "")] = counts


def storm(
    preset: str, minutes: float, seed: int, on_event: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Start every node on the bundled bag, inject faults for `minutes` and return a summary."""
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
            on_event(storm_.recover(InjectedFault("start", began)))
            plans = not storm_.record.broken  # otherwise the machine is too slow or too busy for a meaningful test
            while plans and time.monotonic() - began < 60 * minutes:
                told = storm_.recover(storm_.strike())
                on_event(f"{time.monotonic() - began:4.0f} s {told}")
                storm_._watch(storm_.rng.uniform(0.5, 2.0))
            lost = [n for n in STAGES if supervisor.processes[n].popen.poll() is not None]
            deaths = {n: supervisor.processes[n].deaths for n in STAGES}
            return {"minutes": minutes, "seed": seed, "preset": preset, **_summary(storm_, lost, deaths)}
    finally:
        source.close()


_COUNTERS = ("received", "published", "refused", "exceptions")


def _summary(storm: _Storm, lost: list[str], deaths: dict[str, int]) -> dict[str, Any]:
    record, proxy = storm.record, storm.source.proxy
    pictures: Counter[str] = Counter()
    for (what, _), number in proxy.counts.items():
        pictures[what] += number
    held = pictures["in"] + pictures["duplicate"] - pictures["drop"] - pictures["out"]
    waiting = len(proxy.drain())
    totals: Counter[str] = Counter()
    for (node, _), counts in storm.counted.items():
        totals.update({f"{node} {key}": number for key, number in counts.items() if number})
    broken = list(record.broken)
    if lost:
        broken.append(f"lost: {', '.join(lost)}")
    if held != waiting:
        broken.append(f"{held - waiting} pictures of the source are not accounted for")
    for (node, life), counts in storm.counted.items():
        # Only the encoder has a single input whose every message becomes one output or one counted reason.
        rest = _unaccounted(counts)
        if node == "occupancy" and not 0 <= rest <= UNDER_WAY:
            broken.append(f"{rest} frame sets of occupancy {life} are not accounted for: {counts}")
    if sum(deaths.values()) != record.done["kill"]:
        broken.append(f"{record.done['kill']} nodes were killed, {deaths} ended")
    return {
        "faults": dict(sorted(record.done.items())),
        "recovery_s": {
            kind: {"median": round(statistics.median(t), 1), "most": round(max(t), 1), "n": len(t)}
            for kind, t in sorted(record.recovery.items())
        },
        "paths": record.paths,
        "flagged_paths": record.flagged,
        "unflagged_paths": record.unflagged,
        "restarts": deaths,
        "pictures": {
            **{k: pictures[k] for k in ("in", "out", "drop", "duplicate", "reorder", "delay", "corrupt")},
            "corrupt but valid": storm.source.valid,
        },
        "counted_by_nodes": dict(sorted(totals.items())),
        "broken": broken,
    }


def _unaccounted(counts: dict[str, int]) -> int:
    """Number of received inputs that neither gave an output nor were counted under a reason."""
    ended = sum(counts.get(k, 0) for k in ("published", "refused", "exceptions", "dropped_queue_overwrite"))
    return counts.get("received", 0) - ended
