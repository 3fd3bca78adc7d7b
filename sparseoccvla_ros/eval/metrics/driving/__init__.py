"""Driving scores by their public definitions: NAVSIM PDMS and EPDMS, Bench2Drive, HUGSIM, AlpaSim, nuPlan.

Conventions: global planar frame, metres, radians counter-clockwise; poses are of the rear axle; a state is [11] =
x, y, heading, vx, vy, ax, ay (vehicle axes, at the rear axle), steering angle, steering rate, yaw rate, yaw
acceleration; 0.1 s per step.
"""
