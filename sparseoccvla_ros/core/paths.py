"""Locations of the package's files, in a source tree or after `colcon build`."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import InvalidInput

PACKAGE = "sparseoccvla_ros"


def _root() -> Path:
    """Return the root of the source tree, or share/sparseoccvla_ros of the install this module runs from."""
    for parent in Path(__file__).resolve().parents:
        if (parent / "package.xml").is_file():
            return parent
        if (parent / "share" / PACKAGE / "package.xml").is_file():
            return parent / "share" / PACKAGE
    raise FileNotFoundError(f"no package.xml of {PACKAGE} above {__file__}")


def share(*parts: str) -> Path:
    """Return the path of an installed file, e.g. share("config", "params.yaml"). It need not exist."""
    return _root().joinpath(*parts)


def bundled_bag() -> Path:
    """Return the bag bundled with the package; InvalidInput if it is missing."""
    bag = share("bags", "world_demo")
    if not bag.is_dir():
        raise InvalidInput("bag", f"the bundled bag {bag} is missing; bags/README.md tells how it is made")
    return bag


def message_folder() -> Path:
    """Return the folder of the .msg files of sparseoccvla_msgs; FileNotFoundError if the package is not found."""
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    candidates = [share("ros2_ws", "src", "sparseoccvla_msgs", "msg")]
    candidates += [p / "share" / "sparseoccvla_msgs" / "msg" for p in prefixes]
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise FileNotFoundError("sparseoccvla_msgs is neither in the source tree nor on AMENT_PREFIX_PATH")


def optional_message_folders() -> list[Path]:
    """Return the folders PACKAGE/msg of other stacks' messages, which are published only if installed."""
    return sorted(share("compat_optional").glob("*/msg"))


def cache_folder() -> Path:
    """Return the folder for converted and built files: $SPARSEOCCVLA_CACHE, else the user's cache folder."""
    explicit = os.environ.get("SPARSEOCCVLA_CACHE")
    if explicit:
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / PACKAGE
