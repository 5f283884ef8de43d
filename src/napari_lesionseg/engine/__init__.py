"""What is done with a network: inference, clicks, training, measuring."""
