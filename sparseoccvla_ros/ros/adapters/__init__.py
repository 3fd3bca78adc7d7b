"""Adapters between the stack and other software: Autoware, Nav2, trackers, web pages."""
