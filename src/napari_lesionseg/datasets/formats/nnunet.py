"""nnU-Net v2: ``imagesTr``, ``labelsTr``, ``dataset.json`` and the split.

Images and labels are PNG, labels are class indices without a gap. Training and validation go to
``imagesTr``, the test images to ``imagesTs`` with their labels in ``labelsTs``. ``splits_final.json``
belongs into ``nnUNet_preprocessed/<dataset>/`` before the training starts: without it nnU-Net splits by
image and patients leak.

F. Isensee et al., "nnU-Net", Nature Methods 18, 2021; documentation/dataset_format.md of nnU-Net 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from napari_lesionseg.datasets.formats.base import (
    Format,
    Placed,
    Plan,
    put_facts,
    put_image,
    put_json,
    put_mask,
)
from napari_lesionseg.datasets.splits import group_items, split_folds
from napari_lesionseg.types import IGNORED

FOLDS = 5


def write(plan: Plan) -> Iterator[Placed]:
    """Write ``Dataset<number>_<title>/``.

    Parameters
    ----------
    plan : Plan
        What to write; `config.dataset_id` is the number.

    Yields
    ------
    Placed
        After each record.
    """
    title = re.sub(r"[^A-Za-z0-9]+", "", plan.info.title.title()) or "Lesions"
    folder = plan.folder / f"Dataset{plan.config.dataset_id:03d}_{title}"
    put_facts(plan, plan.folder / "metadata.csv")
    ignore = len(plan.classes)  # nnU-Net wants the highest value
    has_ignored = False
    for part, records in plan.parts().items():
        ending = "Ts" if part == "test" else "Tr"
        for record in records:
            pixels = plan.load(record)
            image = put_image(
                plan, record, pixels.image, folder / f"images{ending}" / f"{record.name}_0000", png=True
            )
            has_ignored = has_ignored or pixels.has_ignored
            labels = np.where(pixels.labels == IGNORED, ignore, pixels.labels).astype(np.uint8)
            path = folder / f"labels{ending}" / f"{record.name}.png"
            mask = put_mask(plan, labels, path, index=True)
            yield Placed(record.name, image, mask)
    put_json(folder / "dataset.json", _description(plan, ignore=ignore if has_ignored else None))
    put_json(folder / "splits_final.json", _splits(plan))


def _description(plan: Plan, ignore: int | None) -> dict[str, object]:
    """Return the contents of ``dataset.json``."""
    return {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": _label_names(plan.classes) | ({} if ignore is None else {"ignore": ignore}),
        "numTraining": sum(record.part != "test" for record in plan.records),
        "file_ending": ".png",
        "name": plan.info.title,
        "description": plan.info.description,
        "license": plan.info.license,
        "citation": plan.info.citation,
    }


def _label_names(classes: Sequence[str]) -> dict[str, int]:
    """Return every index by a name of its own; nnU-Net reserves "background" for 0 and "ignore"."""
    taken = {"background": 0}
    for index, name in enumerate(classes[1:], 1):
        free = name if name not in taken and name != "ignore" else f"{name} {index}"
        taken[free] = index
    return taken


def _splits(plan: Plan) -> list[dict[str, list[str]]]:
    """Return one fold from training and validation, or folds by patient where there is no validation part."""
    parts = plan.parts()
    names = {part: [record.name for record in records] for part, records in parts.items()}
    if names.get("val"):
        return [{"train": names.get("train", []), "val": names["val"]}]
    items = [record.split_item() for record in parts.get("train", [])]
    if len(group_items(items)[0]) < FOLDS:
        return [{"train": names.get("train", []), "val": []}]
    folds = split_folds(items, FOLDS, seed=plan.config.seed)
    return [
        {
            "train": [name for name, fold in folds.items() if fold != number],
            "val": [name for name, fold in folds.items() if fold == number],
        }
        for number in range(FOLDS)
    ]


FORMATS = (Format("nnunet", "nnU-Net", write=write, keeps_ignored=True, pseudonym="lesion_{:05d}"),)
