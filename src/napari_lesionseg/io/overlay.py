"""Images with an outline drawn in."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from napari_lesionseg.types import ByteImage, LabelImage

# Okabe and Ito (2008): colors that color-blind people can tell apart; sky blue, orange, green, yellow.
OUTLINE_COLORS = ((86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66))
LINE_SHARE = 1 / 250  # of the shorter side


def draw_outline(image: ByteImage, labels: LabelImage) -> ByteImage:
    """Draw the border of every class into a copy of an image."""
    drawn = image.copy()
    width = max(1, round(min(labels.shape) * LINE_SHARE))
    for index in np.unique(labels[labels > 0]):
        inside = labels == index
        border = inside & ~ndimage.binary_erosion(inside, iterations=width, border_value=1)
        drawn[border] = OUTLINE_COLORS[(int(index) - 1) % len(OUTLINE_COLORS)]
    return drawn
