"""The Markdown page of an evaluation: warnings, facts about the run, tables, plots and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...core.files import file_sha256
from ...runtime.presets import Preset
from ..tasks.evaluator import EvaluationReport, Evaluator


def weight_files(preset: Preset) -> dict[str, dict[str, str]]:
    """Returns file name and sha256 of the weights, by stage."""
    return {stage: {"file": path.name, "sha256": file_sha256(path)} for stage, path in preset.weights.items()}


def head_of(run: Evaluator) -> dict[str, Any]:
    """Returns what was run, as plain numbers and strings."""
    preset, wanted = run.preset, run.wanted
    return {
        "preset": preset.name, "tasks": list(wanted.tasks), "samples": wanted.samples, "captions": wanted.captions,
        "random": [s for s in run.model.stages if s in preset.untrained], "weights": weight_files(preset),
        "absent": run.model.absent, "known": "" if run.known is None else run.known.source,
    }  # fmt: skip


def facts_of(run: Evaluator) -> list[str]:
    """Returns head_of as sentences."""
    head = head_of(run)
    weights = ", ".join(f"{stage} ({w['file']}, sha256 {w['sha256'][:12]})" for stage, w in head["weights"].items())
    facts = [f"Trained weights: {weights or 'none: everything is random'}."]
    if head["known"]:
        facts.append(f"Baselines that learn know {head['known']}.")
    if head["random"]:
        facts.append(f"Run on RANDOM weights: {', '.join(head['random'])}.")
    return facts + [f"Left out: {why}." for why in head["absent"].values()]


def to_markdown(
    report: EvaluationReport,
    command: str,
    pictures: Sequence[tuple[str, str]] = (),
    plots: Sequence[tuple[str, str]] = (),
) -> str:
    """Returns the page. command: reproduces it; pictures, plots: (title, file next to the page)."""
    parts = [f"# {report.title}"]
    parts += [f"> **WARNING: {warning}. Do not quote these numbers.**" for warning in report.warnings]
    parts.append("\n".join(f"- {fact}" for fact in (*report.facts, f"Made by `{command}`.")))
    if plots:
        parts.append("## At a glance")
        parts += [f"![{title}]({file})" for title, file in plots]
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
