"""Moving agents: vehicles, cyclists and pedestrians."""
