"""Writing a dataset whole: checked before, split without leaks, moved into place in one step."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import secrets
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from napari_lesionseg import __version__
from napari_lesionseg.datasets.datasheet import write_croissant, write_datasheet, write_provenance
from napari_lesionseg.datasets.deidentify import final_records
from napari_lesionseg.datasets.export_checks import Checked, Step, check_records, prepare
from napari_lesionseg.datasets.formats import FORMATS, DatasetInfo, ExportConfig, Format, get_format
from napari_lesionseg.datasets.formats.base import Placed, Plan
from napari_lesionseg.datasets.manifest import write_manifest
from napari_lesionseg.datasets.records import Pixels, Problem, Record
from napari_lesionseg.datasets.splits import PARTS, Part, assign_parts, describe_unknown_patients, leaks
from napari_lesionseg.errors import DatasetError
from napari_lesionseg.io.atomic import check_writable, follow_link, sync_folder
from napari_lesionseg.io.folders import is_dir, walk
from napari_lesionseg.io.tables import write_table
from napari_lesionseg.types import OCCLUDED

NO_PART = "no split"
"""What `ExportReport.parts` calls the images of an import without splits."""

KeepNames = Callable[[Mapping[str, str]], object]

_SYNC_THREADS = 8
_STALE_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written.

    Parameters
    ----------
    folder : Path
        The dataset.
    format : str
        Name of its convention.
    parts : mapping
        Number of images in each part that has any.
    problems : tuple of Problem
        What was left out or needs a look.
    names : mapping
        New name by old name; keep it apart from the dataset where names were changed.
    """

    folder: Path
    format: str
    parts: Mapping[str, int]
    problems: tuple[Problem, ...]
    names: Mapping[str, str]

    @property
    def written(self) -> int:
        """Number of images written."""
        return sum(self.parts.values())

    @property
    def left_out(self) -> int:
        """Number of problems for which something was left out."""
        return sum(problem.left_out for problem in self.problems)


def export_dataset(
    records: Sequence[Record],
    destination: str | Path,
    format: str = "isic",  # noqa: A002 - the word the command line uses
    *,
    config: ExportConfig | None = None,
    info: DatasetInfo | None = None,
    parts: Mapping[str, Part] | None = None,
    keep_names: KeepNames | None = None,
) -> Generator[Step | ExportReport]:
    """Check images with their masks and write them as a dataset that other tools accept.

    Everything is written to a temporary folder beside the destination and moved there when it is whole,
    with a datasheet, Croissant metadata, the provenance of each mask, and a manifest of hashes.

    Parameters
    ----------
    records : sequence of Record
        What should be exported.
    destination : str or Path
        A folder that does not exist or is empty; the folder around it must exist.
    format : str
        A key of `formats.FORMATS`.
    config : ExportConfig, optional
        The settings.
    info : DatasetInfo, optional
        For the datasheet.
    parts : mapping, optional
        Part of each image by name, where that is decided already.
    keep_names : callable, optional
        Called with the new name by old name, such as `write_key`, before the dataset is moved into place:
        where it fails, there is no dataset.

    Yields
    ------
    Step
        Progress. Closing the iterator stops the work and leaves nothing behind.
    ExportReport
        Last: what was written.

    Raises
    ------
    DatasetError
        When the destination is taken, nothing can be exported, `parts` tear a patient apart, or the disk is
        full.
    """
    convention = get_format(format)
    settings = config or ExportConfig()
    decide = functools.partial(_deal_parts, config=settings, known=parts or {})
    about = info or DatasetInfo()
    yield from run_export(
        records, Path(destination), convention, settings, about, decide, keep_names=keep_names
    )


def _deal_parts(
    checked: Checked, config: ExportConfig, known: Mapping[str, Part]
) -> tuple[dict[str, Part], list[Problem]]:
    """Deal out the images that have no part yet; parts that tear a patient apart are an error."""
    own = {record.name: record.part for record in checked.records if record.part and config.keep_parts}
    items = [record.split_item() for record in checked.records]
    keep = {**own, **known}
    parts = assign_parts(items, config.shares, seed=config.seed, duplicates=checked.duplicates, keep=keep)
    is_split = keep.keys() < parts.keys() and len(set(parts.values())) > 1
    unknown = describe_unknown_patients(items) if is_split else ""
    return parts, [Problem("patients", unknown, left_out=False)] if unknown else []


def keep_parts(checked: Checked) -> tuple[dict[str, Part], list[Problem]]:
    """Leave every image in the part it came in, or in none, and name the leaks.

    Parameters
    ----------
    checked : Checked
        The images.

    Returns
    -------
    parts : dict
        Part by name, of those that have one.
    problems : list of Problem
        Patients, lesions and copies that are in several parts.
    """
    parts = {record.name: record.part for record in checked.records if record.part}
    torn = leaks((record.split_item() for record in checked.records), parts, duplicates=checked.duplicates)
    return parts, [Problem("parts", sentence, left_out=False) for sentence in torn]


def run_export(
    records: Sequence[Record],
    destination: Path,
    convention: Format,
    config: ExportConfig,
    info: DatasetInfo,
    decide: Callable[[Checked], tuple[dict[str, Part], list[Problem]]],
    found: Sequence[Problem] = (),
    *,
    bare: bool = False,
    keep_names: KeepNames | None = None,
) -> Iterator[Step | ExportReport]:
    """Do what `export_dataset` and `importing.import_dataset` have in common.

    Parameters
    ----------
    records, destination, config, info
        As for `export_dataset`.
    convention : Format
        One that can be written.
    decide : callable
        Gives the part of each checked image by name, and what is wrong with the parts.
    found : sequence of Problem
        From reading.
    bare : bool
        This is an import: images without an outline are written as well, which plain folders can hold.
    keep_names : callable, optional
        As for `export_dataset`.

    Yields
    ------
    Step
        Progress.
    ExportReport
        Last: what was written.

    Raises
    ------
    DatasetError
        As `export_dataset`.
    """
    write = convention.write
    if write is None:
        raise DatasetError(f"{convention.title} is read, not written; choose another format.")
    _check_provenance(records, convention)
    _check_kind(records, convention)
    place = check_destination(destination)
    _sweep(place)
    for item in check_records(records, config, bare=bare):
        if isinstance(item, Step):
            yield item
        else:
            checked = item
    assigned, torn = decide(checked)
    final, names = final_records(checked.records, assigned, config, convention)
    sizes = {names[name]: size for name, size in checked.sizes.items() if name in names}
    lost = (*_lost_marks(checked, convention), *_lost_occlusions(checked, convention))
    problems = (*found, *checked.problems, *torn, *lost)
    with _whole(place) as folder:
        load = functools.partial(prepare, config=config)
        plan = Plan(folder, final, sizes, config, info, load, imported=bare)
        yield from _fill(plan, convention, write, problems)
        if keep_names is not None:
            keep_names(names)
    counts = Counter(record.part for record in final)
    parts = {part or NO_PART: counts[part] for part in (*PARTS, None) if counts[part]}
    yield ExportReport(destination, convention.name, parts, problems, names)


def _lost_marks(checked: Checked, convention: Format) -> Iterator[Problem]:
    """Name the images whose pixels to be ignored become background, since the format cannot mark them."""
    reason = f"{convention.title} cannot mark pixels to be ignored; they become background."
    for name in () if convention.keeps_ignored else checked.ignored:
        yield Problem(name, reason, left_out=False)


def _lost_occlusions(checked: Checked, convention: Format) -> Iterator[Problem]:
    """Say how many occluded landmarks become visible ones, since the format cannot mark them."""
    people = (person for record in checked.records for person in record.people or ())
    occluded = sum(int((person.visibility == OCCLUDED).sum()) for person in people)
    if occluded and not convention.keeps_occluded:
        reason = (
            f"{occluded} occluded landmarks are written as visible ones: the format has no mark for them."
        )
        yield Problem(convention.title, reason, left_out=False)


def _check_kind(records: Sequence[Record], convention: Format) -> None:
    """Refuse to write landmarks as masks, and masks as landmarks."""
    has_landmarks = any(record.skeleton is not None for record in records)
    if has_landmarks != convention.landmarks:
        found = "landmarks, no outlines" if has_landmarks else "outlines, no landmarks"
        fit = [name for name, one in FORMATS.items() if one.write and one.landmarks == has_landmarks]
        raise DatasetError(f"These images have {found}; choose the format {' or '.join(fit)}.")


def _check_provenance(records: Sequence[Record], convention: Format) -> None:
    """Refuse images that did not come as what the convention needs, before any is read."""
    lacking = [record.name for record in records if record.origin is None] if convention.origin else []
    if lacking:
        raise DatasetError(
            f"{len(lacking)} of {len(records)} images did not come as {convention.origin} ({lacking[0]}); "
            "name the folder of the originals, or export in another format."
        )


def check_destination(destination: Path) -> Path:
    """Return where to write, links followed; raise a `DatasetError` unless that is free and writable."""
    try:
        place = follow_link(destination)
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise DatasetError(f"{destination} already exists; choose a new folder.")
        if not place.parent.is_dir():
            raise DatasetError(f"{place.parent} does not exist; create it first.")
        check_writable(place.parent)
    except OSError as error:
        raise DatasetError(f"{destination} cannot be written: {error.strerror}.") from error
    return place


def _sweep(destination: Path) -> None:
    """Remove what killed exports to the same destination left, once it is too old to be at work."""
    left = re.compile(re.escape(f".{destination.name}.") + r"\d+-[0-9a-f]{12}\.tmp")
    for entry in destination.parent.iterdir():
        if left.fullmatch(entry.name) and time.time() - entry.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(entry, ignore_errors=True)


@contextlib.contextmanager
def _whole(destination: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes `destination` at the end, or vanishes when anything goes wrong."""
    folder = destination.with_name(f".{destination.name}.{os.getpid()}-{secrets.token_hex(6)}.tmp")
    try:
        folder.mkdir()
        yield folder
        _force_to_disk(folder)
        if destination.exists():
            destination.rmdir()
        folder.rename(destination)
        sync_folder(destination.parent)
    except OSError as error:
        reason = error.strerror or error
        raise DatasetError(f"The dataset cannot be written to {destination}: {reason}.") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _force_to_disk(folder: Path) -> None:
    """Make sure that what is about to be moved into place is on the disk."""
    # Side by side, since a file system commits waiting calls together: a tenth of the time for small files.
    with ThreadPoolExecutor(_SYNC_THREADS) as pool:
        deque(pool.map(_sync_file, walk(folder)), maxlen=0)


def _sync_file(path: Path) -> None:
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def _fill(
    plan: Plan, convention: Format, write: Callable[[Plan], Iterator[Placed]], problems: Sequence[Problem]
) -> Iterator[Step]:
    """Write the images, then everything that lies beside them, then the manifest."""
    created = datetime.now(UTC).isoformat(timespec="seconds")
    placed: dict[str, Placed] = {}
    watch = _Watch(plan.load, keeps_ignored=convention.keeps_ignored)
    for place in write(_watched(plan, watch)):
        placed[place.name] = place
        yield Step("writing", len(placed), len(plan.records), place.name)
    write_provenance(plan, placed, watch.empty)
    write_datasheet(plan, convention.title, created, problems)
    write_croissant(plan, placed.values(), created)
    software = f"napari-lesionseg {__version__}"
    for hashed in write_manifest(plan.folder, software=software, convention=convention.name, created=created):
        yield Step("hashing", hashed.done, hashed.total, hashed.name)


class _Watch:
    """Loads pixels for a writer and notes which masks are empty."""

    def __init__(self, load: Callable[[Record], Pixels], *, keeps_ignored: bool) -> None:
        self._load = load
        self._keeps_ignored = keeps_ignored
        self.empty: dict[str, bool] = {}

    def __call__(self, record: Record) -> Pixels:
        pixels = self._load(record)
        self.empty[record.name] = pixels.is_empty if record.skeleton is None else not record.people
        if not self._keeps_ignored:
            pixels = pixels.without_ignored()
        return pixels


def _watched(plan: Plan, watch: _Watch) -> Plan:
    return replace(plan, load=watch)


def check_key_place(path: Path, folder: Path) -> None:
    """Refuse a place for the key that would give it away, or in which it cannot be kept.

    Parameters
    ----------
    path : Path
        Where the key is to be.
    folder : Path
        The dataset.

    Raises
    ------
    DatasetError
        When it would lie inside the dataset, its folder does not exist, or another key is there.
    """
    if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise DatasetError("The key must not lie inside the dataset; give another folder.")
    if is_dir(path) or not is_dir(path.absolute().parent):
        raise DatasetError(f"The key needs a file name in a folder that exists; {path} is none.")
    with contextlib.suppress(OSError):
        if path.is_file() and path.stat().st_size:
            raise DatasetError(
                f"{path} already exists, perhaps as the key of another dataset; choose a new file."
            )


def write_key(names: Mapping[str, str], path: Path) -> None:
    """Write which new name stands for which old one, for those who may know.

    Parameters
    ----------
    names : mapping
        New name by old name.
    path : Path
        A CSV file; see `check_key_place`.

    Raises
    ------
    DatasetError
        When it cannot be written.
    """
    rows = [{"old_name": old, "new_name": new} for old, new in names.items()]
    try:
        write_table(path, rows, ("old_name", "new_name"))
    except OSError as error:
        raise DatasetError(f"The key cannot be written to {path}: {error.strerror}.") from error
