"""Queries, voxels and reasoning to a trajectory: the fourth stage."""
