"""Reading, writing, playback and conversion of ROS 2 bags without ROS."""
