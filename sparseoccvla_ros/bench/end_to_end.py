"""./run bench end_to_end: all nodes over DDS on a bag, at its own speed and at chosen rates, against simpler variants.

Every row restarts all processes. "default transports" is the same without our Fast DDS profile, "composed" has the four
stages in one process, "equal priorities" runs every node at niceness 19. The reasoning node answers questions without a
pause meanwhile.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from sparseoccvla_ros.bench.message_cases import message_cases
from sparseoccvla_ros.bringup.supervisor import big_message_environment
from sparseoccvla_ros.camera_sync.profiles import profile
from sparseoccvla_ros.core.paths import bundled_bag
from sparseoccvla_ros.data.bags.reader import BagReader
from sparseoccvla_ros.runtime.presets import load_preset

from ..bringup.run_on_bag import Outcome, run_on_bag
from ..bringup.tables import budget_table, latency_table, node_table, state_lines
from .history import compare_and_append
from .roofline import physical_floor
from .timing import interleaved

HISTORY = Path("out/bench/history.jsonl")
_ASKING = {"question_period": "0.2", "self_question": "Describe the scene in one sentence."}
ASKING = {"reasoning": _ASKING, "composed": _ASKING}
"""Parameters of the answering node or process: a new question, whose answer takes more than a few words, as soon as
the last is answered."""


def bench_end_to_end(
    console: Console,
    preset: str = "tiny",
    bag: Path | None = None,
    rate: float = 1.0,
    hz: tuple[float, ...] = (),
    seconds: float = 15.0,
    variants: bool = False,
) -> dict[str, Any]:
    """Print the tables, return the numbers.

    rate: of playback in the first, full run; hz: frame sets per second of further runs of `seconds` each; variants:
    also run composed, with default transports, and with equal priorities.
    """
    bag = bag or bundled_bag()
    with BagReader(bag) as reader:
        topic = reader.topics[profile().reference_topic]
        own_hz, duration = topic.count / reader.duration, reader.duration
    rows: dict[str, Outcome] = {"own speed": _play(preset, bag, rate)}
    outcome = rows["own speed"]
    console.print(latency_table(outcome), budget_table(outcome), node_table(outcome))
    for line in state_lines(outcome):
        console.print(f"  {line}", highlight=False)
    for wanted in hz:
        speed = wanted / own_hz
        rows[f"{wanted:g} Hz"] = _play(preset, bag, speed, min(duration, seconds * speed))
    if variants:
        length = min(duration, seconds * rate)
        rows["composed"] = _play(preset, bag, rate, length, composed="true")
        with default_transports():
            rows["default transports"] = _play(preset, bag, rate, length)
        rows["equal priorities"] = _play(preset, bag, rate, length, prefix=("nice", "-n", "19"))
    console.print(_rate_table(rows))
    for name, row in rows.items():
        console.print(f"  {name}: passed over by {passed_over(row.drops)}", highlight=False)
    numbers: dict[str, Any] = {"preset": preset, "rows": {name: row.as_dict() for name, row in rows.items()}}
    numbers["messages"] = _message_table(console)
    numbers["floor"] = _floor_table(console, preset, bag, outcome)
    flat = {f"{name} p50 ms": spread.p50 for name, spread in outcome.latencies.items()}
    if path := outcome.latencies.get("camera -> path"):  # missing if a busy machine produced no path
        flat["camera -> path p99 ms"] = path.p99
    flat |= {f"{name} MB": mb for name, mb in outcome.memory_mb.items()}
    worse = compare_and_append(
        HISTORY, f"end_to_end {preset} {rate:g} {os.cpu_count()}", flat, {"load": os.getloadavg()[0]}
    )
    for line in worse:
        console.print(f"  [yellow]slower than usual[/] {line}", highlight=False)
    numbers["slower_than_usual"] = worse
    return {**outcome.as_dict(), **numbers}


@contextmanager
def default_transports() -> Iterator[None]:
    """Start processes inside this context without our transport settings: the launchers keep an empty variable."""
    (name,) = big_message_environment()
    before = os.environ.get(name)
    os.environ[name] = ""
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _play(
    preset: str, bag: Path, rate: float, duration: float = 0.0, prefix: Sequence[str] = (), **arguments: str
) -> Outcome:
    return run_on_bag(
        bag,
        rate=rate,
        duration=duration,
        view=False,
        arguments={"preset": preset, **arguments},
        parameters=ASKING,
        prefix=prefix,
        out=Path("out/bench"),
    )


def _median(values: list[float]) -> float:
    return statistics.median(values) if values else float("nan")


def passed_over(drops: Mapping[str, Mapping[str, int]]) -> str:
    """Returns the numbers of unused sets and inputs by node as text: "camera_sync 12" means the encoder was busy."""
    counts = {node: sum(found.values()) for node, found in drops.items()}
    return ", ".join(f"{node} {n}" for node, n in counts.items() if n) or "none"


def _rate_table(rows: Mapping[str, Outcome]) -> Table:
    columns = ("run", "sets", "plans", "p50", "p95", "p99", "states", "prefill", "tokens", "cores", "MB")
    caption = "sets, plans, states, tokens: per second; p50 .. p99: camera to path, prefill: ms"
    table = Table(*columns, title="All nodes, answering questions", caption=caption)
    for name, row in rows.items():
        path = row.latencies.get("camera -> path")  # missing if the machine is too slow
        table.add_row(
            name,
            f"{row.camera_sets / (row.bag_seconds / row.rate):.1f}",
            f"{row.rates.get('planning/path', 0):.1f}",
            *((f"{v:.0f}" for v in (path.p50, path.p95, path.p99)) if path else ("none",) * 3),
            f"{row.rates.get('reasoning/state', 0):.1f}",
            f"{_median(row.prefill_ms):.0f}",
            f"{_median(row.tokens_per_s):.1f}",
            f"{sum(v for n, v in row.cpu.items() if n != 'bag_player'):.2f}",
            f"{sum(v for n, v in row.memory_mb.items() if n != 'bag_player'):.0f}",
        )
    return table


def _message_table(console: Console) -> dict[str, float]:
    """Print and return how many times cheaper our message path is than plain typed fields, in the same run."""
    ratios = {}
    for name, (ours, plain) in message_cases().items():
        if plain is not None:
            times = interleaved({"ours": ours, "plain": plain}, 0.5)
            ratios[name] = times["plain"][0] / times["ours"][0]
            text = (
                f"{times['ours'][0]:.2f} ms, the plain way {times['plain'][0]:.1f} ms, {ratios[name]:.1f} times as much"
            )
            console.print(f"  {name}: {text}", highlight=False)
    return ratios


def _floor_table(console: Console, preset: str, bag: Path, outcome: Outcome) -> dict[str, float]:
    torch.set_num_threads(1)
    floor = physical_floor(load_preset(preset), bag)
    encode = outcome.latencies["frames -> queries"].p50
    prefill, token = _median(outcome.prefill_ms), 1e3 / _median(outcome.tokens_per_s)
    rates = f"{floor['gflops_float32']:.0f} GFLOP/s float32, {floor['gflops_language_model']:.0f} in the language model"
    title = f"Physical floor: one thread at {rates}'s format, {floor['copy_gb_s']:.0f} GB/s"
    table = Table("step", "work", "floor ms", "measured ms", "times the floor", title=title)
    for name, work, least, found in (
        ("encode", f"{floor['encode_gflop']:.1f} GFLOP", floor["encode_ms"], encode),
        ("prefill", f"{floor['prefill_gflop']:.1f} GFLOP", floor["prefill_ms"], prefill),
        ("token", f"{floor['token_mb']:.0f} MB", floor["token_ms"], token),
        ("messages of a set", f"{floor['message_mb']:.1f} MB", floor["message_ms"], float("nan")),
    ):
        measured = (f"{found:.0f}", f"{found / least:.1f}") if found == found else ("", "")
        table.add_row(name, work, f"{least:.2f}", *measured)
    console.print(table)
    return floor
