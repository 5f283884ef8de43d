"""Every file of a folder is used, named, or of a kind that is documented as ignored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from napari_lesionseg.datasets.facts import find_tables
from napari_lesionseg.datasets.import_ import read_dataset
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.folders import LITTER
from napari_lesionseg.io.pairing import NO_IMAGES

STEMS = ("p1", "p2", "P2", "arm_lesion", "bl\u00e5", "bla\u030a", "a:b")
ENDINGS = ("", "_mask", "_segmentation", "_MASK", "_lesion", "_overlay", "_superpixels")
IMAGES = st.tuples(
    st.sampled_from(STEMS), st.sampled_from(("", "_overlay")), st.sampled_from((".png", ".jpg"))
)
MASKS = st.tuples(st.sampled_from(STEMS), st.sampled_from(ENDINGS), st.sampled_from((".png", ".bmp")))
KINDS = st.sampled_from(("binary", "index", "ignored", "photo", "damaged", "empty", "dangling", "outside"))
TABLES = {
    "metadata.csv": "name;patient\np1;A\n",
    "facts.tsv": "name\tsex\nq9\tm\n",
    "other.csv": "a,b\n1,2\n",
    "notes.txt": "words\n",
    "report.docx": "x",
    ".hidden.csv": "x",
    "@eaDir/p1.png": "x",
    "images/deep/p7.png": "x",
}


def write(path: Path, kind: str, root: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (12, 16)
    seed = sum(path.name.encode())
    mask = np.zeros(shape, np.uint8)
    mask[2:8, 3:9] = 1
    if kind in ("dangling", "outside"):
        path.symlink_to(root / ("none.png" if kind == "dangling" else "elsewhere.png"))
    elif kind in ("damaged", "empty"):
        path.write_bytes(b"x" * (kind == "damaged"))
    elif kind == "photo":
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)).save(path)
    else:
        mask[:1] = 255 if kind == "ignored" else 0
        Image.fromarray(mask * np.uint8(255 if kind == "binary" else 1)).save(path)


def is_ignored(path: Path, folder: Path) -> bool:
    """Whether the documentation says that files of this name are passed over."""
    hidden = any(part.startswith(".") or part in LITTER for part in path.relative_to(folder).parts)
    return hidden or path.stem.lower().endswith(NO_IMAGES) or path.suffix in (".txt", ".docx")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(IMAGES, KINDS.filter(lambda kind: kind != "index"), min_size=1, max_size=5),
    st.dictionaries(MASKS, KINDS, max_size=6),
    st.sets(st.sampled_from(sorted(TABLES))),
    st.booleans(),
)
def test_every_file_is_used_named_or_documented(
    tmp_path_factory: pytest.TempPathFactory,
    images: dict[tuple[str, ...], str],
    masks: dict[tuple[str, ...], str],
    tables: set[str],
    beside: bool,
) -> None:
    root = tmp_path_factory.mktemp("account")
    Image.new("RGB", (16, 12)).save(root / "elsewhere.png")
    folder = root / "set"
    for parts, kind in images.items():
        write(folder / ("" if beside else "images") / "".join(parts), kind, root)
    for parts, kind in masks.items():
        place = folder / ("" if beside else "masks") / "".join(parts)
        if not place.exists() and not place.is_symlink():
            write(place, kind, root)
    for name in tables:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(TABLES[name])
    try:
        dataset = read_dataset(folder)
    except DatasetError:
        return  # the whole folder is refused, in one sentence
    used = {path for record in dataset.records for path in (record.image, record.mask)}
    told = " ".join(f"{problem.name} {problem.reason}" for problem in dataset.problems)
    tables_used = set(find_tables(folder))
    for path in folder.rglob("*"):
        if path.is_dir() or path in used or path in tables_used or is_ignored(path, folder):
            continue
        assert path.name in told or f"{path.parent.name}/" in told, (path, told)
