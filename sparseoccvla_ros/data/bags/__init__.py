"""ROS 2 bags: reading, writing, playing back and converting them, without ROS."""
