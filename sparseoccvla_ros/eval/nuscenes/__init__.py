"""Evaluation of the whole chain on nuScenes scenes, by published protocols.

drives.py: a scene as a Drive for the tasks; priors.py: statistics of the training split for the baselines;
evaluation.py: available tasks and the evaluation. The tasks are in eval/tasks.
"""
