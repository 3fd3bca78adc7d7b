"""Fault injection: message faults between source and nodes, the storm, and fuzzers of every decoder."""
