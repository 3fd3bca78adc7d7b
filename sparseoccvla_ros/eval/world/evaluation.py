"""Evaluates a preset on seeds of the world: rendering, inference, report."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from ...core.errors import InvalidInput
from ...data.synthetic.dataset import world_settings
from ...data.synthetic.scenes import WorldSettings, load_scene, prepare_scenes
from ...pipeline import SparseOccVLA
from ...runtime.presets import load_preset
from ..report.page import facts_of, head_of
from ..tasks.evaluator import EvalConfig, EvaluationReport, Evaluator, Progress, plain
from .drives import Drive
from .priors import SEEDS, known
from .seeds import warnings_about

SCENES = 24
"""Default number of evaluated scenes of a split: with 48 moments for questions about 15 minutes on two idle cores,
including the first rendering."""


@dataclass(frozen=True)
class Request:
    """Evaluation request. preset: name or folder; seeds: of the world; untrained: also run stages without weights.
    Raises InvalidInput."""

    preset: str
    seeds: tuple[int, ...]
    wanted: EvalConfig = field(default_factory=EvalConfig)
    untrained: bool = False

    def __post_init__(self) -> None:
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise InvalidInput("seeds", "want distinct seeds from 0 on")


def evaluate_world(request: Request, on_progress: Progress = lambda what, done, total: None) -> EvaluationReport:
    """Evaluates a preset on seeds of the world; other processes render missing scenes meanwhile.

    Runs on the CPU with torch's configured number of threads. Raises InvalidInput naming the field.
    """
    preset, seeds, wanted = load_preset(request.preset), request.seeds, request.wanted
    warnings = warnings_about(preset, seeds, SEEDS)
    on_progress("building the stages", 0, 1)
    model = SparseOccVLA.from_preset(preset, wanted.stages, request.untrained)
    learned = None
    if wanted.tasks != ("forecast",):
        learned = known(SEEDS, on_progress=lambda done, total: on_progress("reading training seeds", done, total))
    run = Evaluator(preset, model, wanted, learned, len(seeds))
    frames = preset.occupancy.frames
    settings = world_settings("test", preset.image.height, preset.image.width, frames)
    parts = []
    for place, drive in enumerate(_drives(seeds, settings, frames)):
        on_progress("driving", place, len(seeds))
        parts.append(run.judge(place, drive))
    on_progress("driving", len(seeds), len(seeds))
    finished = run.finish(parts, on_progress)
    assert finished is not None
    numbers, sections, shown = finished
    contiguous = list(seeds) == list(range(seeds[0], seeds[-1] + 1))
    which = f"{seeds[0]}..{seeds[-1]}" if contiguous else ", ".join(map(str, seeds))
    facts = [f"Seeds {which}: {len(seeds)} scenes.", *facts_of(run)]
    head = {"seeds": list(seeds), **head_of(run), "warnings": warnings}
    title = f"Preset {preset.name} in the synthetic world"
    return EvaluationReport(title, facts, plain(head | numbers), sections, warnings, shown)


def _drives(seeds: Sequence[int], settings: WorldSettings, frames: int) -> Iterator[Drive]:
    """Yields the seeds in order, each as soon as it is rendered; rendering runs ahead in other processes."""
    there: set[int] = set()
    with closing(prepare_scenes(seeds, settings, workers=max(1, (os.cpu_count() or 2) - 1))) as ready:
        for seed in seeds:
            while seed not in there:
                there.add(next(ready))
            yield Drive(load_scene(seed, settings), frames)
