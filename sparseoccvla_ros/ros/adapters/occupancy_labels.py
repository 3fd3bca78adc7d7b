"""Conversion of occupancy labels of a bag, which are point clouds for RViz and other viewers, to voxels."""

from __future__ import annotations

import numpy as np
from sensor_msgs.msg import PointCloud2, PointField

from sparseoccvla_ros.core.classes import NUM_CLASSES
from sparseoccvla_ros.core.errors import InvalidInput
from sparseoccvla_ros.core.voxels import OCC3D_GRID, SparseVoxels


def voxels_from_cloud(message: PointCloud2) -> SparseVoxels:
    """Convert a cloud of voxel centres, fields x y z (float32, m) and label (uint8), to voxels on the Occ3D grid.

    Raises InvalidInput for any other cloud; points outside the grid or without an occupied class are skipped.
    """
    found = {f.name: (f.datatype, f.offset) for f in message.fields}
    wanted = {"x": "<f4", "y": "<f4", "z": "<f4", "label": "u1"}
    for name, kind in wanted.items():
        if found.get(name, (0, 0))[0] != (PointField.UINT8 if kind == "u1" else PointField.FLOAT32):
            raise InvalidInput("labels", f"want a cloud with {name} as {kind}, got fields {', '.join(found) or 'none'}")
    step, offsets = message.point_step, [found[name][1] for name in wanted]
    if message.is_bigendian or not step or max(o + 4 for o in offsets[:3]) > step or offsets[3] >= step:
        raise InvalidInput("labels", "the fields of the cloud do not fit its points")
    point = np.dtype({"names": [*wanted], "formats": [*wanted.values()], "offsets": offsets, "itemsize": step})
    rows = np.frombuffer(message.data, point, len(message.data) // step)
    index, inside = OCC3D_GRID.index_of(np.column_stack([rows[axis] for axis in "xyz"]))
    inside &= rows["label"] < NUM_CLASSES
    return SparseVoxels(
        index[inside].astype(np.int16), rows["label"][inside], np.ones(inside.sum(), np.float32), OCC3D_GRID
    )
