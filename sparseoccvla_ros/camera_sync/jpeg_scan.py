"""Detects incomplete and damaged JPEG data, which image decoders silently fill with grey.

The entropy-coded data of a sequential Huffman JPEG (ITU-T T.81, annex F.2) is parsed symbol by symbol, without
computing a pixel. A stream with lost or changed bytes loses synchronisation, so it ends before its last block or has
data left after it. If it resynchronises, its blocks are mostly implausible: the cosine transform preserves the sum of
squares, and 64 pixels within 128 of grey cannot exceed 1024 in that norm. Progressive and arithmetic-coded files are
not checked: no camera sends them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from ..core.errors import InvalidInput
from ..core.kernels import kernel

_SEQUENTIAL = (0xC0, 0xC1)
_OTHER_FRAMES = {0xC2, 0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)}
_COMPLETE, _EARLY, _LEFT_OVER, _NO_CODE, _TOO_LONG, _NO_RESTART, _TOO_STRONG = range(7)
_REASONS = {
    _EARLY: "it ends before its last block",
    _LEFT_OVER: "it goes on behind its last block",
    _NO_CODE: "it holds a code that its tables lack",
    _TOO_LONG: "a block has more than 64 coefficients",
    _NO_RESTART: "a restart marker is missing",
    _TOO_STRONG: "a block is brighter or darker than pixels can be",
}


@dataclass
class _Tables:
    """Tables that precede a scan: Huffman tables by slot (AC 4..7), quantisation tables float [64] in file order,
    sampling (h, v) and quantisation slot by component, size (height, width), restart interval."""

    huffman: dict[int, bytes] = field(default_factory=dict)
    steps: dict[int, np.ndarray] = field(default_factory=dict)
    sampling: dict[int, tuple[int, int]] = field(default_factory=dict)
    steps_of: dict[int, int] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)
    restart: int = 0


def check_scans(data: bytes, name: str) -> None:
    """Raise InvalidInput(name) for a JPEG with incomplete or damaged image data. Call `read_header` before."""
    tables, at = _Tables(), 2
    while True:
        at = data.find(b"\xff", at)
        while 0 <= at < len(data) and data[at] == 0xFF:
            at += 1
        if at <= 0 or at >= len(data) or data[at] == 0xD9 or data[at] in _OTHER_FRAMES:
            return
        marker, at = data[at], at + 1
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        segment = data[at + 2 : at + length]
        at += length
        if marker == 0xC4:
            _take_huffman(tables, segment, name)
        elif marker == 0xDB:
            _take_steps(tables, segment, name)
        elif marker in _SEQUENTIAL:
            tables.size = int.from_bytes(segment[1:3], "big"), int.from_bytes(segment[3:5], "big")
            parts = [segment[6 + 3 * i : 9 + 3 * i] for i in range(segment[5])]
            tables.sampling = {p[0]: (p[1] >> 4, p[1] & 15) for p in parts if len(p) == 3}
            tables.steps_of = {p[0]: p[2] for p in parts if len(p) == 3}
        elif marker == 0xDD:
            tables.restart = int.from_bytes(segment[:2], "big")
        elif marker == 0xDA:
            at = _check_scan(tables, segment, data, at, name)
            if at < 0:
                return


def _take_huffman(tables: _Tables, segment: bytes, name: str) -> None:
    at = 0
    while at + 17 <= len(segment):
        slot, total = segment[at], sum(segment[at + 1 : at + 17])
        body = segment[at + 1 : at + 17 + total]
        if slot & 0x0F > 3 or slot >> 4 > 1 or len(body) != 16 + total:
            raise InvalidInput(name, "JPEG has a Huffman table that is cut off")
        tables.huffman[(slot >> 4) * 4 + (slot & 3)] = body
        at += 17 + total


def _take_steps(tables: _Tables, segment: bytes, name: str) -> None:
    at = 0
    while at < len(segment):
        kind = ">u2" if segment[at] >> 4 else "u1"
        body = segment[at + 1 : at + 1 + 64 * np.dtype(kind).itemsize]
        if segment[at] >> 4 > 1 or len(body) != 64 * np.dtype(kind).itemsize:
            raise InvalidInput(name, "JPEG has a quantisation table that is cut off")
        tables.steps[segment[at] & 15] = np.frombuffer(body, kind).astype(np.float64)
        at += 1 + len(body)


def _check_scan(tables: _Tables, segment: bytes, data: bytes, at: int, name: str) -> int:
    """Check one scan from `at`; returns where it ends, -1 if it cannot be checked."""
    if len(segment) < 4 or len(segment) < 1 + 2 * segment[0]:
        raise InvalidInput(name, "JPEG has a scan without components")
    chosen = [(segment[1 + 2 * i], segment[2 + 2 * i]) for i in range(segment[0])]
    sampling = [tables.sampling.get(c, (0, 0)) for c, _ in chosen]
    if not sampling or min(map(min, sampling)) < 1 or max(map(max, sampling)) > 4:
        raise InvalidInput(name, "JPEG has a component without sampling factors")
    slots = [(t >> 4, 4 + (t & 15)) for _, t in chosen]
    if any(slot not in tables.huffman for pair in slots for slot in pair):
        return -1  # motion JPEG without Huffman tables: decoders supply them
    height, width = tables.size
    tallest = max(v for _, v in tables.sampling.values())
    widest = max(h for h, _ in tables.sampling.values())
    if len(chosen) == 1:
        h, v = sampling[0]
        columns, rows = _parts(_parts(width * h, widest), 8), _parts(_parts(height * v, tallest), 8)
        blocks = [0]
    else:
        columns, rows = _parts(width, 8 * widest), _parts(height, 8 * tallest)
        blocks = [i for i, (h, v) in enumerate(sampling) for _ in range(h * v)]
    # Per block: DC table, AC table and component (a DC is coded as the difference from its previous block).
    pairs = np.array([(*slots[b], b) for b in blocks], np.int64)
    lookup = _lookup(tuple(sorted(tables.huffman.items())))
    # A component without quantisation table is parsed as well, but the norm of its blocks is not checked.
    steps = np.stack([tables.steps.get(tables.steps_of[c], np.zeros(64)) for c, _ in chosen])
    outcome, end = _walk(np.frombuffer(data, np.uint8), at, lookup, pairs, steps, columns * rows, tables.restart)
    if outcome != _COMPLETE:
        raise InvalidInput(name, f"JPEG is damaged: {_REASONS[outcome]}")
    return int(end)


def _parts(whole: int, size: int) -> int:
    """Return how many pieces of `size` cover `whole`."""
    return -(-whole // size)


@lru_cache(maxsize=16)
def _lookup(tables: tuple[tuple[int, bytes], ...]) -> np.ndarray:
    """Return uint16 [8, 65536] by slot and the next 16 bits: length << 8 | symbol, 0 for an invalid code (annex C)."""
    out = np.zeros((8, 65536), np.uint16)
    for slot, body in tables:
        counts, symbols = body[:16], body[16:]
        code = at = 0
        for length in range(1, 17):
            for symbol in symbols[at : at + counts[length - 1]]:
                first = code << (16 - length)
                out[slot, first : first + (1 << (16 - length))] = length << 8 | symbol
                code += 1
            at += counts[length - 1]
            code <<= 1
    return out


@kernel
def _walk(
    data: np.ndarray, at: int, lookup: np.ndarray, pairs: np.ndarray, steps: np.ndarray, units: int, restart: int
) -> tuple[int, int]:
    bits, held = 0, 0  # `held` unread bits, right-aligned in `bits`
    size = data.shape[0]
    levels = np.zeros(steps.shape[0])  # the DC of each component's last block, in steps
    # Largest squared norm of a block: rounding to steps added, and a tenth for encoders that compute roughly.
    limits = (1.1 * (1024.0 + np.sqrt((steps**2).sum(1)) / 2.0)) ** 2
    for unit in range(units):
        if restart and unit and unit % restart == 0:
            if held >= 8:
                return _LEFT_OVER, at
            bits = held = 0
            levels[:] = 0.0
            while at + 1 < size and data[at] == 0xFF and data[at + 1] == 0xFF:
                at += 1
            if at + 1 >= size or data[at] != 0xFF or data[at + 1] != 0xD0 + ((unit // restart - 1) & 7):
                return _NO_RESTART, at
            at += 2
        for block in range(pairs.shape[0]):
            k, part, square = 0, pairs[block, 2], 0.0
            while k < 64:
                while held <= 40 and at < size:
                    byte = np.int64(data[at])
                    if byte == 0xFF:
                        if at + 1 >= size or data[at + 1] != 0:
                            break
                        at += 1
                    at += 1
                    bits, held = bits << 8 | byte, held + 8
                ahead = bits >> (held - 16) if held >= 16 else bits << (16 - held)
                entry = np.int64(lookup[pairs[block, 0 if k == 0 else 1], ahead & 0xFFFF])
                length, symbol = entry >> 8, entry & 0xFF
                if length == 0:
                    return (_NO_CODE if held >= 16 else _EARLY), at
                extra = symbol if k == 0 else symbol & 15
                if length + extra > held:
                    return _EARLY, at
                held -= length + extra
                value = (bits >> held) & ((1 << extra) - 1)
                if extra and value < 1 << (extra - 1):
                    value -= (1 << extra) - 1
                bits &= (1 << held) - 1
                if k == 0:
                    levels[part] += value
                    square = (levels[part] * steps[part, 0]) ** 2
                    k = 1
                elif extra:
                    k += (symbol >> 4) + 1
                    square += (value * steps[part, min(k, 64) - 1]) ** 2
                elif symbol == 0xF0:
                    k += 16
                else:
                    break
            if k > 64:
                return _TOO_LONG, at
            if square > limits[part]:
                return _TOO_STRONG, at
    if held >= 8 and bits >> (held % 8):
        return _LEFT_OVER, at
    while at < size and data[at] == 0:
        at += 1
    if at + 1 < size and data[at] == 0xFF and data[at + 1] != 0:
        return _COMPLETE, at
    return (_LEFT_OVER if at + 1 < size else _EARLY), at
