"""Evaluation: metrics/, protocols/, tasks/ and report/; nuscenes/ and world/ supply the data."""
