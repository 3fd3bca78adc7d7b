"""Queries to language, forecasts and scores: the third stage."""
