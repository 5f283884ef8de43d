"""One mask, whatever program wrote it, is read alike by all that read masks, or refused by all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from napari_lesionseg.datasets.export import export_dataset
from napari_lesionseg.datasets.formats import ExportConfig
from napari_lesionseg.datasets.import_ import import_dataset, read_dataset
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.io.images import read_mask
from napari_lesionseg.study.datasets import import_annotations
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import IGNORED, LabelImage

ROWS, COLUMNS = np.ogrid[:60, :80]
LESION = (ROWS - 30) ** 2 + (COLUMNS - 36) ** 2 < 18**2
BORDER = ((ROWS - 30) ** 2 + (COLUMNS - 36) ** 2 < 22**2) & ~LESION
VOID = np.where(BORDER, IGNORED, LESION)
SOFT = np.asarray(Image.fromarray(LESION * np.uint8(255)).filter(ImageFilter.BoxBlur(1)))
PHOTO = np.random.default_rng(0).integers(60, 220, (60, 80, 3)).astype(np.uint8)
VOC = {0: (0, 0, 0), 1: (128, 0, 0), 255: (224, 224, 192)}


def mixed(lesion: tuple[int, ...], around: tuple[int, ...], alpha: np.ndarray) -> Image.Image:
    share = alpha[..., None] / 255
    return Image.fromarray(np.rint(share * lesion + (1 - share) * np.array(around)).astype(np.uint8))


def indexed(values: np.ndarray, colors: dict[int, tuple[int, int, int]]) -> Image.Image:
    image = Image.frombytes("P", (80, 60), values.astype(np.uint8).tobytes())
    image.putpalette([level for index in range(256) for level in colors.get(index, (9, 9, 9))])
    return image


HARD = LESION * np.uint8(255)
MASKS = {
    "white.png": Image.fromarray(HARD),
    "index.png": Image.fromarray(LESION.astype(np.uint8)),
    "inverted.png": Image.fromarray(255 - HARD),
    "soft.png": Image.fromarray(SOFT),
    "one bit.png": Image.fromarray(LESION),
    "16 bits.png": Image.fromarray(LESION.astype(np.uint16) * 65535),
    "soft 16 bits.png": Image.fromarray(SOFT.astype(np.uint16) * 257),
    "probability.tif": Image.fromarray(SOFT.astype(np.float32) / 255),
    "lossy.jpg": Image.fromarray(HARD),
    "red.png": mixed((255, 0, 0), (0, 0, 0), SOFT),
    "red on white.png": mixed((255, 0, 0), (255, 255, 255), SOFT),
    "lossy red.jpg": mixed((255, 0, 0), (0, 0, 0), HARD),
    "lossy red on white.jpg": mixed((255, 0, 0), (255, 255, 255), HARD),
    "lossy dark blue.jpg": mixed((0, 0, 120), (0, 0, 0), HARD),
    "overlay.png": Image.fromarray(PHOTO // 2 + mixed((120, 0, 0), (0, 0, 0), HARD)),
    "alpha.png": mixed((255, 255, 255, 255), (255, 255, 255, 0), HARD),
    "soft alpha.png": mixed((255, 0, 0, 255), (255, 0, 0, 0), SOFT),
    "holes.png": mixed((255, 255, 255, 0), (0, 0, 0, 255), HARD),
    "palette.png": indexed(LESION, {0: (0, 0, 0), 1: (255, 0, 0)}),
    "turned palette.png": indexed(~LESION, {0: (255, 0, 0), 1: (0, 0, 0)}),
    "palette on white.png": indexed(~LESION, {0: (255, 0, 0), 1: (255, 255, 255)}),
    "voc.png": indexed(VOID, VOC),
    "ignored.png": Image.fromarray(VOID.astype(np.uint8)),
    "all.png": Image.fromarray(np.full((60, 80), 255, np.uint8)),
    "gray area.png": Image.fromarray(np.where(BORDER, 128, 255 * LESION).astype(np.uint8)),
}

REFUSED = {
    "soft 16 bits.png",
    "red on white.png",
    "lossy red on white.jpg",
    "lossy dark blue.jpg",
    "overlay.png",
    "holes.png",
    "palette on white.png",
    "gray area.png",
}


def lesion_of(labels: LabelImage) -> np.ndarray:
    return (labels > 0) & (labels != IGNORED)


@pytest.mark.parametrize("name", MASKS)
def test_all_readers_agree(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "set"
    mask = folder / "masks" / f"p{Path(name).suffix}"
    for place in (mask.parent, folder / "images"):
        place.mkdir(parents=True)
    Image.fromarray(PHOTO).save(folder / "images" / "p.png")
    options = {"quality": 80} if name.endswith("jpg") else {}
    MASKS[name].convert("RGB" if name.endswith("jpg") else None).save(mask, **options)
    try:
        expected = lesion_of(read_mask(mask))
    except LesionSegError:
        expected = None
    assert (expected is None) == (name in REFUSED)
    dataset = read_dataset(folder)
    assert (dataset.records[0].mask is None) == (expected is None)
    assert bool(dataset.problems) == (expected is None)
    *_, report = import_dataset(folder, tmp_path / "in")
    assert report.left_out == (expected is None)
    with Study.create(tmp_path / "study", "am", paths=folder / "images") as study:
        assert import_annotations(study, dataset.records) == (expected is not None)
        taken = study.read_mask(next(iter(study.state.images)))
    if expected is None:
        assert taken is None
        return
    assert taken is not None
    read = {"study": taken, "import": read_mask(tmp_path / "in/masks/p.png")}
    for convention in ("isic", "coco", "nnunet"):
        out = tmp_path / convention
        list(export_dataset(dataset.records, out, convention, config=ExportConfig(unapproved="include")))
        read[convention] = read_dataset(out).records[0].load().labels
    assert [place for place, labels in read.items() if (lesion_of(labels) != expected).any()] == []
