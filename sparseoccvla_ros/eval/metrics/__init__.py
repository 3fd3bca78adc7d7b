"""Measures, each by the public definition it names."""
