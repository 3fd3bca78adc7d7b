"""The whole chain on scenes of nuScenes, in the protocols that papers use.

drives.py a scene as the tasks ask for it, priors.py what the training split tells the baselines, evaluation.py what can
be judged and all of it. The tasks themselves are in eval/tasks.
"""
