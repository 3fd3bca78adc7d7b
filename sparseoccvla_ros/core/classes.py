"""Occ3D-nuScenes classes, palette and grid (Tian et al., Occ3D, NeurIPS 2023).

Class names, colours and groups are defined here only.
"""

from __future__ import annotations

import numpy as np

CLASSES: tuple[str, ...] = (
    "others",
    "barrier",
    "bicycle",
    "bus",
    "car",
    "construction_vehicle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "trailer",
    "truck",
    "driveable_surface",
    "other_flat",
    "sidewalk",
    "terrain",
    "manmade",
    "vegetation",
)
"""The 17 occupied classes; the index is the label in every array, cloud and file."""

NUM_CLASSES = len(CLASSES)
FREE = NUM_CLASSES
"""Label of free space in dense grids (17); never present in sparse voxels."""

LABEL: dict[str, int] = {name: index for index, name in enumerate(CLASSES)}

DRIVABLE: tuple[int, ...] = (LABEL["driveable_surface"],)
FLAT: tuple[int, ...] = tuple(LABEL[n] for n in ("driveable_surface", "other_flat", "sidewalk", "terrain"))
"""Ground classes; a vehicle on them is not in collision."""
MOVABLE: tuple[int, ...] = tuple(range(LABEL["bicycle"], LABEL["truck"] + 1))
"""Classes that can move by themselves or be moved (labels 2..10)."""
OBSTACLES: tuple[int, ...] = tuple(i for i in range(NUM_CLASSES) if i not in FLAT)

PALETTE = np.array(
    [
        (90, 90, 90),
        (255, 120, 50),
        (255, 192, 203),
        (255, 255, 0),
        (0, 150, 245),
        (0, 255, 255),
        (200, 180, 0),
        (255, 0, 0),
        (255, 240, 150),
        (135, 60, 0),
        (160, 32, 240),
        (255, 0, 255),
        (139, 137, 137),
        (75, 0, 75),
        (150, 240, 80),
        (230, 230, 250),
        (0, 175, 0),
    ],
    dtype=np.uint8,
)
"""uint8 [17, 3], RGB per class: the usual colours of occupancy papers, for comparable pictures."""
PALETTE.setflags(write=False)

LIVE_GROUPS: tuple[tuple[str, tuple[int, int, int], tuple[str, ...]], ...] = (
    ("vehicle", (238, 122, 40), ("car", "bus", "truck", "trailer", "construction_vehicle")),
    ("two-wheeler", (250, 184, 66), ("bicycle", "motorcycle")),
    ("pedestrian", (240, 74, 66), ("pedestrian",)),
    ("barrier, cone", (222, 200, 116), ("barrier", "traffic_cone")),
    ("road", (66, 70, 78), ("driveable_surface",)),
    ("sidewalk", (108, 102, 116), ("sidewalk", "other_flat")),
    ("terrain", (84, 98, 62), ("terrain",)),
    ("building", (172, 177, 184), ("manmade",)),
    ("vegetation", (66, 130, 72), ("vegetation",)),
    ("other", (128, 128, 128), ("others",)),
)
"""Colours of the live view as (name, RGB, classes): muted ground, warm road users and barriers."""


def _live_palette() -> np.ndarray:
    out = np.zeros_like(PALETTE)
    for _, colour, names in LIVE_GROUPS:
        out[[LABEL[name] for name in names]] = colour
    out.setflags(write=False)
    return out


PALETTES: dict[str, np.ndarray] = {"live": _live_palette(), "literature": PALETTE}
"""Palettes by name: uint8 [17, 3], RGB per class."""


def legend(palette: str) -> list[tuple[str, tuple[int, int, int]]]:
    """Return name and RGB of every colour in a palette."""
    if palette == "live":
        return [(name, colour) for name, colour, _ in LIVE_GROUPS]
    return [
        (name.replace("_", " "), (int(r), int(g), int(b))) for name, (r, g, b) in zip(CLASSES, PALETTE, strict=True)
    ]


CAMERAS: tuple[str, ...] = (
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_FRONT_LEFT",
    "CAM_BACK",
    "CAM_BACK_LEFT",
    "CAM_BACK_RIGHT",
)
"""Camera order of nuScenes info files; the encoder identifies cameras by name and sorts them in this order."""
