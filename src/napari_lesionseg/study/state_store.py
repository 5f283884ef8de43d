"""All entries of a study in memory, and the state they fold to for one annotator."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from napari_lesionseg.study.events import Added, AnyEntry, ImageEntry, OutlineEntry
from napari_lesionseg.study.state import StudyState, fold_image, update


class StateStore:
    """Takes entries in, and keeps the state up to date; only images with news are folded again.

    Parameters
    ----------
    annotator : str
        For whom the state is.
    blinded : bool
        Whether other annotators' entries stay out of sight, but for the images they added.
    """

    def __init__(self, annotator: str, *, blinded: bool) -> None:
        self.state = StudyState()
        self._annotator = annotator
        self.blinded = blinded
        self._entries: dict[str, dict[tuple[str, int], ImageEntry]] = {}

    def apply(self, entries: Iterable[AnyEntry]) -> frozenset[str]:
        """Fold new entries into the state.

        Parameters
        ----------
        entries : iterable of Entry
            In any order; what is known already does no harm.

        Returns
        -------
        frozenset of str
            Images that the entries are about.
        """
        changed: set[str] = set()
        sessions = dict(self.state.sessions)
        for entry in entries:
            if isinstance(entry, ImageEntry):
                self._entries.setdefault(entry.image_id, {})[entry.writer, entry.seq] = entry
                changed.add(entry.image_id)
            elif entry.annotator not in sessions or sessions[entry.annotator].order <= entry.order:
                sessions[entry.annotator] = entry
        folded = {image_id: fold_image(self._visible(image_id)) for image_id in changed}
        self.state = update(self.state, folded, sessions)
        return frozenset(changed)

    def history(self, image_id: str) -> tuple[ImageEntry, ...]:
        """List what the annotator may see of what happened to an image.

        Parameters
        ----------
        image_id : str
            SHA-256 of the image.

        Returns
        -------
        tuple of ImageEntry
            The oldest first.
        """
        return tuple(sorted(self._visible(image_id), key=lambda entry: entry.order))

    def hashes(self, image_id: str) -> dict[str, str]:
        """Return the latest SHA-256 of each mask revision of an image, whoever saved it.

        Parameters
        ----------
        image_id : str
            SHA-256 of the image.

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
            SHA-256 of the image.

        Returns
        -------
        datetime
            UTC.
        """
        return _now_after(entry.time for entry in self._entries.get(image_id, {}).values())

    def next_session_time(self) -> datetime:
        """Return the time for a new session entry of the annotator.

        Returns
        -------
        datetime
            UTC.
        """
        last = self.state.sessions.get(self._annotator)
        return _now_after([] if last is None else [last.time])

    def _visible(self, image_id: str) -> list[ImageEntry]:
        entries = self._entries.get(image_id, {}).values()
        return [entry for entry in entries if self._may_see(entry)]

    def _may_see(self, entry: ImageEntry) -> bool:
        return not self.blinded or isinstance(entry, Added) or entry.annotator == self._annotator


def _now_after(times: Iterable[datetime]) -> datetime:
    earliest = (time + timedelta(microseconds=1) for time in times)
    return max([datetime.now(UTC), *earliest])
