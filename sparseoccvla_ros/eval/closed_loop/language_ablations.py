"""Ablations of the chain: without parts of its language input, or with forecasts in its gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ...core.types import Reasoning
from ...data.synthetic.dataset import SPLITS, world_settings
from ...data.synthetic.scenes import load_scene
from ...pipeline import SparseOccVLA
from ..world.drives import Drive

CHANGED = {
    "chain-no-language": "neither token nor anchor scores, as when they come too late",
    "chain-no-llm-scores": "the language model's anchor scores left out",
    "chain-shuffled": "token and anchor scores of moments of other scenes",
    "chain-gated": "candidates are checked against forecasts as well, whatever the preset says",
}
"""Policies by name, and how they differ from the chain; nothing is retrained."""
SHUFFLE_SEEDS = tuple(SPLITS["validation"][:4])
"""Scenes whose reasonings `chain-shuffled` receives; not used for scoring."""


def change(model: SparseOccVLA, name: str) -> None:
    """Applies one of CHANGED to a model, in place. Language ablations have no effect on a model without reasoning, or
    whose planner was trained without it."""
    assert model.planner is not None
    if name == "chain-no-language":
        model.planner.uses_reasoning = False
    elif name == "chain-gated":
        model.planner.config = replace(model.planner.config, gate_forecasts=True)
    elif name == "chain-no-llm-scores":
        model.reasoning_filter = lambda own: replace(own, anchor_scores=np.zeros_like(own.anchor_scores))
    elif model.reasoner is not None:
        model.reasoning_filter = swapped(reasonings(model))


def reasonings(model: SparseOccVLA, seeds: tuple[int, ...] = SHUFFLE_SEEDS) -> list[Reasoning]:
    """Returns the model's reasonings for every frame set of recorded scenes."""
    image, frames = model.preset.image, model.preset.occupancy.frames
    settings = world_settings("validation", image.height, image.width, frames)
    found = []
    for place, seed in enumerate(seeds):
        drive = Drive(load_scene(seed, settings), frames)
        for number, clip in enumerate(drive.clips):
            for index in clip:
                step = model.step(drive.frames(index, place * len(drive.clips) + number), *drive.command(index))
                if step.reasoning is not None:
                    found.append(step.reasoning)
    model.reset()
    return found


def swapped(said: list[Reasoning]) -> Callable[[Reasoning], Reasoning]:
    """Returns a function that replaces token and anchor scores by those of one of `said`, chosen by the stamp."""

    def hear(own: Reasoning) -> Reasoning:
        other = said[int(np.random.default_rng(own.stamp % 2**63).integers(len(said)))]
        return replace(own, token=other.token, anchor_scores=other.anchor_scores)

    return hear
