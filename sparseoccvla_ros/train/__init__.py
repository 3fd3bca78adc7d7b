"""Staged training: the stages, the training loop, checkpoints and logs."""
