"""What other annotators saved in the meantime, looked for in another thread."""

from __future__ import annotations

from psygnal import Signal

from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.study.study import Study


class StudyPoller:
    """Takes in what is new in a study.

    Parameters
    ----------
    study : Study
        The study.

    Attributes
    ----------
    came : psygnal.Signal
        Emitted when there was something new.
    failed : psygnal.Signal
        Emitted with a sentence when the folder cannot be reached: once, not every few seconds.
    """

    came = Signal()
    failed = Signal(str)

    def __init__(self, study: Study) -> None:
        self._study = study
        self._job: Task[frozenset[str]] | None = None
        self._told = ""

    @property
    def is_looking(self) -> bool:
        """Whether the disk is being read."""
        return self._job is not None

    def look(self) -> None:
        """Look for news, unless that is being done."""
        if self._job is None:
            self._job = run_task(
                "looking for other annotators' work",
                self._study.refresh,
                done=self._on_done,
                failed=self._on_failed,
            )

    def close(self) -> None:
        """Let nothing come of what is being read."""
        if self._job is not None:
            self._job.close()

    def _on_done(self, images: frozenset[str]) -> None:
        self._job, self._told = None, ""
        if images:
            self.came.emit()

    def _on_failed(self, error: Exception) -> None:
        self._job = None
        if str(error) != self._told:
            self._told = str(error)
            self.failed.emit(str(error))
