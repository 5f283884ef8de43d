"""Landmarks in napari: points with names on images, a skeleton, training and prediction."""
