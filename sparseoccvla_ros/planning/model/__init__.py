"""PyTorch modules of the planner."""
