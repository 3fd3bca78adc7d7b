"""Interfaces of the stack to other projects without ROS: AlpaSim's driver contract."""
