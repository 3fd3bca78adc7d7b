"""Open-loop evaluation of plans on recorded bags."""
