"""Datasets and what is done to their samples; bags/, nuscenes/ and synthetic/ hold the sources."""
