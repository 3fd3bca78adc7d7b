"""Open-loop evaluation of plans.

samples.py what is evaluated, protocols.py the five public metrics, baselines.py and ego_mlp.py what to beat,
ablations.py what the planner is deprived of, measures.py road and comfort, evaluate.py the loop and the CSV file,
report.py tables with intervals. grids.py holds the pixel arithmetic of the protocols.
"""
