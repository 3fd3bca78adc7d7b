"""Second stage: camera images to sparse occupancy queries."""
