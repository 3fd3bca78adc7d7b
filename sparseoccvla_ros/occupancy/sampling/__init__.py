"""Sampling of image features at 3-D points, in three implementations of one definition."""
