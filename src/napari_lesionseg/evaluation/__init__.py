"""Metrics, calibration and quality estimates."""
