"""Networks, their checkpoints and the registry of models."""
