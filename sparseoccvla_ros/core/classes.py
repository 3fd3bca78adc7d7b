"""Occ3D-nuScenes classes, palette and grid (Tian et al., Occ3D, NeurIPS 2023).

Every room that names, colours or groups a semantic class takes it from here.
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
"""Ground classes: a vehicle may stand on them without a collision."""
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
"""uint8 [17, 3], RGB per class: the colours the occupancy literature uses, so pictures compare."""
PALETTE.setflags(write=False)

CAMERAS: tuple[str, ...] = (
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_FRONT_LEFT",
    "CAM_BACK",
    "CAM_BACK_LEFT",
    "CAM_BACK_RIGHT",
)
"""Camera order of nuScenes info files; cameras are bound by name, this order breaks ties of views."""
