"""Errors of the file system, explained so that an annotator knows what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from napari_lesionseg.errors import LesionSegError, StudyError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ETIMEDOUT}


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Convert an `OSError`, or an error that one caused, to a `StudyError` that says what to do."""
    try:
        yield
    except OSError as error:
        raise StudyError(f"{doing} failed: {_advice(error)}") from error
    except LesionSegError as error:
        if isinstance(error.__cause__, OSError) and not isinstance(error, StudyError):
            raise StudyError(f"{doing} failed: {_advice(error.__cause__)}") from error
        raise


def _advice(error: OSError) -> str:
    """Return what happened and what the annotator can do."""
    if error.errno in _FULL:
        return "the disk is full. Free some space and try again; nothing saved before is lost."
    if error.errno in _FORBIDDEN:
        return "permission denied. Ask for access to the study's folder, then try again."
    if error.errno in _GONE:
        return "the study's folder cannot be reached. Connect its disk again, then try again."
    reason = error.strerror or str(error)
    return f"the disk reports an error ({reason}). Try again, or copy the study to another disk."
