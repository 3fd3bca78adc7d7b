"""Closed-loop evaluation in the synthetic world: policies, drives and their published benchmark scores.

road_map.py: map surfaces as the metrics need them; expert.py: the privileged planner; policies.py: the policies that
can drive; rollout.py: one drive; scores.py: its scores.
"""
