"""Data set conventions, one module each."""
