"""Presets, the factory that builds stages from them, and compiled runtimes."""
