"""How often each answer comes up, and which share of the facts to keep so that answers balance.

`python -m sparseoccvla_ros.world.qa.balance [SEEDS]` measures training seeds anew and writes the table
balance.yaml. Run it after every change of what the world contains or how it moves.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import yaml

from ..scene import Scene
from .questions import Fact, balance, facts, templates
from .scene_relations import SceneView

PATH = Path(__file__).with_name("balance.yaml")
SEEDS, TIMES = 150, 3
LARGEST = 0.34
"""Share of the most frequent answer to aim at where a question has more than two."""
RARE = 3
"""A question whose second answer came up less often has nothing to balance, and is not asked."""
_OPEN = ("free_text", "trajectory")


def views(seeds: Iterable[int], times: int = TIMES, seconds: float = 12.0) -> Iterator[SceneView]:
    """Views of scenes at `times` moments each, spread over the drive and different for every seed."""
    for seed in seeds:
        scene = Scene.generate(seed, seconds)
        offset = np.random.default_rng([seed, 23]).random()
        for k in range(times):
            yield SceneView(scene, round(float((k + offset) / times * seconds), 2))


def tally(all_facts: Iterable[Fact]) -> dict[str, Counter[str]]:
    """How often each answer was given, by key."""
    out: dict[str, Counter[str]] = defaultdict(Counter)
    for fact in all_facts:
        out[fact.key][fact.answer] += 1
    return dict(out)


def shares(counts: Mapping[str, Counter[str]]) -> dict[str, dict[str, float]]:
    """Share to keep by key and answer, and the majority that remains; questions with open answers are left alone."""
    table: dict[str, dict[str, float]] = {}
    for key in sorted(counts):
        entry = templates()["questions"][key.split("/")[0]]
        if entry["kind"] in _OPEN:
            continue
        ranked = counts[key].most_common()
        second = ranked[1][1] if len(ranked) > 1 else 0
        cap = _cap([n for _, n in ranked]) if second >= RARE else 0
        left = sum(min(n, cap) for _, n in ranked)
        row = {answer: round(cap / n, 4) for answer, n in ranked if n > cap}
        row["majority"] = round(min(ranked[0][1], cap) / left, 3) if left else 1.0
        table[key] = row
    return table


def _cap(counts: list[int]) -> int:
    """Most facts to keep per answer (counts in falling order): the largest share within LARGEST, or two alike."""
    if len(counts) == 2:
        return counts[1]
    for cap in sorted({n for n in counts if n >= RARE}, reverse=True):
        if cap <= LARGEST * sum(min(n, cap) for n in counts):
            return cap
    return counts[1]


def main() -> None:
    """Measure and write the table; the argument: number of seeds."""
    count = next((int(a) for a in sys.argv[1:] if a.isdecimal()), SEEDS)
    table = shares(tally(f for view in views(range(count)) for f in facts(view)))
    text = yaml.safe_dump(table, sort_keys=True, default_flow_style=None, width=120)
    said = " ".join(["python -m sparseoccvla_ros.world.qa.balance", *sys.argv[1:]])
    head = f"# Made by `{said}`: share of facts to keep by key, answer.\n"
    PATH.write_text(head + text, encoding="utf-8")
    balance.cache_clear()


if __name__ == "__main__":
    main()
