"""Metrics, each following the public definition it names."""
