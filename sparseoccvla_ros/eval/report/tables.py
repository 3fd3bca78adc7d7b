"""Tables for both page and terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def markdown_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table without a final line break; bars within cells are escaped."""
    head = list(head)
    lines = (head, ["---"] * len(head), *rows)
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


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
            parts.append(markdown_table(self.head, self.rows))
        if self.notes:
            parts.append("\n".join(f"- {note}" for note in self.notes))
        return "\n\n".join(parts)
