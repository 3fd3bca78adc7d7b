"""Frozen networks run once over a dataset; what they give is cached for the later stages."""
