"""Start a graph of nodes, watch it, and collect what came out; demo, bench and tests use it."""
