"""What a vehicle's cameras give to the encoder."""
