"""Ground truth of a rendered scene."""
