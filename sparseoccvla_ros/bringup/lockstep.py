"""Drives the stack's nodes through one seed of the world after the other in lockstep, for scoring."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sparseoccvla_ros.bringup import launch_config
from sparseoccvla_ros.bringup.run_on_bag import isolated_domain, wait_active
from sparseoccvla_ros.bringup.supervisor import Supervisor
from sparseoccvla_ros.bringup.topic_monitor import TopicMonitor
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.ros.parameters import STAGES


class LockstepStack:
    """The processes of launch/closed_loop.launch.py; they start with the first drive and end with the context.

    Args:
        preset: Model preset.
        out: Folder of the drives, one subfolder per seed, and of the nodes' logs; existing content is deleted.
        families: Scenario families, used in turn over the seeds; empty for the seeds' own traffic.
        longest: Seconds after which every drive ends.
        on_event: Called with a text when a node dies or is waited for.
    """

    def __init__(
        self,
        preset: str,
        out: Path,
        families: Sequence[str] = (),
        longest: float = 60.0,
        on_event: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._preset, self._out, self._families = preset, out, tuple(families)
        self._longest, self._on_event = longest, on_event
        self.observer: TopicMonitor | None = None
        self.supervisor: Supervisor | None = None

    def __enter__(self) -> LockstepStack:
        return self

    def __exit__(self, *_: object) -> None:
        if self.supervisor is not None:
            self.supervisor.stop()
        if self.observer is not None:
            self.observer.close()

    def drive(self, seed: int, scenario: str | None = None) -> Path:
        """Wait for the drive of a seed and return its folder; seeds must rise, and skipped ones are driven too.

        scenario: only that of the first drive counts. Raises InvalidInput when a node fails or the simulator ends.
        """
        if self.supervisor is None:
            self._start(seed, scenario)
        assert self.supervisor is not None
        folder = self._out / str(seed)
        while not (folder / "summary.json").is_file():
            for process in self.supervisor.poll():
                if process.entry is launch_config.SIMULATOR:
                    raise InvalidInput("simulator", f"ended with code {process.ended} before seed {seed} was driven")
            time.sleep(0.1)
        return folder

    def _start(self, seed: int, scenario: str | None) -> None:
        isolated_domain()
        shutil.rmtree(self._out, ignore_errors=True)
        first = self._families.index(scenario) if scenario is not None else 0
        turns = ",".join((*self._families[first:], *self._families[:first]))
        given = {"preset": self._preset, "seed": str(seed), "scenario": turns, "drive_out": str(self._out)}
        values = launch_config.resolve({**launch_config.CLOSED_LOOP, "view": "false", **given}, with_bag=False)
        self.observer = TopicMonitor((), namespace=values["namespace"])
        self.supervisor = Supervisor(values, self._out / "logs", self._on_event)
        for entry in launch_config.process_entries(values, with_bag=False):
            more = {"loop": "true", "longest": str(self._longest)} if entry is launch_config.SIMULATOR else None
            self.supervisor.start(entry, more)
        said: list[str] = []

        def waiting(text: str, fraction: float) -> None:
            if text not in said:
                said.append(text)
                self._on_event(text)

        try:
            wait_active(self.supervisor, self.observer, {*STAGES, "follower", "simulator"}, waiting)
        except RuntimeError as error:
            raise InvalidInput("nodes", str(error)) from None
