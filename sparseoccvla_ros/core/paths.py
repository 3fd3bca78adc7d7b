"""Where the package's files lie, in a source tree and after `colcon build` alike."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import InvalidInput

PACKAGE = "sparseoccvla_ros"


def _root() -> Path:
    """The source tree's root, or share/sparseoccvla_ros of the install this module runs from."""
    for parent in Path(__file__).resolve().parents:
        if (parent / "package.xml").is_file():
            return parent
        if (parent / "share" / PACKAGE / "package.xml").is_file():
            return parent / "share" / PACKAGE
    raise FileNotFoundError(f"no package.xml of {PACKAGE} above {__file__}")


def share(*parts: str) -> Path:
    """Path of a file the package installs, as in share("config", "params.yaml"). It need not exist."""
    return _root().joinpath(*parts)


def bundled_bag() -> Path:
    """The bag that comes with the package; InvalidInput where it is missing."""
    bag = share("bags", "world_demo")
    if not bag.is_dir():
        raise InvalidInput("bag", f"the bundled bag {bag} is missing; bags/README.md tells how it is made")
    return bag


def message_folder() -> Path:
    """Folder of the .msg files of sparseoccvla_msgs; FileNotFoundError where the package is nowhere."""
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    candidates = [share("ros2_ws", "src", "sparseoccvla_msgs", "msg")]
    candidates += [p / "share" / "sparseoccvla_msgs" / "msg" for p in prefixes]
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise FileNotFoundError("sparseoccvla_msgs is neither in the source tree nor on AMENT_PREFIX_PATH")


def optional_message_folders() -> list[Path]:
    """Folders PACKAGE/msg of other stacks' messages that are published where they are installed."""
    return sorted(share("compat_optional").glob("*/msg"))


def cache_folder() -> Path:
    """Folder for what is converted or built once: $SPARSEOCCVLA_CACHE, else the user's cache folder."""
    explicit = os.environ.get("SPARSEOCCVLA_CACHE")
    if explicit:
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / PACKAGE
