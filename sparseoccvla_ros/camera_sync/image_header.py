"""Checks size and completeness of JPEG and PNG files before any pixel is allocated."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.errors import InvalidInput

MAX_BYTES = 64 * 2**20
"""Largest decoded image, and largest file, in bytes."""

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_NOT_FRAMES = {0xC4, 0xC8, 0xCC}
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}


@dataclass(frozen=True)
class Header:
    """Header of an image. kind: "jpeg" or "png"; height, width: pixels; grey: one channel, as in a Bayer mosaic."""

    kind: str
    height: int
    width: int
    grey: bool = False


def check_size(height: int, width: int, bytes_per_pixel: int, field: str) -> None:
    """Raise InvalidInput for an empty image or one of more than MAX_BYTES."""
    if height <= 0 or width <= 0:
        raise InvalidInput(field, f"image of {width}x{height} pixels is empty")
    if height * width * bytes_per_pixel > MAX_BYTES:
        raise InvalidInput(field, f"image of {width}x{height} pixels decodes to more than {MAX_BYTES // 2**20} MiB")


def read_header(data: memoryview, field: str, declared: str = "") -> Header:
    """Read the header of a complete JPEG or PNG file; its first bytes decide the kind, not the declared format.

    declared: the message's `format`, for error messages only. Raises InvalidInput for other formats, and for a file
    that is truncated, empty, or larger than MAX_BYTES (decoded or itself).
    """
    if len(data) > MAX_BYTES:
        raise InvalidInput(field, f"file of {len(data)} bytes is larger than {MAX_BYTES // 2**20} MiB")
    start = bytes(data[:8])
    if start.startswith(_JPEG):
        return _jpeg(bytes(data), field)
    if start == _PNG:
        return _png(bytes(data), field)
    name = declared.strip()[:60] or "unnamed"
    if not len(data):
        raise InvalidInput(field, "holds no data")
    if "264" in name or "265" in name or "hevc" in name.lower():
        raise InvalidInput(field, f"format {name!r} is a video stream; decode it upstream, JPEG and PNG are supported")
    raise InvalidInput(field, f"format {name!r} is neither JPEG nor PNG; these are supported")


def _jpeg(data: bytes, field: str) -> Header:
    """Parse the marker segments up to the first scan (ITU-T T.81, annex B)."""
    truncated = InvalidInput(field, f"JPEG of {len(data)} bytes is truncated")
    at, size, channels = 2, None, 0
    while True:
        while at < len(data) and data[at] == 0xFF:
            at += 1
        if at >= len(data) or data[at - 1] != 0xFF:
            raise truncated if at >= len(data) else InvalidInput(field, "JPEG holds no marker where one must be")
        marker = data[at]
        at += 1
        if marker in _STANDALONE:
            continue
        if marker == 0xD9:
            raise truncated
        if at + 2 > len(data):
            raise truncated
        length = int.from_bytes(data[at : at + 2], "big")
        if length < 2:
            raise InvalidInput(field, "JPEG has a segment without length")
        if at + length > len(data):
            raise truncated
        if 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES:
            if length < 8:
                raise InvalidInput(field, "JPEG has a frame header without size")
            precision, channels = data[at + 2], data[at + 7]
            size = (int.from_bytes(data[at + 3 : at + 5], "big"), int.from_bytes(data[at + 5 : at + 7], "big"))
            check_size(*size, 3, field)
            if precision != 8:
                raise InvalidInput(field, f"JPEG with {precision} bits per sample; 8 are supported")
        if marker == 0xDA:
            break
        at += length
    if size is None:
        raise InvalidInput(field, "JPEG has no frame header")
    if data.rfind(b"\xff\xd9", at) < 0:
        raise truncated
    return Header("jpeg", *size, channels == 1)


def _png(data: bytes, field: str) -> Header:
    """Parse the chunks (ISO/IEC 15948): IHDR must be first, IEND must be reached."""
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise InvalidInput(field, f"PNG of {len(data)} bytes has no complete header")
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    depth, colour = data[24], data[25]
    if colour not in _PNG_CHANNELS or depth not in (1, 2, 4, 8, 16):
        raise InvalidInput(field, f"PNG of colour type {colour}, {depth} bits is not defined")
    check_size(height, width, max(3, _PNG_CHANNELS[colour]) * max(1, depth // 8), field)
    at = 8
    while at + 12 <= len(data):
        if data[at + 4 : at + 8] == b"IEND":
            return Header("png", height, width, colour == 0)
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    raise InvalidInput(field, f"PNG of {len(data)} bytes is truncated")
