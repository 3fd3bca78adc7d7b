"""cv_bridge for encodings outside the built-in ones, if it is installed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sparseoccvla_ros.camera_sync.images import RawImage

from .messages import block


def cv_bridge_fallback() -> Callable[[RawImage], np.ndarray] | None:
    """Return a converter from any cv_bridge encoding to uint8 [H, W, 3] RGB; None if cv_bridge is not installed."""
    try:
        from cv_bridge import CvBridge
    except ImportError:
        return None
    from sensor_msgs.msg import Image

    bridge = CvBridge()

    def convert(image: RawImage) -> np.ndarray:
        message = Image(
            height=image.height,
            width=image.width,
            step=image.step,
            encoding=image.encoding,
            is_bigendian=image.is_bigendian,
            data=block(np.frombuffer(image.data, np.uint8)),
        )
        return np.asarray(bridge.imgmsg_to_cv2(message, "rgb8"))

    return convert
