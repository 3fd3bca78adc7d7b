"""Solids and the objects made of them."""
