"""Between the stack and what stands beside it: Autoware, trackers, pages."""
