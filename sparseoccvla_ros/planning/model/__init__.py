"""The planner's torch modules."""
