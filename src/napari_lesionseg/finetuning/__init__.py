"""Adapt a model to an annotator's corrected images, and decide whether it became better."""
