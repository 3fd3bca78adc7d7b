"""The whole chain on drives of the synthetic world that nothing was trained on.

drives.py truth and on-line inputs of a seed, priors.py what training seeds tell the baselines, seeds.py which seeds may
be judged, evaluation.py all of it. The tasks themselves are in eval/tasks.
"""
