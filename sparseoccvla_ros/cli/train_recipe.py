"""./run train recipe: everything that makes a preset's weights, in one command that can be stopped at any time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .console import one_line_errors


def recipe(
    preset: Annotated[str, typer.Argument(help="model preset, or folder, with a recipe.yaml")] = "tiny",
    out: Annotated[Path | None, typer.Option(help="folder of the run; out/recipe/PRESET")] = None,
    only: Annotated[list[str] | None, typer.Option(help="do this step alone; may be given several times")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    minutes: Annotated[float | None, typer.Option(min=0.1, help="end in this time; steps share it as budgeted")] = None,
    workers: Annotated[int, typer.Option(min=0, help="processes that render and encode; 0: one a core")] = 0,
    threads: Annotated[int, typer.Option(min=0, help="threads of torch; 0: all cores")] = 0,
    install: Annotated[bool, typer.Option("--install", help="put the exported weights into the preset")] = False,
) -> None:
    """Render, cache, train, export and report, by the preset's recipe. What was stopped or killed goes on."""
    with one_line_errors():
        import torch

        from sparseoccvla_ros.runtime.factory import pick_device
        from sparseoccvla_ros.train.recipe.export import install as put
        from sparseoccvla_ros.train.recipe.plan import load_recipe
        from sparseoccvla_ros.train.recipe.run import run_recipe
        from sparseoccvla_ros.train.recipe.steps import STEPS

        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(threads or cores)
        found = load_recipe(preset)
        folder = out or Path("out/recipe") / found.preset.name
        console = Console(stderr=True)

        def say(line: str) -> None:
            console.print(line, soft_wrap=True, highlight=False, markup=False)

        used = run_recipe(found, STEPS, folder, only or (), pick_device(device).type, workers or cores, minutes, say)
        if install:
            say(f"installed {', '.join(put(used, folder))} in {found.preset.folder}")
