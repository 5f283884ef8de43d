"""Everything that touches napari's private API."""
