"""Measurements: latency, throughput, delivery, endurance, and their history."""
