"""./run fuzz: damaged and hostile inputs to every decoder of external data.

Each decoder runs in a process of its own, with limits on memory and on the time per input. An input may be read or
refused with InvalidInput; any other exception, a crash, a timeout or excessive memory is a finding, saved with its
traceback. The same seed gives the same inputs.
"""

from __future__ import annotations

import json
import mmap
import multiprocessing
import os
import random
import resource
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import Any

from ..core.errors import InvalidInput
from .decoders import DECODERS, Decoder

SECONDS_EACH = 10.0
"""Limit per input in seconds of CPU time, so that a busy machine causes no findings."""
MEMORY = 3 * 2**30
"""Bytes that a decoder's process may allocate beyond its size after startup."""
SPACE = 2**22
"""Maximum size of an input in bytes."""


class TooSlow(BaseException):
    """An input took longer than SECONDS_EACH; a BaseException, so that no `except Exception` under test catches it."""


@dataclass
class Outcome:
    """Result of one decoder: numbers of inputs tried, read and refused; findings by location and kind."""

    tried: int = 0
    read: int = 0
    refused: int = 0
    seconds: float = 0.0
    findings: dict[str, str] = field(default_factory=dict)
    """Kind and location -> file with the input."""
    uncaught: int = 0


def fuzz(
    budget: int,
    seed: int,
    out: Path,
    only: tuple[str, ...] = (),
    on_done: Callable[[str, Outcome], None] = lambda name, outcome: None,
) -> dict[str, Outcome]:
    """Try about `budget` inputs, distributed among the decoders; saves findings in `out`. Returns an outcome for each.

    Raises InvalidInput("decoder") for an unknown decoder.
    """
    unknown = sorted(set(only) - set(DECODERS))
    if unknown:
        raise InvalidInput("decoder", f"{unknown[0]} is not one of {', '.join(DECODERS)}")
    chosen = {name: decoder for name, decoder in DECODERS.items() if not only or name in only}
    total = sum(decoder.share for decoder in chosen.values())
    outcomes = {}
    for name, decoder in chosen.items():
        outcomes[name] = _in_process(name, seed, max(1, round(budget * decoder.share / total)), out / name)
        on_done(name, outcomes[name])
    return outcomes


def _in_process(name: str, seed: int, tries: int, out: Path) -> Outcome:
    """Fuzz one decoder; if its process dies, the input is a finding and a new process continues after it."""
    whole = Outcome()
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_fast_folder()) as folder:
        began = time.monotonic()
        while whole.tried < tries:
            place, report = Path(folder) / "input", Path(folder) / "report.json"
            report.unlink(missing_ok=True)
            context = multiprocessing.get_context("spawn")
            arguments = (name, seed, whole.tried, tries, str(place), str(report), str(out), folder)
            child = context.Process(target=_child, args=arguments, name=f"fuzz-{name}")
            child.start()
            child.join()
            part = Outcome(**json.loads(report.read_text())) if report.is_file() else Outcome()
            _add(whole, part)
            if child.exitcode:
                if not place.is_file():
                    raise RuntimeError(f"the process of the decoder {name} ended with {child.exitcode} at its start")
                number, data = _noted(place)
                whole.tried, whole.uncaught = number + 1, whole.uncaught + 1
                kind = f"process ended with {child.exitcode}"
                whole.findings.setdefault(kind, _keep(out, data, kind))
        whole.seconds = time.monotonic() - began
    return whole


def _fast_folder() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _add(whole: Outcome, part: Outcome) -> None:
    whole.tried += part.tried
    whole.read += part.read
    whole.refused += part.refused
    whole.uncaught += part.uncaught
    whole.findings = {**part.findings, **whole.findings}


def _child(name: str, seed: int, first: int, tries: int, place: str, report: str, out: str, folder: str) -> None:
    decoder: Decoder = DECODERS[name]
    seeds, attempt = decoder.make(Path(folder))
    Path(place).write_bytes(bytes(SPACE + 16))
    outcome = Outcome()
    # Discard the output of decoders and their libraries about ten thousand damaged files.
    with open(os.devnull, "w") as nowhere:
        for channel in (1, 2):
            os.dup2(nowhere.fileno(), channel)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _too_slow)
    for seed_input in seeds:  # imports and compilation do not count towards any input
        attempt(seed_input)
    with open(place, "r+b") as stream, mmap.mmap(stream.fileno(), 0) as noted:
        written = time.monotonic()
        for number in range(first, tries):
            # Seeded per input, so that a run that continues after a crash tries the same ones.
            data = decoder.mutate(random.Random(f"{name} {seed} {number}"), seeds)[:SPACE]
            noted[: 16 + len(data)] = number.to_bytes(8, "little") + len(data).to_bytes(8, "little") + data
            _one(attempt, data, outcome, Path(out))
            outcome.tried += 1
            if time.monotonic() > written + 2.0:
                written = time.monotonic()
                _report(report, outcome)
    _report(report, outcome)


def _one(attempt: Callable[[bytes], Any], data: bytes, outcome: Outcome, out: Path) -> None:
    problem: BaseException | None = None
    signal.setitimer(signal.ITIMER_PROF, SECONDS_EACH)
    try:
        attempt(data)
        outcome.read += 1
    except InvalidInput as error:
        # A refusal caused by MemoryError means that the size was not checked first.
        problem = error if _memory_in(error) else None
        outcome.refused += problem is None
    except (Exception, TooSlow) as error:
        problem = error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
    if problem is not None:
        outcome.uncaught += 1
        kind = _kind(problem)
        if kind not in outcome.findings:
            text = "".join(traceback.format_exception(problem))
            outcome.findings[kind] = _keep(out, data, text)


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise TooSlow(f"more than {SECONDS_EACH:g} s")


def _memory_in(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _kind(error: BaseException) -> str:
    """Type of an exception and the last line of our code in its traceback; inputs with equal kind are one finding."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "sparseoccvla_ros" in f.filename and "/faults/" not in f.filename] or frames[-1:]
    last = ours[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"


def _keep(out: Path, data: bytes, text: str) -> str:
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{sha256(data).hexdigest()[:16]}.bin"
    file.write_bytes(data)
    file.with_suffix(".txt").write_text(text)
    return str(file)


def _noted(place: Path) -> tuple[int, bytes]:
    content = place.read_bytes()
    number, size = (int.from_bytes(content[at : at + 8], "little") for at in (0, 8))
    return number, content[16 : 16 + size]


def _report(path: str, outcome: Outcome) -> None:
    part = Path(f"{path}.part")
    part.write_text(json.dumps(outcome.__dict__))
    part.replace(path)
