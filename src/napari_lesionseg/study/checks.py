"""What a study refuses before it writes anything, each with a sentence that says what to do."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from napari_lesionseg.errors import StudyError
from napari_lesionseg.study.schema import ReaderName

_READER: TypeAdapter[str] = TypeAdapter(ReaderName)


def check_reader(reader: str) -> str:
    """Return a reader's name as it is.

    Raises
    ------
    StudyError
        When it is not made of 1 to 40 letters, digits, ``-`` and ``_``.
    """
    try:
        return _READER.validate_python(reader)
    except ValidationError as error:
        raise StudyError(
            f"{reader!r} cannot be a reader's name; use 1 to 40 letters, digits, - or _, such as initials."
        ) from error
