"""The annotation study on disk."""
