"""Images to sparse occupancy queries: the second stage."""
