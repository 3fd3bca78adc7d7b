"""Sampling of image features at 3-D points, in three equivalent implementations (see `views`)."""
