"""Fourth stage: queries, voxels and reasoning to a trajectory."""
