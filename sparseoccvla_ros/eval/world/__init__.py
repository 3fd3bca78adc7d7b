"""Open-loop evaluation of the whole chain on held-out drives of the synthetic world.

drives.py: inputs and ground truth of a seed; priors.py: statistics of training seeds for the baselines; seeds.py:
checks of the evaluated seeds; evaluation.py: the evaluation. The tasks are in eval/tasks.
"""
