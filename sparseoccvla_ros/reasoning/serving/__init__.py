"""Answers beside running frames."""
