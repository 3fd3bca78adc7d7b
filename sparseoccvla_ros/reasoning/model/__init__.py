"""The trainable torch modules around the language model."""
