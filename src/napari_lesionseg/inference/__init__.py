"""Run a network: devices, predictions, clicks, post-processing, tiles."""
