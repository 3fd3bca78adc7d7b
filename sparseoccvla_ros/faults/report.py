"""Console output and exit codes of ./run fuzz and ./run storm."""

from __future__ import annotations

import json
import os
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..bringup.run_on_bag import isolated_domain


def run_fuzz(budget: int, seed: int, decoders: tuple[str, ...], out: Path) -> int:
    """Run the fuzzers and print the results per decoder; returns 1 if any input was neither read nor refused."""
    from .fuzz import Outcome, fuzz

    console = Console()

    def done(name: str, outcome: Outcome) -> None:
        text = f"{name}: {outcome.tried} tried, {outcome.uncaught} uncaught, {outcome.seconds:.0f} s"
        console.print(f"  {text}", highlight=False)

    outcomes = fuzz(budget, seed, out, decoders, done)
    table = Table("decoder", "tried", "read", "refused", "uncaught", title=f"seed {seed}")
    for name, o in outcomes.items():
        table.add_row(name, *(f"{n}" for n in (o.tried, o.read, o.refused, o.uncaught)))
    totals = [sum(getattr(o, key) for o in outcomes.values()) for key in ("tried", "read", "refused", "uncaught")]
    table.add_row("all", *map(str, totals))
    console.print(table)
    for name, outcome in outcomes.items():
        for kind, file in outcome.findings.items():
            console.print(f"  {name}: {kind}: {file}", highlight=False, soft_wrap=True)
    return 1 if totals[3] else 0


def run_storm(minutes: float, seed: int, preset: str, file: Path | None) -> int:
    """Run the storm and print its results; returns 1 if any requirement was violated."""
    from .storm import storm

    console = Console()
    isolated_domain()
    console.print(f"faults for {minutes:g} minutes, seed {seed}; the load now is {os.getloadavg()[0]:.1f}")
    found = storm(preset, minutes, seed, on_event=lambda text: console.print(f"  {text}", highlight=False))
    for name, value in found.items():
        console.print(f"{name}: {value}", highlight=False, soft_wrap=True)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if found["broken"] else 0
