"""Start the graph of nodes, monitor it and collect its outputs; used by demo, bench and tests."""
