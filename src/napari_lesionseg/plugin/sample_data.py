"""Images drawn by code, with exact masks, for File > Open Sample."""

from __future__ import annotations

from napari_lesionseg.datasets.synthetic import Sample, sample_set
from napari_lesionseg.plugin.napari_layers.layers import outline_colors
from napari_lesionseg.plugin.readers import LayerTuple


def one_image() -> list[LayerTuple]:
    """Return one drawn image and its exact mask, which is hidden at first."""
    return _layers(sample_set(1)[0], visible=True)


def six_images() -> list[LayerTuple]:
    """Return six drawn images of different skins and lesions, each with its exact mask.

    They lie on top of each other, so only the first one is visible.
    """
    return [
        layer for index, sample in enumerate(sample_set(6)) for layer in _layers(sample, visible=index == 0)
    ]


def _layers(sample: Sample, *, visible: bool) -> list[LayerTuple]:
    mask = {"name": f"{sample.name} exact mask", "visible": False, "colormap": outline_colors()}
    return [
        (sample.image, {"name": sample.name, "rgb": True, "visible": visible}, "image"),
        (sample.mask, mask, "labels"),
    ]
