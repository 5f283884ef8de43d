"""Pseudonyms for images, patients and lesions; their key stays outside the study."""

from __future__ import annotations

import contextlib
import csv
import io
import secrets
from pathlib import Path

from napari_lesionseg.errors import StudyError
from napari_lesionseg.io.atomic import is_stream, write_atomically

_COLUMNS = ("kind", "pseudonym", "original", "sha256")
_PREFIX = {"image": "P", "patient": "patient-", "lesion": "lesion-"}
_DIGITS = 4


class KeyFile:
    """The table of pseudonyms, a CSV file that only its owner should see.

    An existing file is extended: what has a pseudonym keeps it.
    """

    def __init__(self, path: Path, study: Path) -> None:
        self._path = path
        if path.resolve().is_relative_to(study.resolve()):
            raise StudyError(f"{path} is inside the study; keep the key of the pseudonyms somewhere else.")
        self._rows = _read_rows(path) if path.is_file() else []
        self._known = {
            _key(row["kind"], row["original"], row["sha256"]): row["pseudonym"] for row in self._rows
        }
        self._taken = set(self._known.values())

    def pseudonym(self, kind: str, original: str, sha256: str = "") -> str:
        """Return the pseudonym of a name, or of an image's content (`sha256`); a new one is random."""
        key = _key(kind, original, sha256)
        if key not in self._known:
            self._known[key] = name = self._draw(_PREFIX[kind])
            self._taken.add(name)
            self._rows.append({"kind": kind, "pseudonym": name, "original": original, "sha256": sha256})
        return self._known[key]

    def save(self) -> None:
        """Write the key, readable only by its owner where the system knows owners.

        Letters that no encoding has, as in the names of files from other systems, are written as their codes.
        """
        text = io.StringIO()
        table = csv.DictWriter(text, _COLUMNS)
        table.writeheader()
        table.writerows(self._rows)
        payload = text.getvalue().encode("utf-8", errors="backslashreplace")
        try:
            write_atomically(self._path, payload)
            if not is_stream(self._path):  # /dev/null belongs to everybody
                with contextlib.suppress(PermissionError):  # memory cards know no owners
                    self._path.chmod(0o600)
        except OSError as error:
            reason = error.strerror or error
            raise StudyError(
                f"The key of the pseudonyms cannot be written to {self._path}: {reason}."
            ) from error

    def _draw(self, prefix: str) -> str:
        """Draw a free number; the range grows so that most numbers stay free."""
        digits = max(_DIGITS, len(str(10 * len(self._taken))))
        while True:
            name = f"{prefix}{secrets.randbelow(10**digits):0{digits}d}"
            if name not in self._taken:
                return name


def _key(kind: str, original: str, sha256: str) -> tuple[str, str]:
    """Return what something is known by: an image by its content, all else by its name."""
    return kind, sha256 or original


def _read_rows(path: Path) -> list[dict[str, str]]:
    """Read a key file."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            table = csv.DictReader(stream)
            if tuple(table.fieldnames or ()) != _COLUMNS:
                raise StudyError(f"{path} is not a key of pseudonyms; choose another name for the key.")
            return [{column: row[column] or "" for column in _COLUMNS} for row in table]
    except (UnicodeDecodeError, csv.Error) as error:
        raise StudyError(f"{path} is not a key of pseudonyms; choose another name for the key.") from error
