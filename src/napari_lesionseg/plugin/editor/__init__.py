"""Edit the mask of one image."""
