"""Settings of camera synchronisation and image preparation; the defaults are the tiny preset."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from ..core.classes import CAMERAS
from ..core.errors import InvalidInput


class MissingPolicy(StrEnum):
    """How a frame set is handled when a camera has no image for it."""

    STRICT = "strict"
    """Drops the set."""
    HOLD = "hold"
    """Reuses the camera's last image with its own stamp if at most `max_hold` old, else a black one. Marked invalid."""
    BLACK = "black"
    """Uses a black image, marked invalid."""


@dataclass(frozen=True)
class ImageConfig:
    """Size of the prepared images.

    An image is scaled by max(height / native height, width / native width) and cropped to the bottom rows and the
    middle columns: the test-time rule of OPUS (Wang et al., NeurIPS 2024), 900x1600 -> 198x352 -> rows 70..197. For an
    image taller than 16:9, the rule applies to its central 16:9 part.
    """

    height: int = 128
    """Rows of a prepared image."""
    width: int = 352
    """Columns of a prepared image."""

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 8 <= value <= 8192:
                raise InvalidInput(f"image.{name}", f"want 8..8192 pixels, got {value!r}")


@dataclass(frozen=True)
class SyncConfig:
    """Settings for forming frame sets and determining the ego pose. Times are seconds of header stamps."""

    cameras: tuple[str, ...] = CAMERAS
    """Cameras of a frame set, in the order of the arrays; bound by name."""
    reference: str = "CAM_FRONT"
    """Camera whose stamp is the stamp of the set; while it is silent, the first camera of `cameras` that is not."""
    tolerance: float = 0.060
    """Largest spread between the stamps of a set's valid images (nuScenes keyframes spread over 43 ms)."""
    policy: MissingPolicy = MissingPolicy.HOLD
    """What happens when a camera has no image: strict, hold or black."""
    max_hold: float = 0.5
    """Policy `hold`: largest age of a reused image relative to the stamp of the set."""
    patience: float = 0.2
    """A camera without images for this long (longer for slow cameras) is silent, and no set waits for it."""
    queue_depth: int = 10
    """Images kept per camera; at 12 Hz well beyond `patience`."""
    backward_jump: float = 0.5
    """Stamps of a camera that fall back by more than this mean a clock turned back (e.g. a looping bag)."""
    forward_jump: float = 5.0
    """Stamps further ahead of all others than this mean a clock turned forward, or a restarted driver."""
    base_frame: str = "base_link"
    """The ego frame."""
    fixed_frames: tuple[str, ...] = ("map", "odom", "world")
    """Frames in which the ego pose is looked up in tf, in order of preference; empty: odometry only."""
    tf_timeout: float = 0.3
    """How long a complete set waits for tf or odometry to reach its stamps."""
    pending_depth: int = 8
    """Largest number of complete sets waiting for poses."""
    pose_jump: float = 5.0
    """Moving further than this between sets, and than three times what the speed allows, is a relocation [m]."""
    max_speed: float = 70.0
    """Sets with a higher ego speed are dropped, because poses or odometry must be wrong [m/s]."""
    twist_window: float = 0.1
    """Time between the two poses that are differentiated if odometry has no twist."""
    max_twist_age: float = 0.2
    """Largest age of a twist from odometry relative to the stamp of the set."""
    upright_cameras: bool = True
    """Refuse a camera whose image rows do not run downwards in the ego frame (a body frame used as optical frame)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "cameras", tuple(self.cameras))
        object.__setattr__(self, "fixed_frames", tuple(self.fixed_frames))
        try:
            object.__setattr__(self, "policy", MissingPolicy(self.policy))
        except ValueError:
            names = ", ".join(p.value for p in MissingPolicy)
            raise InvalidInput("sync.policy", f"want one of {names}, got {self.policy!r}") from None
        if not self.cameras or len(set(self.cameras)) != len(self.cameras) or not all(self.cameras):
            raise InvalidInput("sync.cameras", f"want distinct names, got {list(self.cameras)}")
        if self.reference not in self.cameras:
            raise InvalidInput("sync.reference", f"{self.reference!r} is not one of {list(self.cameras)}")
        seconds = ("tolerance", "max_hold", "patience", "backward_jump", "forward_jump", "tf_timeout", "twist_window")
        for name in (*seconds, "max_twist_age", "pose_jump", "max_speed"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
                raise InvalidInput(f"sync.{name}", f"want a number >= 0, got {value!r}")
        for name in ("backward_jump", "forward_jump", "twist_window", "pose_jump", "max_speed"):
            if getattr(self, name) == 0:
                raise InvalidInput(f"sync.{name}", "want a number > 0")
        if self.backward_jump <= self.tolerance:
            raise InvalidInput("sync.backward_jump", f"{self.backward_jump} s is no more than the tolerance")
        for name in ("queue_depth", "pending_depth"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1000:
                raise InvalidInput(f"sync.{name}", f"want 1..1000, got {value!r}")
        if not self.base_frame or not all(self.fixed_frames):
            raise InvalidInput("sync.base_frame", "frame names must not be empty")
