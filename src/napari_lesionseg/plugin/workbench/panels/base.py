"""The base class of the workbench's panels, and the panels for the outline's settings and the model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from napari.utils.notifications import show_error
from qtpy.QtCore import Signal
from qtpy.QtGui import QHideEvent, QShowEvent
from qtpy.QtWidgets import QGridLayout, QWidget

from napari_lesionseg.plugin.segment import task
from napari_lesionseg.plugin.segment.task import ModelChoice
from napari_lesionseg.plugin.shortcuts import WindowKeys
from napari_lesionseg.plugin.tasks import Delay, Task, run_task
from napari_lesionseg.plugin.widgets.forms import when_gone
from napari_lesionseg.plugin.widgets.model_picker import ModelPicker
from napari_lesionseg.plugin.widgets.postprocess_form import PostprocessForm

if TYPE_CHECKING:
    from napari.components import ViewerModel

    from napari_lesionseg.inference.predictor import Model
    from napari_lesionseg.plugin.editor.editor import MaskEditor
    from napari_lesionseg.plugin.workbench.session import StudySession
    from napari_lesionseg.study.study import Study


class Panel(QWidget):
    """A part of the workbench. To add one, make a subclass and list it in `widget.PANELS`.

    It is made once, with the workbench, and shows one study after the other. Subclasses override
    `show_session` and, if they have work to cancel, `close_session`. Signals of the session are connected
    with `listen`, and are disconnected when the study is closed.
    """

    unfold = Signal()
    """Emit to unfold it and scroll to it."""

    notice = Signal(str)
    """Emit to report what it has to show while it is folded; an empty text takes the last report back."""

    title: ClassVar[str] = ""
    """Its heading, which folds and unfolds it; without one, the panel is always visible at the bottom."""

    folded: ClassVar[bool] = True
    """Whether it is folded at first."""

    grows: ClassVar[bool] = False
    """Whether it stands above the headings and takes the height that the others leave."""

    only_for: ClassVar[Literal["", "outlines", "landmarks"]] = ""
    """Which studies it is for; empty: all."""

    needs_study: ClassVar[bool] = True
    """Whether it is hidden while no study is open."""

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__()
        self.viewer = viewer
        self.session: StudySession | None = None
        self._listening: list[tuple[Any, Callable[..., object]]] = []

    def show_session(self, session: StudySession) -> None:
        """Show a study that was opened; to be overridden."""

    def add_notice(self, notice: QWidget) -> None:
        """Show a notice next to what gives and takes height; to be overridden by a panel that grows."""

    def close_session(self) -> None:
        """Cancel what runs for the study; to be overridden. Must not touch widgets, which may be gone."""

    def listen(self, signal: Any, slot: Callable[..., object]) -> None:
        """Connect a signal of the session until it is closed."""
        signal.connect(slot)
        self._listening.append((signal, slot))

    @classmethod
    def suits(cls, study: Study) -> bool:
        """Whether it is for studies of this kind."""
        kind = "outlines" if study.info.landmarks is None else "landmarks"
        return cls.only_for in ("", kind)

    def set_session(self, session: StudySession | None) -> None:
        """Show another study, or none."""
        if self.session is not None:
            for signal, slot in self._listening:
                signal.disconnect(slot)
            self._listening.clear()
            self.close_session()
        self.session = session
        if session is not None:
            self.show_session(session)


class OutlinePanel(Panel):
    """How the outline is made of the prediction: threshold, holes, small parts."""

    title, folded, only_for = "Outline", False, "outlines"

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self.form = PostprocessForm(self)
        self._redraw_soon = Delay(0, self._apply)
        # The key of a widget that is folded away would do nothing.
        self.keys = WindowKeys(self, {"threshold": self._on_threshold_key})
        when_gone(self, self.keys.close)
        _fill_grid(self, self.form)
        self.form.changed.connect(self._redraw_soon.start)
        self.form.settled.connect(self._apply)

    def show_session(self, session: StudySession) -> None:
        """Use the settings of the form for the study."""
        session.display.set_config(self.form.config)
        self.listen(session.opened, self._on_opened)
        self.listen(session.model_changed, self._on_model_changed)

    def hideEvent(self, event: QHideEvent | None) -> None:  # noqa: N802  Qt's name
        """Let the key of the threshold unfold the section."""
        super().hideEvent(event)
        self.keys.bind()

    def showEvent(self, event: QShowEvent | None) -> None:  # noqa: N802  Qt's name
        """Leave the key to the slider, which can be seen."""
        super().showEvent(event)
        self.keys.close()

    def close_session(self) -> None:
        """Do not redraw any more."""
        self._redraw_soon.cancel()

    def _on_threshold_key(self) -> None:
        if self.session is not None:
            self.unfold.emit()
            self.form.threshold.slider.setFocus()

    def _on_opened(self, editor: MaskEditor | None) -> None:
        if editor is not None:
            self.form.set_config(editor.requests.config, self._model_threshold())
            editor.changed.connect(self._on_edited)

    def _on_edited(self, what: str) -> None:
        editor = None if self.session is None else self.session.editor
        if what in {"undo", "redo", "restored"} and editor is not None:
            self.form.set_config(editor.requests.config, self._model_threshold())

    def _on_model_changed(self) -> None:
        config = self.form.config
        if self.session is not None:
            largest_only = self.session.display.config.largest_only
            config = config.model_copy(update={"largest_only": largest_only})
        self.form.set_config(config, self._model_threshold())

    def _model_threshold(self) -> float | None:
        model = None if self.session is None else self.session.model
        return None if model is None else model.card.threshold

    def _apply(self) -> None:
        self._redraw_soon.cancel()
        if self.session is not None:
            self.session.display.set_config(self.form.config)


class ModelPanel(Panel):
    """Which model segments, and on which device; it is loaded before a study is opened."""

    title, needs_study, only_for = "Model", False, "outlines"

    def __init__(self, viewer: ViewerModel) -> None:
        super().__init__(viewer)
        self.models = ModelPicker(self)
        self._loading: Task[Model] | None = None
        _fill_grid(self, self.models)
        self.models.model.currentIndexChanged.connect(self.load)
        self.models.device.currentIndexChanged.connect(self.load)
        when_gone(self, self._close_tasks)
        self.load()

    def show_session(self, session: StudySession) -> None:
        """Segment the study with the model."""
        self.listen(session.model_added, self._on_model_added)
        session.set_model(self.models.loaded)

    def load(self) -> None:
        """Load the chosen model."""
        if self._loading is not None:
            self._loading.close()
        choice = self.models.choice
        self._loading = run_task(
            "loading the model",
            task.load,
            choice,
            done=partial(self._on_loaded, choice),
            failed=self._on_failed,
        )

    def _on_loaded(self, choice: ModelChoice, model: Model) -> None:
        self._loading = None
        self.models.remember(choice, model)
        if self.session is not None:
            self.session.set_model(model)

    def _on_failed(self, error: Exception) -> None:
        self._loading = None
        show_error(str(error))

    def _on_model_added(self, name: str, use: bool) -> None:
        if use:
            self.models.choose(name)
        else:
            self.models.offer(name)

    def _close_tasks(self) -> None:
        self.models.close()
        if self._loading is not None:
            self._loading.close()


def _fill_grid(panel: Panel, part: PostprocessForm | ModelPicker) -> None:
    """Lay out the rows of a form in a panel."""
    grid = QGridLayout(panel)
    grid.setContentsMargins(0, 0, 0, 0)
    grid.setColumnStretch(1, 1)
    part.add_to(grid, 0)
