"""The torch modules around the language model."""
