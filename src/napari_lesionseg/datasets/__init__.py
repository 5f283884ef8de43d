"""Datasets in and out: formats, export, import, de-identification, splits."""
