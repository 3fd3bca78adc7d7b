"""Validation of questions, and conversion of generated tokens to safe text."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

from ...core.errors import InvalidInput

_REFUSED = frozenset({"Cc", "Cs", "Cn", "Co", "Zl", "Zp"})
"""Unicode categories: control, surrogate, unassigned, private use, line and paragraph separators."""
_DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Bidirectional control characters: they reorder the text that a terminal or RViz displays."""
REPLACEMENT = "\ufffd"


def check_question(question: str, max_chars: int = 500) -> str:
    """Returns the question without surrounding whitespace.

    Raises InvalidInput("question") unless it has 1..max_chars characters, all of them printable.
    """
    if not isinstance(question, str):
        raise InvalidInput("question", f"want a string, got {type(question).__name__}")
    if len(question) > max_chars:
        raise InvalidInput("question", f"has {len(question)} characters, at most {max_chars} are allowed")
    for place, char in enumerate(question):
        if unicodedata.category(char) in _REFUSED or char in _DIRECTION:
            raise InvalidInput("question", f"character {place + 1} (U+{ord(char):04X}) is not printable")
    text = question.strip()
    if not text:
        raise InvalidInput("question", "is empty")
    return text


def escape(text: str) -> str:
    r"""Returns the text with control characters escaped (`\x1b`, `\u202e`), except line feeds and tabs."""
    return "".join(
        char
        if char in "\n\t" or not (unicodedata.category(char) in _REFUSED or char in _DIRECTION)
        else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


class TextStream:
    """Converts a stream of tokens to pieces of final text.

    A byte-level tokenizer may split a character over several tokens; it is emitted once complete, so every piece is
    valid text and the pieces joined are `text`. Control characters are escaped. The text is cut at `max_chars`; `full`
    is then True. decode: maps all ids so far to their text.
    """

    def __init__(self, decode: Callable[[list[int]], str], max_chars: int) -> None:
        self._decode_ids = decode
        self._max_chars = max_chars
        self._ids: list[int] = []
        self._raw = 0
        self._pieces: list[str] = []
        self._length = 0

    def push(self, token: int) -> str:
        """Add a token; returns the text that it completes, possibly empty."""
        self._ids.append(token)
        text = self._decode()
        # A trailing replacement character may be completed by the next token.
        return self._emit(text[:-1] if text.endswith(REPLACEMENT) else text)

    def finish(self) -> str:
        """Returns the remaining text: a replacement character if the answer ended inside a character."""
        return self._emit(self._decode())

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def full(self) -> bool:
        return self._length >= self._max_chars

    def _decode(self) -> str:
        return self._decode_ids(self._ids)

    def _emit(self, text: str) -> str:
        fresh, self._raw = text[self._raw :], max(self._raw, len(text))
        piece = escape(fresh)[: self._max_chars - self._length]
        if piece:
            self._pieces.append(piece)
            self._length += len(piece)
        return piece
