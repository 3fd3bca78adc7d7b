"""Helpers shared by the verbs: one-line errors and progress bars."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..core.errors import InvalidInput, format_error

Workers = Annotated[int, typer.Option(min=0, help="processes of one thread; 0: one per core, at most 8")]


def worker_count(workers: int) -> int:
    """Returns the number of processes that the option Workers asks for."""
    return workers or min(8, os.cpu_count() or 1)


def wide_console(width: int = 200, **options: Any) -> Console:
    """Returns rich's Console(**options); `width` columns in a pipe or file, so that tables are not squeezed into 80."""
    console = Console(**options)
    return console if console.is_terminal else Console(width=width, **options)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print InvalidInput as one line on stderr and exit with code 2; an OSError likewise with code 1."""
    try:
        yield
    except InvalidInput as error:
        typer.echo(f"error: {format_error(error)}", err=True)
        raise typer.Exit(2) from error
    except OSError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


@contextmanager
def progress(text: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on stderr; yields a callback (done, total)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
