"""Classes of a study changed from the window: the study's file, the outline's colors, and the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap
from qtpy.QtCore import QObject, Signal

from napari_lesionseg.plugin.napari_layers.layers import outline_colors
from napari_lesionseg.plugin.napari_layers.links import CLASSES
from napari_lesionseg.plugin.tasks import Task, run_task
from napari_lesionseg.study.events import StudyClass
from napari_lesionseg.study.study import Study

if TYPE_CHECKING:
    from napari_lesionseg.inference.predictor import Model

BACKGROUND = "background"


def show_classes(labels: Labels, classes: Sequence[StudyClass]) -> None:
    """Show an outline in the colors of its classes, and note their names in its metadata."""
    labels.metadata[CLASSES] = (BACKGROUND, *(entry.name for entry in classes))
    if len(classes) == 1:
        labels.colormap = outline_colors()  # the blue that is seen best on skin
    else:
        colors: dict[int | None, Any] = {place: entry.color for place, entry in enumerate(classes, start=1)}
        labels.colormap = DirectLabelColormap(color_dict={None: "white", 0: "transparent"} | colors)


def fits_classes(model: Model, classes: Sequence[StudyClass]) -> bool:
    """Tell whether a model tells apart just these classes."""
    return tuple(model.card.classes[1:]) == tuple(entry.name for entry in classes)


def keep_fitted(model: Model, classes: Sequence[StudyClass]) -> str:
    """Make a copy of a model with an output for each class, and keep it; to be called in a worker.

    Parameters
    ----------
    model : Model
        Left as it is.
    classes : sequence of StudyClass
        Without the background.

    Returns
    -------
    str
        The copy's name in the model store.

    Raises
    ------
    CheckpointError
        If the network cannot be changed, or the copy cannot be kept.
    """
    from napari_lesionseg.models.checkpoint import checkpoint_bytes
    from napari_lesionseg.models.class_head import fit_classes
    from napari_lesionseg.models.store import ModelStore

    names = (model.card.classes[0], *(entry.name for entry in classes))
    network, card = fit_classes(model.network, model.card, names)
    count = "1 class" if len(classes) == 1 else f"{len(classes)} classes"
    name = f"{model.card.name.split(' for ')[0]} for {count}"
    card = card.model_copy(update={"name": name, "parent": model.sha256})
    return ModelStore().add(checkpoint_bytes(network, card), name).stem


class ClassChange(QObject):
    """One change of the classes of a study, and perhaps of its model; in another thread.

    Parameters
    ----------
    study : Study
        Its classes are changed.
    classes : sequence of StudyClass
        All classes from now on.
    model : Model or None
        To be brought to the classes, in a copy; None: the model stays.

    Attributes
    ----------
    changed : Signal
        Emitted when the study has the classes.
    fitted : Signal
        Emitted with the name of a new model in the model store.
    failed : Signal
        Emitted with the exception; the study is as it was, unless `changed` was emitted.
    ended : Signal
        Emitted last, whatever became of it.
    """

    changed = Signal()
    fitted = Signal(str)
    failed = Signal(object)
    ended = Signal()

    def __init__(
        self,
        study: Study,
        classes: Sequence[StudyClass],
        model: Model | None,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._classes, self._model = tuple(classes), model
        self._job: Task[Any] = run_task(
            "changing the classes",
            study.set_classes,
            self._classes,
            done=self._on_changed,
            failed=self._on_failed,
        )

    def abandon(self) -> None:
        """Let nobody hear of it: the study is being closed."""
        self._job.close()

    def _on_changed(self, _: None) -> None:
        self.changed.emit()
        if self._model is not None and not fits_classes(self._model, self._classes):
            self._job = run_task(
                "adding classes to the model",
                keep_fitted,
                self._model,
                self._classes,
                done=self._on_fitted,
                failed=self._on_failed,
            )
        else:
            self.ended.emit()

    def _on_fitted(self, name: str) -> None:
        self.fitted.emit(name)
        self.ended.emit()

    def _on_failed(self, error: Exception) -> None:
        self.failed.emit(error)
        self.ended.emit()
