"""The first stage: synchronises camera images and ego pose to one stamp."""
