"""Train a network: batches, augmentation, losses, the training loop."""
