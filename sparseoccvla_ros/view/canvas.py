"""Drawing primitives shared by all images: theme, font, panels, and text fitted to its space.

Images are uint8 [H, W, 3] RGB and modified in place. Positions are pixels, u right, v down.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..core.classes import FLAT, PALETTE

Colour = tuple[int, int, int]

BACKGROUND: Colour = (13, 16, 21)
PANEL: Colour = (21, 25, 32)
SUNKEN: Colour = (9, 11, 15)
LINE: Colour = (52, 60, 72)
TEXT: Colour = (233, 237, 242)
MUTED: Colour = (143, 153, 167)
GOOD: Colour = (72, 226, 142)
WARNING: Colour = (255, 190, 60)
BAD: Colour = (255, 92, 92)


def _shown_palette() -> np.ndarray:
    """Return the palette with bright ground classes darkened; a bright magenta road would drown the objects on it."""
    shown = PALETTE.astype(np.float32)
    bright = [label for label in FLAT if PALETTE[label] @ (0.30, 0.59, 0.11) > 60]
    shown[bright] *= 0.52
    shown.setflags(write=False)
    return shown


SHOWN_PALETTE = _shown_palette()
"""float32 [17, 3] RGB, used by images and legend: core.classes.PALETTE with bright ground classes darkened."""

REGULAR, MEDIUM, BOLD = 400, 550, 750
"""Font weights."""


class Rect(NamedTuple):
    """A rectangle in an image, pixels."""

    x: int
    y: int
    width: int
    height: int

    def of(self, image: np.ndarray) -> np.ndarray:
        """Return the pixels of this rectangle, a view [height, width, 3]."""
        return image[self.y : self.y + self.height, self.x : self.x + self.width]


def blank(width: int, height: int, colour: Colour = BACKGROUND) -> np.ndarray:
    """Return uint8 [height, width, 3] filled with one colour."""
    return np.full((height, width, 3), colour, np.uint8)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Return the colour `share` (0..1) of the way from first to second."""
    r, g, b = (round(a + (c - a) * share) for a, c in zip(first, second, strict=True))
    return r, g, b


@lru_cache(maxsize=1)
def _typeface() -> Any:
    """Return OpenCV 5's TrueType font, or None with OpenCV 4 (Ubuntu's package), where Pillow's font is used."""
    return cv2.FontFace("sans") if hasattr(cv2, "FontFace") else None


@lru_cache(maxsize=32)
def _pillow_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _in_pillows_font(text: str) -> str:
    """Replace em dashes, which Pillow's default font lacks."""
    return text.replace("—", "-")


def printable(text: str) -> str:
    """Return `text` on one line without control characters; text of topics and language models is arbitrary."""
    return " ".join("".join(c if unicodedata.category(c)[0] != "C" else " " for c in text).split())


@lru_cache(maxsize=4096)
def text_width(text: str, size: int, weight: int = REGULAR) -> int:
    """Return the width of `text` on one line, pixels."""
    face = _typeface()
    if face is None:
        return int(np.ceil(_pillow_font(size).getlength(_in_pillows_font(text))))
    return int(cv2.getTextSize((0, 0), text, (0, 0), face, size, weight)[2]) if text else 0


def draw_text(
    image: np.ndarray,
    text: str,
    at: tuple[int, int],
    size: int = 15,
    colour: Colour = TEXT,
    weight: int = REGULAR,
    align: str = "left",
) -> int:
    """Draw one line with its baseline at `at`; align is left, centre or right. Returns its width in pixels."""
    width = text_width(text, size, weight)
    x = at[0] - {"left": 0, "centre": width // 2, "right": width}[align]
    face = _typeface()
    if face is None:
        _draw_with_pillow(image, text, (x, at[1]), size, colour)
    elif text:
        cv2.putText(image, text, (x, at[1]), colour, face, size, weight)
    return width


def _draw_with_pillow(image: np.ndarray, text: str, at: tuple[int, int], size: int, colour: Colour) -> None:
    place = Rect(max(at[0], 0), max(at[1] - size, 0), text_width(text, size) + 4, size * 2)
    pixels = place.of(image)
    if pixels.size:
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        origin = (at[0] - place.x, at[1] - place.y)
        ImageDraw.Draw(picture).text(origin, _in_pillows_font(text), font=_pillow_font(size), fill=colour, anchor="ls")
        pixels[:] = np.asarray(picture)


def fitted(text: str, width: int, size: int, weight: int = REGULAR) -> str:
    """Return `text` on one line, truncated with an ellipsis if wider than `width` pixels."""
    text = printable(text)
    if text_width(text, size, weight) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if text_width(text[:middle].rstrip() + "...", size, weight) <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + "..."


def wrapped(text: str, width: int, size: int, lines: int) -> list[str]:
    """Break `text` at spaces into at most `lines` lines of `width` pixels; the last one is truncated if too long."""
    words = printable(text[:4000]).split()
    out: list[str] = []
    while words and len(out) < lines - 1:
        count = 1
        while count < len(words) and text_width(" ".join(words[: count + 1]), size) <= width:
            count += 1
        out.append(fitted(" ".join(words[:count]), width, size))
        words = words[count:]
    return [*out, fitted(" ".join(words), width, size)] if words else out


def rounded(image: np.ndarray, rect: Rect, colour: Colour, radius: int = 8, thickness: int = -1) -> None:
    """Draw a rectangle with rounded corners, filled if thickness is negative."""
    x, y, w, h = rect
    radius = max(1, min(radius, w // 2, h // 2))
    corners = ((x + w - 1 - radius, y + radius, 270), (x + w - 1 - radius, y + h - 1 - radius, 0))
    corners += ((x + radius, y + h - 1 - radius, 90), (x + radius, y + radius, 180))
    arcs = [cv2.ellipse2Poly((u, v), (radius, radius), 0, start, start + 90, 15) for u, v, start in corners]
    outline = np.concatenate(arcs)
    if thickness < 0:
        cv2.fillPoly(image, [outline], colour, cv2.LINE_AA)
    else:
        cv2.polylines(image, [outline], True, colour, thickness, cv2.LINE_AA)


def veil(image: np.ndarray, rect: Rect, colour: Colour, share: float) -> None:
    """Blend a colour over a rectangle with opacity `share` (0..1)."""
    pixels = rect.of(image)
    pixels[:] = (pixels * (1 - share) + np.array(colour) * share).astype(np.uint8)


def plated(image: np.ndarray, text: str, at: tuple[int, int], size: int = 12, colour: Colour = TEXT) -> None:
    """Draw small centred text on a dark plate, readable over any background; `at` is the centre of the plate."""
    width, height = text_width(text, size, MEDIUM) + 10, size + 7
    x, y = at[0] - width // 2, at[1] - height // 2
    place = Rect(max(x, 0), max(y, 0), min(width, image.shape[1] - max(x, 0)), min(height, image.shape[0] - max(y, 0)))
    if place.width > 0 and place.height > 0:
        veil(image, place, SUNKEN, 0.72)
        draw_text(image, text, (at[0], at[1] + round(size * 0.37)), size, colour, MEDIUM, "centre")


def panel(image: np.ndarray, rect: Rect, title: str, note: str = "", title_height: int = 34) -> Rect:
    """Draw a card with a title on the left and a muted note on the right. Returns the rectangle inside it."""
    rounded(image, rect, PANEL, 10)
    baseline = rect.y + title_height - 11
    width = draw_text(image, title, (rect.x + 14, baseline), 15, TEXT, MEDIUM)
    room = rect.width - width - 44
    if note and room > 40:
        draw_text(image, fitted(note, room, 13), (rect.x + rect.width - 14, baseline), 13, MUTED, align="right")
    return Rect(rect.x + 6, rect.y + title_height, rect.width - 12, rect.height - title_height - 6)


def hatch(image: np.ndarray, rect: Rect, colour: Colour, gap: int = 18) -> None:
    """Draw diagonal stripes, which mark a rectangle without content."""
    pixels = rect.of(image)
    for start in range(-rect.height, rect.width, gap):
        cv2.line(pixels, (start, rect.height), (start + rect.height, 0), colour, 1, cv2.LINE_AA)
