"""Evaluation reports: tables for terminal and page, plots, pictures, and the Markdown page."""
