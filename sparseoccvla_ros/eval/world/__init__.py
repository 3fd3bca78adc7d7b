"""The whole chain on drives of the synthetic world that nothing was trained on.

drives.py truth and on-line inputs of a seed, chain.py the nodes' work without nodes, known.py what training seeds tell
the baselines, intervals.py bootstrap over scenes, tables.py tables for page and terminal; occupancy.py, forecast.py,
planning.py and language.py one task each; evaluation.py the loop, page.py the page with everything.
"""
