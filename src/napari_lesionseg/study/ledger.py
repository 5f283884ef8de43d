"""All entries of a study in memory, and the state they fold to for one reader."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from napari_lesionseg.study.state import StudyState, fold_picture, update
from napari_lesionseg.study.events import Added, AnyEntry, OutlineEntry, PictureEntry


class Ledger:
    """Takes entries in, and keeps the state up to date; only pictures with news are folded again.

    Parameters
    ----------
    reader : str
        For whom the state is.
    blinded : bool
        Whether other readers' entries stay out of sight, but for the pictures they added.
    """

    def __init__(self, reader: str, *, blinded: bool) -> None:
        self.state = StudyState()
        self._reader = reader
        self.blinded = blinded
        self._entries: dict[str, dict[tuple[str, int], PictureEntry]] = {}

    def take_in(self, entries: Iterable[AnyEntry]) -> frozenset[str]:
        """Fold new entries into the state.

        Parameters
        ----------
        entries : iterable of Entry
            In any order; what is known already does no harm.

        Returns
        -------
        frozenset of str
            Pictures that the entries are about.
        """
        changed: set[str] = set()
        sessions = dict(self.state.sessions)
        for entry in entries:
            if isinstance(entry, PictureEntry):
                self._entries.setdefault(entry.image_id, {})[entry.writer, entry.seq] = entry
                changed.add(entry.image_id)
            elif entry.reader not in sessions or sessions[entry.reader].order <= entry.order:
                sessions[entry.reader] = entry
        folded = {image_id: fold_picture(self._visible(image_id)) for image_id in changed}
        self.state = update(self.state, folded, sessions)
        return frozenset(changed)

    def history(self, image_id: str) -> tuple[PictureEntry, ...]:
        """List what the reader may see of what happened to a picture.

        Parameters
        ----------
        image_id : str
            SHA-256 of the picture.

        Returns
        -------
        tuple of PictureEntry
            The oldest first.
        """
        return tuple(sorted(self._visible(image_id), key=lambda entry: entry.order))

    def hashes(self, image_id: str) -> dict[str, str]:
        """Return the latest SHA-256 of each mask revision of a picture, whoever saved it.

        Parameters
        ----------
        image_id : str
            SHA-256 of the picture.

        Returns
        -------
        dict
            SHA-256 by revision.
        """
        entries = sorted(self._entries.get(image_id, {}).values(), key=lambda entry: entry.order)
        return {entry.revision: entry.sha256 for entry in entries if isinstance(entry, OutlineEntry)}

    def next_time(self, image_id: str) -> datetime:
        """Return the time for a new entry: now, but after all there is, even when clocks disagree.

        Parameters
        ----------
        image_id : str
            SHA-256 of the picture.

        Returns
        -------
        datetime
            UTC.
        """
        return _now_after(entry.time for entry in self._entries.get(image_id, {}).values())

    def next_session_time(self) -> datetime:
        """Return the time for a new session entry of the reader.

        Returns
        -------
        datetime
            UTC.
        """
        last = self.state.sessions.get(self._reader)
        return _now_after([] if last is None else [last.time])

    def _visible(self, image_id: str) -> list[PictureEntry]:
        entries = self._entries.get(image_id, {}).values()
        return [entry for entry in entries if self._may_see(entry)]

    def _may_see(self, entry: PictureEntry) -> bool:
        return not self.blinded or isinstance(entry, Added) or entry.reader == self._reader


def _now_after(times: Iterable[datetime]) -> datetime:
    earliest = (time + timedelta(microseconds=1) for time in times)
    return max([datetime.now(UTC), *earliest])
