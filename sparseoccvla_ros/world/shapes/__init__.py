"""Primitive solids and the objects composed of them."""
