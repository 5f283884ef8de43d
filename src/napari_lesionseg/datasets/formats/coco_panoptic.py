"""COCO panoptic: every pixel belongs to one numbered segment, written as the colors of a PNG.

A segment's number is R + 256 G + 65536 B, 0 is what nobody outlined; https://cocodataset.org/#format-data.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from napari_lesionseg.datasets.formats.base import Format, Placed, Plan, put_image
from napari_lesionseg.datasets.formats.coco import (
    file_head,
    image_entry,
    objects_of,
    put_json,
    segment_entry,
)
from napari_lesionseg.datasets.records import Pixels
from napari_lesionseg.io.images import write_image
from napari_lesionseg.types import ByteImage


def write(plan: Plan) -> Iterator[Placed]:
    """Write ``images/<part>/``, ``annotations/panoptic_<part>/`` and ``annotations/panoptic_<part>.json``.

    Parameters
    ----------
    plan : Plan
        What to write.

    Yields
    ------
    Placed
        After each record.
    """
    number = 0
    head = file_head(plan)
    head["categories"] = [category | {"isthing": 1} for category in head["categories"]]
    for part, records in plan.parts().items():
        folder = plan.folder / "annotations" / f"panoptic_{part}"
        folder.mkdir(parents=True)
        images, annotations = [], []
        for record in records:
            pixels = plan.load(record)
            placed = put_image(plan, record, pixels.image, plan.folder / "images" / part / record.name)
            number += 1
            images.append(image_entry(number, placed, record, pixels.labels.shape))
            colors, segments = segments_of(pixels, split=plan.config.split_parts)
            mask = folder / f"{record.name}.png"
            write_image(mask, colors, durable=False)
            annotations.append({"image_id": number, "file_name": mask.name, "segments_info": segments})
            yield Placed(record.name, placed, mask.relative_to(plan.folder).as_posix())
        put_json(folder.with_suffix(".json"), head | {"images": images, "annotations": annotations})


def segments_of(pixels: Pixels, *, split: bool) -> tuple[ByteImage, list[dict[str, Any]]]:
    """Give the objects of one image their numbers.

    Parameters
    ----------
    pixels : Pixels
        Of one record.
    split : bool
        As for `coco.objects_of`.

    Returns
    -------
    colors : ndarray
        (H, W, 3) uint8, the numbers as colors.
    segments : list of dict
        COCO's ``segments_info``.
    """
    numbers = np.zeros(pixels.labels.shape, np.uint32)
    segments = []
    for number, (mask, category) in enumerate(objects_of(pixels, split=split), 1):
        numbers[mask > 0] = number
        segments.append(segment_entry(number, mask, category))
    return np.stack([numbers & 255, numbers >> 8 & 255, numbers >> 16], axis=-1).astype(np.uint8), segments


FORMAT = Format("coco-panoptic", "COCO panoptic", write=write)
