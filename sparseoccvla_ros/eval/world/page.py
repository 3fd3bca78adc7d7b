"""The page of an evaluation: warnings, what was judged, every table, pictures."""

from __future__ import annotations

from collections.abc import Sequence

from .evaluation import WorldReport


def to_markdown(report: WorldReport, command: str, pictures: Sequence[tuple[str, str]] = ()) -> str:
    """The page. command: that makes it again; pictures: (title, file beside the page)."""
    numbers, seeds = report.numbers, report.request.seeds
    weights = numbers["weights"] or "none: everything is random"
    if isinstance(weights, dict):
        weights = ", ".join(f"{stage} ({w['file']}, sha256 {w['sha256'][:12]})" for stage, w in weights.items())
    contiguous = list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    which = f"{seeds[0]}..{seeds[-1]}" if contiguous else ", ".join(map(str, seeds))
    parts = [f"# Preset {numbers['preset']} in the synthetic world"]
    parts += [f"> **WARNING: {warning}. Do not quote these numbers.**" for warning in report.warnings]
    facts = [
        f"Seeds {which}: {len(seeds)} scenes. Trained weights: {weights}.",
        f"Made by `{command}`.",
    ]
    if numbers["known_seeds"]:
        known = numbers["known_seeds"]
        facts.append(f"Baselines that learn know {len(known)} training seeds ({known[0]}..{known[-1]}), no image.")
    if numbers["random"]:
        facts.append(f"Run on RANDOM weights: {', '.join(numbers['random'])}.")
    facts += [f"Left out: {why}." for why in numbers["absent"].values()]
    parts.append("\n".join(f"- {fact}" for fact in facts))
    for section in report.sections:
        parts.append(f"## {section.title}")
        parts += [block.to_markdown() for block in section.blocks]
        parts += [text.rstrip() for text in section.markdown]
    if pictures:
        parts.append("## Pictures")
        parts.append(
            "The six images (ahead on the left, back on the right); then, from above, the network in the upper row and "
            "the truth in the lower one: now, +1 s, +2 s, +3 s."
        )
        parts += [f"### {title}\n\n![{title}]({file})" for title, file in pictures]
    return "\n\n".join(parts) + "\n"
