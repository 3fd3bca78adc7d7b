"""SparseOccVLA for ROS 2: sparse occupancy queries as the only bridge between vision and language."""
