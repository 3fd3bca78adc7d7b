"""./run bench training: samples per CPU second of the phases of stage 1, against training from images in the same run.

CPU seconds of the process, one thread, including loading and optimizer: on a shared machine wall time is meaningless.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ..core.classes import LABEL
from ..core.onednn import fast_precision
from ..data.dataset import Augmentation, DrivingSamples
from ..data.shared_work import share
from ..data.synthetic.dataset import SPLITS, WorldSamples, world_settings
from ..occupancy.encoder import OccupancyEncoder
from ..occupancy.losses import LossWeights
from ..runtime.presets import load_preset
from ..train.features.backbone_cache import BackboneCache
from ..train.features.cached_frames import CachedFrames
from ..train.recipe.plan import load_recipe
from ..train.stages.cells import CellStage
from ..train.stages.clips import ClipStage
from ..train.stages.occupancy import OccupancyStage, OccupancyStageSettings
from ..train.task import Stage

STEPS = 5
FROZEN = 5


def bench_training(console: Console, preset: str) -> dict[str, Any]:
    """Measure each phase on one scene of the world; print a table, return numbers."""
    torch.set_num_threads(1)
    found, recipe = load_preset(preset), load_recipe(preset)
    settings = world_settings("train", found.image.height, found.image.width, found.occupancy.frames)
    seeds = list(SPLITS["train"][:1])
    images = WorldSamples(seeds, settings, found.occupancy.frames)
    _ = images[0]  # renders it unless it is cached
    encoder = OccupancyEncoder(found.occupancy.replace(backbone_dtype=fast_precision("cpu")))
    kept = BackboneCache(encoder, settings, FROZEN)
    began = time.process_time()
    for _ in share(kept, seeds):
        pass
    made = time.process_time() - began
    choices = OccupancyStageSettings(frozen=FROZEN, initial_points="random", depthwise=False)
    weights = LossWeights(alpha=0.6, gamma=1.0, rare_classes=tuple(range(LABEL["driveable_surface"])))
    batch_sizes = {step.name: int(step.options.get("batch_size", 1)) for step in recipe.steps}
    seconds = {
        "from images": _step(OccupancyStage(encoder, choices, weights), images, 2, Augmentation()),
        "whole, from the cache": _step(
            ClipStage(encoder, choices, weights), CachedFrames(kept, seeds, True), batch_sizes["whole"]
        ),
        "cells, from the cache": _step(
            CellStage(encoder, FROZEN), CachedFrames(kept, seeds, False), batch_sizes["cells"]
        ),
    }
    table = Table("phase", "ms per sample", "samples per CPU second", "against images", title=f"Stage 1 of {preset}")
    for name, value in seconds.items():
        table.add_row(name, f"{1e3 * value:.0f}", f"{1 / value:.2f}", f"{seconds['from images'] / value:.1f}x")
    console.print(table)
    samples = {n: recipe.step(n).options["steps"] * batch_sizes[n] for n in ("cells", "whole")}
    samples["whole"] *= settings.sets - found.occupancy.frames + 1
    new = samples["cells"] * seconds["cells, from the cache"] + samples["whole"] * seconds["whole, from the cache"]
    speed = sum(samples.values()) * seconds["from images"] / new
    if made > 0.1:
        console.print(
            f"  caching a frame set of {kept.variants.count} variants: {1e3 * made / (9 * len(seeds)):.0f} ms"
        )
    console.print(f"  the recipe's {sum(samples.values())} samples as a whole: {speed:.1f}x")
    return {"preset": preset, "seconds_per_sample": seconds, "samples": samples, "speed": speed}


def _step(stage: Stage[Any], data: DrivingSamples, batch_size: int, augment: Any = None) -> float:
    """Returns the CPU seconds per sample of training steps, without the first two."""
    optimizer = torch.optim.AdamW(stage.parameter_groups(3e-4, 0.1), fused=True)
    average = {k: v.detach().clone() for k, v in stage.state_dict().items()}
    augment, rng = augment or stage.augment, np.random.default_rng(0)
    stage.train()
    count, began = 0, 0.0
    for step in range(STEPS + 2):
        if step == 2:
            count, began = 0, time.process_time()
        items = [augment(data[int(i)], rng) for i in rng.integers(len(data), size=batch_size)]
        found = stage.collate(items)
        loss = torch.stack(list(stage(found).values())).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in stage.parameters() if p.requires_grad], 35.0)
        optimizer.step()
        with torch.no_grad():
            for name, value in stage.state_dict().items():
                if value.is_floating_point():
                    average[name].lerp_(value, 0.002)
        count += len(getattr(found, "targets", None) or found.ego2img)
    return (time.process_time() - began) / count
