"""Annotate a study image by image."""
