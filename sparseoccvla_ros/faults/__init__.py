"""What may go wrong, on purpose: faults between source and nodes, the storm, and the fuzzers of every decoder."""
