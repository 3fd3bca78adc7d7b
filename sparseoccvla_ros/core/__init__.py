"""Shared by all stages: message dataclasses, geometry, semantic classes, voxel grids, errors."""
