"""Loading, adapting and running language models."""
