"""Camera images and vehicle pose brought to one stamp: the first stage."""
