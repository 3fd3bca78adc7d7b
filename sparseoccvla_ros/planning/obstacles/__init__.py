"""What the plan must keep clear of: occupancy as a picture, as tracked obstacles and as a collision map, red lights."""
