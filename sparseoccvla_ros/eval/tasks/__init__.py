"""What an evaluation of drives consists of, whichever data set they come from.

drive.py what is asked of a drive; occupancy.py, forecast.py, planning.py and language.py one task each (captions.py
scores descriptions); priors.py what training drives tell the baselines; evaluator.py drives through the pipeline into
the tasks, in any number of processes. Open-loop planning by itself: planning_samples.py what is evaluated,
baselines.py and ego_mlp.py what to beat, ablations.py what the planner is deprived of, planning_loop.py the loop and
its CSV file.
"""
