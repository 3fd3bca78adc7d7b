"""One file per training stage: what is trained, its loss and its validation."""
