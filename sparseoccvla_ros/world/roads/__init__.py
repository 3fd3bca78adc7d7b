"""Streets and the static objects along them."""
