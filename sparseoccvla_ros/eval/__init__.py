"""Evaluation: metrics/, protocols/, tasks/ and report/; nuscenes/ and world/ are the sources."""
