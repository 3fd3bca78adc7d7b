"""Tables that demo and bench print."""

from __future__ import annotations

from rich.table import Table

from .latency_budget import by_kind
from .run_on_bag import Outcome


def latency_table(outcome: Outcome) -> Table:
    """Latencies between stages, wall time from arrival to arrival."""
    table = Table("from -> to", "n", "median ms", "p95 ms", "p99 ms", "max ms", title="Latency (same stamp, wall time)")
    for name, spread in outcome.latencies.items():
        numbers = (f"{v:.0f}" for v in (spread.p50, spread.p95, spread.p99, spread.max))
        style = "bold" if name == "camera -> path" else ""
        table.add_row(name, str(spread.n), *numbers, style=style)
    return table


def budget_table(outcome: Outcome) -> Table:
    """Latency from image to path by hop, and in the caption by kind."""
    total = sum(hop.mean for hop in outcome.budget)
    kinds = ", ".join(f"{kind} {ms:.0f}" for kind, ms in by_kind(outcome.budget).items())
    table = Table("until", "went into", "mean ms", "p95 ms", "share", title="Budget from image to path", caption=kinds)
    for hop in outcome.budget:
        share = f"{hop.mean / max(total, 1e-9):.0%}"
        table.add_row(hop.event, hop.kind, f"{hop.mean:.1f}", f"{hop.p95:.1f}", share)
    table.add_row("sum", "", f"{total:.1f}", "", "100%", style="bold")
    return table


def state_lines(outcome: Outcome) -> list[str]:
    """The states, with their reasons, of the nodes that are not OK."""
    return [f"{name}: {state}" for name, state in sorted(outcome.states.items()) if state != "OK"]


def node_table(outcome: Outcome) -> Table:
    """Rates of topics, and state, CPU and memory of nodes."""
    table = Table(title="Nodes and topics")
    for name in ("node", "state", "cores", "MB", "topic", "n", "Hz"):
        table.add_column(name, no_wrap=name in ("node", "state", "topic"))
    rows = {
        "camera_sync": "frames",
        "occupancy": "occupancy/queries",
        "reasoning": "reasoning/state",
        "planning": "planning/path",
    }
    for name in sorted(outcome.states | outcome.cpu, key=lambda n: [*rows, "viewer", "bag_player", n].index(n)):
        topic = rows.get(name, "")
        table.add_row(
            name,
            outcome.states.get(name, "").split(":")[0],
            f"{outcome.cpu[name]:.2f}" if name in outcome.cpu else "",
            f"{outcome.memory_mb[name]:.0f}" if name in outcome.memory_mb else "",
            topic,
            str(outcome.counts.get(topic, "")) if topic else "",
            f"{outcome.rates[topic]:.2f}" if topic in outcome.rates else "",
        )
    return table
