"""Pixel encodings of sensor_msgs (image_encodings.hpp): their layout and conversion to RGB.

YUV and Bayer formats must be converted at full size, before scaling; plain ones are converted afterwards, when there
are fewer pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ..core.errors import InvalidInput

_BAYER = {
    "rggb": cv2.COLOR_BayerRGGB2RGB,
    "bggr": cv2.COLOR_BayerBGGR2RGB,
    "gbrg": cv2.COLOR_BayerGBRG2RGB,
    "grbg": cv2.COLOR_BayerGRBG2RGB,
}


@dataclass(frozen=True)
class Encoding:
    """Layout of an encoding. channels: per pixel; code: OpenCV's conversion to RGB, None for RGB; wide: 16 bits per
    channel, the upper 8 are used; full_size: converted before scaling; chroma_rows: extra rows per two image rows.
    """

    channels: int
    code: int | None
    wide: bool = False
    full_size: bool = False
    chroma_rows: int = 0

    @property
    def bytes_per_pixel(self) -> int:
        """Bytes of a pixel within a row."""
        return self.channels * (2 if self.wide else 1)


_PLAIN: dict[str, tuple[int, int | None]] = {
    "rgb": (3, None),
    "bgr": (3, cv2.COLOR_BGR2RGB),
    "rgba": (4, cv2.COLOR_RGBA2RGB),
    "bgra": (4, cv2.COLOR_BGRA2RGB),
    "mono": (1, cv2.COLOR_GRAY2RGB),
}
ENCODINGS: dict[str, Encoding] = {
    **{f"{name}8": Encoding(*layout) for name, layout in _PLAIN.items()},
    **{f"{name}16": Encoding(*layout, wide=True) for name, layout in _PLAIN.items()},
    "8UC3": Encoding(3, cv2.COLOR_BGR2RGB),  # as cv_bridge sends it
    "8UC1": Encoding(1, cv2.COLOR_GRAY2RGB),
    **{f"bayer_{name}8": Encoding(1, code, full_size=True) for name, code in _BAYER.items()},
    **{f"bayer_{name}16": Encoding(1, code, wide=True, full_size=True) for name, code in _BAYER.items()},
    "uyvy": Encoding(2, cv2.COLOR_YUV2RGB_UYVY, full_size=True),
    "yuv422": Encoding(2, cv2.COLOR_YUV2RGB_UYVY, full_size=True),
    "yuyv": Encoding(2, cv2.COLOR_YUV2RGB_YUY2, full_size=True),
    "yuv422_yuy2": Encoding(2, cv2.COLOR_YUV2RGB_YUY2, full_size=True),
    "nv12": Encoding(1, cv2.COLOR_YUV2RGB_NV12, full_size=True, chroma_rows=1),
    "nv21": Encoding(1, cv2.COLOR_YUV2RGB_NV21, full_size=True, chroma_rows=1),
}
"""Encodings by their name in sensor_msgs/Image; nv12 is not in image_encodings.hpp, but V4L2 drivers send it."""


def pixels(
    data: memoryview, height: int, width: int, step: int, encoding: Encoding, big_endian: bool, field: str
) -> tuple[np.ndarray, int | None]:
    """Return a raw image as uint8 [H, W, C], a view where possible, and the remaining conversion to RGB.

    Raises InvalidInput for a step or length that does not fit, and for odd sizes of formats that share colour
    between neighbouring pixels.
    """
    if step < width * encoding.bytes_per_pixel:
        raise InvalidInput(field, f"step {step} is less than {width} pixels of {encoding.bytes_per_pixel} bytes")
    if encoding.full_size and (width % 2 or (height % 2 and encoding.channels == 1)):
        raise InvalidInput(field, f"{width}x{height} is odd; its encoding shares colour between neighbours")
    rows = height + height // 2 * encoding.chroma_rows
    if len(data) != step * rows:
        raise InvalidInput(field, f"{len(data)} bytes are not {rows} rows of {step}")
    table = np.frombuffer(data, np.uint8).reshape(rows, step)[:, : width * encoding.bytes_per_pixel]
    if encoding.wide:
        table = table[:, 0 if big_endian else 1 :: 2]
    image = table.reshape(rows, width, encoding.channels)
    if not encoding.full_size:
        return image, encoding.code
    return cv2.cvtColor(np.ascontiguousarray(image), encoding.code), None


def mosaic_code(declared: str) -> int | None:
    """Return OpenCV's demosaicing code for a CompressedImage.format, or None if the file is not a Bayer mosaic.

    declared: "ENCODING; CODEC compressed TARGET" (compressed_image_transport): with a Bayer encoding and no colour
    target, the file is the raw mosaic in grey. Raises InvalidInput for an unknown Bayer pattern.
    """
    source, _, rest = declared.partition(";")
    target = rest.partition("compressed")[2].strip()
    pattern = source.strip().removeprefix("bayer_").removesuffix("16").removesuffix("8")
    if not source.strip().startswith("bayer_") or (target and not target.startswith(("bayer_", "mono"))):
        return None
    if pattern not in _BAYER:
        raise InvalidInput("format", f"{source.strip()[:40]!r} is no Bayer pattern that is known")
    return _BAYER[pattern]
