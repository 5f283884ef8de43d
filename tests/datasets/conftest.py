"""Small datasets whose every pixel is known."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from PIL import Image

from napari_lesionseg.datasets.export_checks import Step
from napari_lesionseg.datasets.records import Dataset, Provenance, Record
from napari_lesionseg.types import ByteImage, LabelImage

Last = TypeVar("Last")
CLASSES = ("background", "lesion", "hair")


class Kit:
    """What the tests of the formats have in common."""

    classes = CLASSES

    @staticmethod
    def image(seed: int, shape: tuple[int, int] = (40, 56)) -> ByteImage:
        """Blotches that differ from seed to seed, so that no two count as copies."""
        blotches = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), np.uint8)
        grown = Image.fromarray(blotches).resize(shape[::-1], Image.Resampling.BICUBIC)
        return np.asarray(grown)

    @staticmethod
    def labels(seed: int, shape: tuple[int, int] = (40, 56), classes: int = 2) -> LabelImage:
        """A lesion with a hole and, with three classes, a strip across it."""
        rng = np.random.default_rng(seed)
        row, column = rng.integers(12, 28), rng.integers(16, 40)
        rows, columns = np.ogrid[: shape[0], : shape[1]]
        distance = np.hypot(rows - row, (columns - column) / 1.4)
        labels = ((distance < 11) & (distance > 2)).astype(np.uint8)
        if classes > 2:
            labels[row : row + 3] = 2
        return labels

    @staticmethod
    def record(seed: int, *, classes: int = 2, **facts: object) -> Record:
        """One record made of arrays."""
        known: dict[str, object] = {
            "name": f"case_{seed:02}",
            "image": Kit.image(seed),
            "mask": Kit.labels(seed, classes=classes),
            "classes": CLASSES[:classes],
            "patient": f"P{seed // 2}",
            "diagnosis": "nevus" if seed % 3 else "melanoma",
            "provenance": Provenance("am", "lesionseg-1", 0.125, "approved", "2026-01-02T03:04:05+00:00"),
        }
        return Record(**{**known, **facts})  # type: ignore[arg-type]

    @staticmethod
    def last(steps: Iterator[Step | Last]) -> Last:
        """Run a piece of work to its end and return the result."""
        *_, result = steps
        assert not isinstance(result, Step)
        return result

    @staticmethod
    def digests(dataset: Dataset) -> dict[str, str]:
        """Hash of image, classes and regions of every record."""
        found = {}
        for record in dataset.records:
            pixels = record.load()
            parts = [pixels.image.tobytes(), str(pixels.labels.shape).encode(), pixels.labels.tobytes()]
            parts += [
                part
                for name in sorted(pixels.regions)
                for part in (name.encode(), pixels.regions[name].tobytes())
            ]
            found[record.name] = hashlib.sha256(b"".join(parts)).hexdigest()
        return found

    @staticmethod
    def files(folder: Path) -> list[str]:
        """Relative paths of all files."""
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="session")
def kit() -> type[Kit]:
    return Kit


@pytest.fixture
def records() -> list[Record]:
    return [Kit.record(seed) for seed in range(10)]
