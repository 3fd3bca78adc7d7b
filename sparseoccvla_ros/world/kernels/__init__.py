"""Compiled loops over rays, pixels and voxels.

All arithmetic is in the precision of the arguments (float32 for images and labels). Constants are written F(0.5),
because a bare 0.5 would make numba compute in float64.
"""

import numpy as np

F = np.float32
