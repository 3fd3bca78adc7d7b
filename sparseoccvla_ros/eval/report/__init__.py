"""Tables, plots, pictures and pages of what an evaluation found."""
