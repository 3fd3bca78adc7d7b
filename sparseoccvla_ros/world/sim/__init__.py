"""Closed-loop simulator of the world: 10 Hz steps in which all actors react to the ego's actual pose.

vehicle.py: the ego's kinematic bicycle model; traffic.py: all other actors; simulator.py: one drive. Equal actions
give bit-identical worlds.
"""
