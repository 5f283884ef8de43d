"""Benchmarks that asv tracks; the other scripts measure what the documentation reports."""
