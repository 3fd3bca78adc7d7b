"""Tables for both page and terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """A table with a title and notes below; without rows only the notes are shown."""

    title: str
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()

    def to_markdown(self, level: int = 3) -> str:
        """Returns title, table and notes as Markdown."""
        parts = [f"{'#' * level} {self.title}"]
        if self.rows:
            lines = [self.head, ["---"] * len(self.head), *self.rows]
            parts.append("\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in lines))
        if self.notes:
            parts.append("\n".join(f"- {note}" for note in self.notes))
        return "\n\n".join(parts)
