"""The stack behind interfaces of other projects that are not ROS: AlpaSim's driver contract."""
