"""Networks, their checkpoints and the store of models."""
