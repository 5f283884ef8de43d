"""Every file of a folder is used, named, or of a kind that is documented as ignored."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from napari_lesionseg.datasets.export import export_dataset
from napari_lesionseg.datasets.facts import find_tables
from napari_lesionseg.datasets.formats import FORMATS, ExportConfig
from napari_lesionseg.datasets.formats.base import OWN_FILES
from napari_lesionseg.datasets.import_ import import_dataset, read_dataset
from napari_lesionseg.datasets.records import file_of
from napari_lesionseg.errors import DatasetError, PairingError
from napari_lesionseg.io.folders import LITTER, FolderScan
from napari_lesionseg.io.pairing import MASK_WORDS, NO_IMAGES, find_images, search_pairs
from napari_lesionseg.study.study import Study

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
    used = {path for record in dataset.records for path in (record.image, file_of(record.mask))}
    told = " ".join(f"{problem.name} {problem.reason}" for problem in dataset.problems)
    tables_used = set(find_tables(FolderScan(folder)))
    for path in folder.rglob("*"):
        if path.is_dir() or path in used or path in tables_used or is_ignored(path, folder):
            continue
        assert path.name in told or f"{path.parent.name}/" in told, (path, told)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(IMAGES, KINDS, min_size=1, max_size=5),
    st.dictionaries(MASKS, KINDS, max_size=6),
    st.booleans(),
)
def test_evaluate_train_and_finetune_pair_or_name_every_file(
    tmp_path_factory: pytest.TempPathFactory,
    images: dict[tuple[str, ...], str],
    masks: dict[tuple[str, ...], str],
    beside: bool,
) -> None:
    """`find_all_pairs`, which these commands share, names what `search_pairs` finds unused."""
    root = tmp_path_factory.mktemp("pairs")
    Image.new("RGB", (16, 12)).save(root / "elsewhere.png")
    places = (root / "set", root / "set" if beside else root / "masks")
    for parts, kind in images.items():
        write(places[0] / "".join(parts), kind, root)
    for parts, kind in masks.items():
        place = places[1] / "".join(parts)
        if not place.exists() and not place.is_symlink():
            write(place, kind, root)
    try:
        found = search_pairs(places[0], None if beside else places[1])
    except PairingError:
        return  # the whole folder is refused, in one sentence
    used = {path for pair in found.pairs for path in (pair.image, pair.mask)}
    told = "\n".join(found.unused())
    assert len({pair.stem for pair in found.pairs}) == len(found.pairs)
    for place in set(places):
        for path in place.iterdir():
            assert path in used or is_ignored(path, place) or str(path) in told, path


STRAYS = {
    "stray.png": "image", "stray_mask.png": "mask", "notes.md": None, "readme.txt": None,
    "extra.json": "text", "facts.csv": "text", "volume.nii.gz": "text", "raw.nef": "text", "old.zip": "text",
    "Thumbs.db": None, ".hidden.png": None, "case_00_overlay.png": None,
}  # fmt: skip
WRITTEN = sorted(
    name for name, found in FORMATS.items() if found.write and not found.landmarks and name != "dicom"
)
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["add", "damage", "remove", "copy"]),
        st.integers(0, 99),
        st.sampled_from(sorted(STRAYS)),
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def exports(kit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images in every format."""
    folder = tmp_path_factory.mktemp("exports")
    config = ExportConfig(pseudonymize="nothing")
    for name in WRITTEN:
        kit.last(export_dataset([kit.record(seed) for seed in range(6)], folder / name, name, config=config))
        for own in OWN_FILES:
            (folder / name / own).unlink(missing_ok=True)
    return folder


@pytest.mark.parametrize("name", WRITTEN)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changes=CHANGES)
def test_every_change_of_a_dataset_shows(
    exports: Path, tmp_path_factory: pytest.TempPathFactory, name: str, changes: list[tuple[str, int, str]]
) -> None:
    """Whatever is added, damaged, removed or copied is imported or named, for every format."""
    folder = tmp_path_factory.mktemp("changed") / "set"
    shutil.copytree(exports / name, folder)
    added = [change(folder, *entry) for entry in changes]
    try:
        dataset = read_dataset(folder, name)
        (*_, report) = import_dataset(folder, folder.parent / "out", name)
    except DatasetError:
        return  # the whole folder is refused, in one sentence
    names = {record.name for record in dataset.records}
    told = " ".join(f"{problem.name} {problem.reason}" for problem in report.problems)
    assert report.written + report.left_out >= len(names)
    for path in added:
        if path is not None and path.exists() and not is_ignored(path, folder):
            where = f"{path.relative_to(folder).parent.as_posix()}/*{path.suffix}".removeprefix("./")
            shown = path.name in told or where in told or path.stem in names
            assert shown or path.stem.removesuffix("_0000") in names, (path, told)


def change(folder: Path, kind: str, index: int, stray: str) -> Path | None:
    """Change a dataset; return the file that must be used or named, if there is one."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = files[index % len(files)]
    if kind == "add":
        target = path.parent / stray
        content = STRAYS[stray]
        if content in ("image", "mask"):
            write(target, "photo" if content == "image" else "binary", folder)
        else:
            target.write_bytes(b"x")
        return target if content else None
    if kind == "damage":
        path.write_bytes(path.read_bytes()[:20])
        return path if path.suffix == ".png" else None
    if kind == "remove":
        path.unlink()
        return None
    target = path.with_name(f"{path.stem}_copy{path.suffix}")
    shutil.copy(path, target)
    return target if path.suffix == ".png" else None


UNREAD = st.sets(st.sampled_from(("scan.dcm", "raw.NEF", "p1.cr2", "photo.jxl", "\u0440.gif", "layers.psd")))


def fill(root: Path, images: dict[tuple[str, ...], str], masks: dict[tuple[str, ...], str]) -> Path:
    """Write images and masks side by side into a folder."""
    Image.new("RGB", (16, 12)).save(root / "elsewhere.png")
    folder = root / "set"
    for parts, kind in [*images.items(), *masks.items()]:
        place = folder / "".join(parts)
        if not place.exists() and not place.is_symlink():
            write(place, kind, root)
    return folder


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(IMAGES, KINDS, min_size=1, max_size=5), st.dictionaries(MASKS, KINDS, max_size=6), UNREAD
)
def test_segment_takes_every_file_but_masks_and_what_lies_beside_its_image(
    tmp_path_factory: pytest.TempPathFactory,
    images: dict[tuple[str, ...], str],
    masks: dict[tuple[str, ...], str],
    unread: set[str],
) -> None:
    """What is taken is outlined or named (`tests.cli.test_segment`), so nothing else may be passed over."""
    folder = fill(tmp_path_factory.mktemp("segment"), images, masks)
    for name in unread:
        (folder / name).write_bytes(b"x")
    try:
        taken = set(find_images(folder))
    except PairingError:
        return  # nothing but masks, which is said
    stems = {path.stem.casefold() for path in taken}
    for path in folder.iterdir():
        is_mask = path.stem.lower().endswith(tuple(f"_{word}" for word in MASK_WORDS))
        is_double = path.suffix.lower() in (".cr2",) and path.stem.casefold() in stems
        assert path in taken or is_mask or is_double or is_ignored(path, folder), path


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(IMAGES, KINDS, min_size=1, max_size=4), st.dictionaries(MASKS, KINDS, max_size=4), UNREAD
)
def test_a_study_of_a_folder_holds_or_names_every_image(
    tmp_path_factory: pytest.TempPathFactory,
    images: dict[tuple[str, ...], str],
    masks: dict[tuple[str, ...], str],
    unread: set[str],
) -> None:
    root = tmp_path_factory.mktemp("study")
    folder = fill(root, images, masks)
    for name in unread:
        (folder / name).write_bytes(b"x")
    try:
        files = find_images(folder)
    except PairingError:
        return  # nothing but masks, which is said
    with Study.create(root / "study", "Ann", paths=folder) as study:
        held = {study.image_path(image).resolve() for image in study.state.images}
        hashes = {path.read_bytes() for path in held}
        told = " ".join(problem.file for problem in study.problems)
    for path in files:
        is_copy = path.exists() and path.read_bytes() in hashes  # the same image under two names is one
        assert path.resolve() in held or is_copy or path.name in told, path
