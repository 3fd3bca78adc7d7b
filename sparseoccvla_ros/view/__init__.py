"""Images of the scene and the live view."""
