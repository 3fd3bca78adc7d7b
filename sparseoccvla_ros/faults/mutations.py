"""Seeded mutations of valid inputs: bit flips, extreme numbers, blocks moved, lost and repeated, words replaced."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Sequence

_BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF)
_WORDS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
_FLOATS = tuple(struct.pack("<d", v) for v in (float("nan"), float("inf"), -float("inf"), 1e300, -0.0, 5e-324))
_TOKENS = (
    "null", "~", "true", "[]", "{}", "''", "-1", "0", "1e999", ".nan", ".inf", "-.inf", "99999999999999999999", "0x7f",
    "1:30", "2020-02-30", "2001-12-14t21:59:43.10-05:00", "!!binary aGk=", "!!set {a}", "!!python/object:os.system x",
    "[1, [2, [3]]]", "{a: {b: c}}", "&a [*a]", "*nowhere", "../../../etc/passwd", "/dev/zero", "\u202e", "\x00",
    "=", "<<", "0b1", "1_000", "-0.0", "word",
)  # fmt: skip
_TEXT = re.compile(r"[^\s:,\[\]{}]+")


def damaged(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Mutate one of the seeds with one to six byte-level changes."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        _change(rng, data, seeds)
    return bytes(data)


def _change(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    kind, size = rng.randrange(9), len(data)
    at = rng.randrange(size) if size else 0
    if not size:
        data += rng.randbytes(rng.randrange(64))
    elif kind == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[at] = rng.choice(_BYTES)
    elif kind == 2:
        order = rng.choice("<>")
        width = rng.choice("HI")
        word = rng.choice(_WORDS) & (0xFFFF if width == "H" else 0xFFFFFFFF)
        data[at : at + struct.calcsize(width)] = struct.pack(order + width, word)
    elif kind == 3:
        data[at : at + 8] = rng.choice(_FLOATS)
    elif kind == 4:
        del data[at:]
    elif kind == 5:
        del data[at : at + 1 + rng.randrange(32)]
    elif kind == 6:
        data[at:at] = data[at : at + 1 + rng.randrange(64)]
    elif kind == 7:
        data[at:at] = rng.randbytes(1 + rng.randrange(16))
    else:
        other = rng.choice(seeds)
        start = rng.randrange(len(other)) if other else 0
        data[at : at + 32] = other[start : start + rng.randrange(64)]


def reworded(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Mutate one of the seeds as text: replaces words, deletes, repeats or reindents lines; 20 % also get `damaged`."""
    text = rng.choice(seeds).decode("utf-8", "replace")
    for _ in range(rng.choice((1, 1, 2, 4))):
        words = list(_TEXT.finditer(text))
        if words and rng.random() < 0.7:
            word = rng.choice(words)
            text = text[: word.start()] + rng.choice(_TOKENS) + text[word.end() :]
        else:
            lines = text.splitlines(keepends=True) or [""]
            at = rng.randrange(len(lines))
            lines[at : at + 1] = rng.choice(([], [lines[at]] * 2, ["  " + lines[at]], [lines[at].lstrip()]))
            text = "".join(lines)
    data = text.encode("utf-8", "surrogatepass")
    return damaged(rng, [data]) if rng.random() < 0.2 else data
