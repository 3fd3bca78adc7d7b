"""Closed loop in the synthetic world: who drives, what happens, and the field's scores of it.

road_map.py the world's surfaces as the scores name them, expert.py the privileged planner, policies.py who can drive,
rollout.py one drive, scores.py its scores.
"""
