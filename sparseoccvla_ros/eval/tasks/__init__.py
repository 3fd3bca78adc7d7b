"""Evaluation tasks on drives of any data set.

drive.py: interface of a drive; occupancy.py, forecast.py, planning.py and language.py: one task each (captions.py
scores descriptions); priors.py: training statistics for the baselines; evaluator.py: runs drives through the pipeline
and the tasks, in any number of processes. Open-loop planning alone: planning_samples.py: its inputs and outputs;
baselines.py and ego_mlp.py: baselines; ablations.py: ablations of the planner's inputs; planning_loop.py: the loop and
its CSV file.
"""
