"""The world as a simulator: 10 Hz steps in which everybody reacts to where the ego really is.

vehicle.py the ego's kinematic bicycle, traffic.py everyone else, simulator.py one drive. Equal actions give equal
worlds, bit for bit.
"""
