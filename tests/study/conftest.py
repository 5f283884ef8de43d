"""Small studies for the tests of the study."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_lesionseg.study.events import MaskEvent
from napari_lesionseg.study.study import Study

# The killer test's worker runs as a script, so what it shares with the tests lies beside them.
sys.path.insert(0, str(Path(__file__).parent))

SHAPE = (12, 17)
# A file system in memory, where there is one: there it costs nothing to force what is written to the disk.
_SHARED_MEMORY = "/dev/shm"  # noqa: S108
MEMORY = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None


def noise(seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def revision_path(study: Study, event: MaskEvent) -> Path:
    """Return the path of the mask of an event."""
    return study.folder / "masks" / event.image_id / f"{event.revision}.png"


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder for tests that save thousands of times."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


@pytest.fixture
def make_images(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder of small images that all differ."""

    def make(count: int = 3, name: str = "photos", suffix: str = ".png") -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        for number in range(1, count + 1):
            Image.fromarray(noise(number)).save(folder / f"IMD{number}{suffix}")
        return folder

    return make


@pytest.fixture
def study(tmp_path: Path, make_images: Callable[..., Path]) -> Study:
    """A study of the images IMD1, IMD2 and IMD3, which stay in their folder."""
    return Study.create(tmp_path / "study", "am", paths=make_images())


@pytest.fixture
def images(study: Study) -> list[str]:
    return list(study.state.images)


@pytest.fixture
def outline() -> np.ndarray:
    """An outline that fits the images."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:8, 4:12] = 1
    return labels
