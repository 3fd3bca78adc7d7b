"""What an evaluation of drives consists of, whichever data set they come from.

drive.py what is asked of a drive, pipeline.py the nodes' work without nodes, occupancy.py, forecast.py, planning.py and
language.py one task each, priors.py what training drives tell the baselines, evaluator.py drives through the chain into
the tasks, in any number of processes; eval/metrics/intervals.py bootstrap over scenes, eval/report/tables.py tables for
page and terminal, eval/report/page.py the page with everything.
"""
