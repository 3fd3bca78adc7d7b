"""Checks of a vehicle's cameras and of the images prepared for the encoder."""
