"""Segment the images that are open in the viewer."""
