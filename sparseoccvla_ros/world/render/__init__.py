"""Images of a scene: rays, surfaces, shadows, weather, cameras."""
