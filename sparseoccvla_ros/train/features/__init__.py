"""Cached outputs of frozen networks over a dataset, and cached labels, for the later training stages."""
