"""Staged training: what a stage trains, the loop, its checkpoints and logs."""
