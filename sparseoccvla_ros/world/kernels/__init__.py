"""Loops over rays, pixels and voxels.

All arithmetic is in the precision of the arguments (float32 in pictures and labels), so constants are written F(0.5): a
bare 0.5 would make numba work in float64.
"""

import numpy as np

F = np.float32
