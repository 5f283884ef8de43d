"""What the system refuses, said so that an annotator knows what to do."""

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
    """Turn errors of the system into a `StudyError` that says what to do.

    Parameters
    ----------
    doing : str
        What did not work, such as "Saving the outline".

    Raises
    ------
    StudyError
        In place of an `OSError`, or of an error of this package that an `OSError` caused.
    """
    try:
        yield
    except OSError as error:
        raise StudyError(f"{doing} did not work: {_advice(error)}") from error
    except LesionSegError as error:
        if isinstance(error.__cause__, OSError) and not isinstance(error, StudyError):
            raise StudyError(f"{doing} did not work: {_advice(error.__cause__)}") from error
        raise


def _advice(error: OSError) -> str:
    """Say what happened and what the annotator can do."""
    if error.errno in _FULL:
        return "the disk is full. Free some space and try again; nothing saved before is lost."
    if error.errno in _FORBIDDEN:
        return "you may not read or write there. Ask for access to the study's folder, then try again."
    if error.errno in _GONE:
        return "the study's folder cannot be reached. Connect its disk again, then try again."
    reason = error.strerror or str(error)
    return f"the disk reports an error ({reason}). Try again; if it stays, copy the study to another disk."
