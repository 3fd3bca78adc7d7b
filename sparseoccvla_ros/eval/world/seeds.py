"""Seeds that weights were trained on, and warnings about evaluated seeds."""

from __future__ import annotations

from collections.abc import Sequence

from safetensors import safe_open

from ...core.errors import InvalidInput
from ...data.synthetic.dataset import RESERVED, SPLITS
from ...runtime.presets import Preset


def seed_range(text: str) -> range:
    """Parses A:B as range(A, B). Raises InvalidInput("seeds")."""
    first, separator, last = text.partition(":")
    if not (separator and first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise InvalidInput("seeds", f"want A:B with A below B, for example 90000:90024, got {text!r}")
    return range(int(first), int(last))


def trained_on(preset: Preset) -> dict[str, range]:
    """Returns the training seeds per stage with weights: `train_seeds` (A:B) of the file, or the whole split."""
    out = {}
    for stage, path in preset.weights.items():
        with safe_open(path, framework="numpy") as file:
            said = (file.metadata() or {}).get("train_seeds")
        out[stage] = SPLITS["train"] if said is None else seed_range(said)
    return out


def warnings_about(preset: Preset, seeds: Sequence[int], known: Sequence[int]) -> list[str]:
    """Returns why numbers on these seeds must not be quoted as results; empty for held-out seeds.

    known: training seeds used by the baselines.
    """
    found = []
    for stage, trained in trained_on(preset).items():
        both = [s for s in seeds if s in trained]
        if both:
            found.append(f"{len(both)} of {len(seeds)} seeds were TRAINED ON by {stage} ({both[0]}..{both[-1]})")
    both = sorted(set(seeds) & set(known))
    if both:
        found.append(f"{len(both)} of {len(seeds)} seeds are those that the baselines are made of")
    unspent = [s for s in seeds if s in SPLITS["train"]]
    if unspent and not found:
        found.append(f"{len(unspent)} of {len(seeds)} seeds belong to the training split")
    reserved = [s for s in seeds if s >= RESERVED]
    if reserved:
        found.append(f"{len(reserved)} of {len(seeds)} seeds are reserved for whoever judges from outside")
    chosen = [s for s in seeds if s in SPLITS["validation"]]
    if chosen and preset.weights:
        found.append(f"{len(chosen)} of {len(seeds)} seeds are validation seeds, by which weights may have been chosen")
    return found
