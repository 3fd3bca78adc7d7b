"""Data from the synthetic world: rendered scenes, drives, bags and questions."""
