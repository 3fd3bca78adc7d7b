"""Training datasets and augmentation; the sources are in bags/, nuscenes/ and synthetic/."""
