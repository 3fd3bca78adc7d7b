"""Open-loop planning protocols of published papers: planning.py the metrics, grids.py their grid arithmetic."""
