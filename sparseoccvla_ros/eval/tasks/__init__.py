"""What an evaluation of drives consists of, whichever data set they come from.

drive.py what is asked of a drive, chain.py the nodes' work without nodes, occupancy.py, forecast.py, planning.py and
language.py one task each, known.py what training drives tell the baselines, run.py drives through the chain into the
tasks, in any number of processes; intervals.py bootstrap over scenes, tables.py tables for page and terminal, page.py
the page with everything.
"""
