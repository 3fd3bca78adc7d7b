"""What every stage shares: dataclasses of the messages, geometry, classes, voxel grids, errors."""
