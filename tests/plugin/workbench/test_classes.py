"""Classes named in the window, painted, learned and predicted, by a tiny network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytestqt.qtbot import QtBot
from qtpy.QtGui import QColor
from qtpy.QtWidgets import QDialogButtonBox

from napari_lesionseg.config import AugmentConfig, FineTuneConfig
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import checkpoint_bytes
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.models.store import FOLDER_VARIABLE, ModelStore
from napari_lesionseg.plugin.workbench import classes as classes_module
from napari_lesionseg.plugin.workbench import image_review
from napari_lesionseg.plugin.workbench.classes import ClassesDialog, CorrectSection
from napari_lesionseg.plugin.workbench.finetune_task import FineTuneTask
from napari_lesionseg.plugin.workbench.panels.base import ModelPanel
from napari_lesionseg.plugin.workbench.panels.review_bar import ReviewBar
from napari_lesionseg.plugin.workbench.widget import Workbench
from napari_lesionseg.study.events import StudyClass
from napari_lesionseg.study.study import Study

TINY = {"width": 16, "depth": 2}
NEVUS = StudyClass(name="nevus", color="#56b4e9")
MELANOMA = StudyClass(name="melanoma", color="#d55e00")
HAIR = StudyClass(name="hair", color="#f0e442")
WAIT = 250_000


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.fsync", lambda file: None)
    monkeypatch.setattr("napari_lesionseg.training.resources.BACKGROUND_NICENESS", 0)
    monkeypatch.setattr(image_review, "PAUSE_MS", 5)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "models"))


@pytest.fixture
def name() -> str:
    """A tiny network of one class, in the registry."""
    torch.manual_seed(0)
    network = build_network("unet", 1, **TINY)
    card = ModelCard(name="tiny", arch="unet", arch_settings=TINY, working_size=64)
    return ModelStore().add(checkpoint_bytes(network, card), "tiny").stem


def random_image(seed: int) -> np.ndarray:
    """Skin with a brown nevus on the left, a blue melanoma on the right, and black hair below."""
    image = np.full((64, 96, 3), (220, 180, 160), np.uint8)
    image[10:40, 10:40] = (140, 80, 50)
    image[10:40, 56:86] = (60, 70, 130)
    image[46:60] = 10
    return image + np.random.default_rng(seed).integers(0, 8, image.shape).astype(np.uint8)


TRUTH = np.zeros((64, 96), np.uint8)
TRUTH[10:40, 10:40] = 1
TRUTH[10:40, 56:86] = 2
TRUTH[46:60] = 3


@pytest.fixture
def bench(qtbot: QtBot, make_napari_viewer: Any, tmp_path: Path, name: str) -> Workbench:
    folder = tmp_path / "study"
    Study.create(folder, "am", images={f"P{seed}": random_image(seed) for seed in range(3)}).close()
    viewer = make_napari_viewer()
    made = Workbench(viewer)
    viewer.window.add_dock_widget(made, name="LesionSeg", area="right")
    made.annotator.setText("am")
    made.panel(ModelPanel).models.choose(name)
    qtbot.waitUntil(lambda: made.panel(ModelPanel).models.loaded is not None, timeout=WAIT)
    made.open_folder(folder)
    qtbot.waitUntil(lambda: made.session is not None and made.session.editor is not None, timeout=WAIT)
    return made


def change(qtbot: QtBot, bench: Workbench, *classes: Any, adapt_model: Any = True) -> None:
    bench.panel(CorrectSection).apply(classes, adapt_model=adapt_model)
    qtbot.waitUntil(lambda: bench.panel(CorrectSection).task is None, timeout=WAIT)


def paint(editor: Any) -> None:
    """Paint the three classes with napari's own tools, the class chosen before each."""
    labels = editor.labels
    for kind in (1, 2, 3):
        editor.labels.selected_label = kind
        rows, cols = np.nonzero(kind == TRUTH)
        labels.data_setitem((rows, cols), labels.selected_label)
    rows, cols = np.nonzero((TRUTH == 0) & (labels.data > 0))
    labels.data_setitem((rows, cols), 0)


def test_three_classes_are_named_painted_trained_and_predicted(
    qtbot: QtBot, bench: Workbench, tmp_path: Path
) -> None:
    assert not bench.panel(CorrectSection).tools.paint.classes.isVisibleTo(bench)
    change(qtbot, bench, NEVUS, MELANOMA, HAIR)
    chooser = bench.panel(CorrectSection).tools.paint.classes
    assert chooser.isVisibleTo(bench)
    assert [chooser.itemText(place) for place in range(3)] == ["nevus", "melanoma", "hair"]
    qtbot.waitUntil(
        lambda: (
            bench.panel(ModelPanel).models.loaded is not None
            and bench.panel(ModelPanel).models.loaded.card.out_channels == 4
        ),
        timeout=WAIT,
    )
    grown = bench.panel(ModelPanel).models.loaded
    assert grown.card.classes == ("background", "nevus", "melanoma", "hair")
    assert grown.card.name == "tiny for 3 classes"
    session = bench.session
    assert session.model is grown
    for _ in range(3):
        correct(qtbot, bench)
    qtbot.waitUntil(lambda: all(s.status.done for s in session.study.state.images.values()), timeout=WAIT)
    learned = learn(qtbot, session, grown, tmp_path)
    predicted = learned.predict(random_image(9))
    assert predicted.shape == (4, 64, 96)
    found = predicted.argmax(axis=0)
    assert (found == TRUTH).mean() > 0.8
    for kind in (1, 2, 3):
        assert (found[kind == TRUTH] == kind).mean() > 0.3


def correct(qtbot: QtBot, bench: Workbench) -> None:
    """Paint the image on the screen, and approve it."""
    session = bench.session
    qtbot.waitUntil(
        lambda: session.editor is not None and not session.editor.requests.queue.is_busy, timeout=WAIT
    )
    shown, editor = session.image_id, session.editor
    assert np.allclose(editor.labels.colormap.color_dict[2], QColor(MELANOMA.color).getRgbF(), atol=0.01)
    paint(editor)
    qtbot.waitUntil(lambda: np.array_equal(editor.snapshot.mask, TRUTH))
    bench.panel(ReviewBar).approve.click()
    qtbot.waitUntil(lambda: session.study.state.images[shown].status.done, timeout=WAIT)


def learn(qtbot: QtBot, session: Any, model: Any, tmp_path: Path) -> Model:
    config = FineTuneConfig(
        epochs=200,
        encoder_lr=0.005,
        decoder_lr=0.01,
        freeze_norm=False,
        interpolations=(1.0,),
        rounds=4,
        average=0.9,
        augment=AugmentConfig(scale=(0.9, 1.1), aspect=0, shift=0.05, color=0, artifacts=0, blur=0),
    )
    run = FineTuneTask(session.study, model, config, tmp_path / "state.safetensors")
    results = []
    run.finished.connect(results.append)
    run.failed.connect(results.append)
    run.start()
    qtbot.waitUntil(lambda: bool(results), timeout=WAIT)
    assert not isinstance(results[0], Exception), results
    return results[0].model


def test_the_model_stays_unless_it_is_adapted(qtbot: QtBot, bench: Workbench) -> None:
    before = bench.panel(ModelPanel).models.loaded
    change(qtbot, bench, NEVUS, MELANOMA, adapt_model=False)
    assert bench.panel(ModelPanel).models.loaded is before
    assert len(bench.session.study.info.classes) == 2


def test_a_class_that_is_used_cannot_be_removed(
    qtbot: QtBot, bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = []
    monkeypatch.setattr(classes_module, "show_error", said.append)
    change(qtbot, bench, NEVUS, MELANOMA, adapt_model=False)
    mask = np.where(TRUTH == 2, 2, 0).astype(np.uint8)
    bench.session.study.save_correction(next(iter(bench.session.study.state.images)), mask)
    change(qtbot, bench, NEVUS, adapt_model=False)
    assert "“melanoma” cannot be removed" in said[0]
    assert [entry.name for entry in bench.session.study.info.classes] == ["nevus", "melanoma"]
    assert bench.panel(CorrectSection).tools.paint.edit_classes.isEnabled()


def test_an_unused_class_is_removed_and_the_model_shrinks(qtbot: QtBot, bench: Workbench) -> None:
    change(qtbot, bench, NEVUS, MELANOMA)
    qtbot.waitUntil(
        lambda: (
            bench.panel(ModelPanel).models.loaded is not None
            and bench.panel(ModelPanel).models.loaded.card.out_channels == 3
        ),
        timeout=WAIT,
    )
    change(qtbot, bench, NEVUS)
    qtbot.waitUntil(
        lambda: (
            bench.panel(ModelPanel).models.loaded is not None
            and bench.panel(ModelPanel).models.loaded.card.out_channels == 1
        ),
        timeout=WAIT,
    )
    assert bench.panel(ModelPanel).models.loaded.card.classes[1:] == ("nevus",)
    assert not bench.panel(CorrectSection).tools.paint.classes.isVisibleTo(bench)


def test_the_dialog(qtbot: QtBot) -> None:
    dialog = ClassesDialog([NEVUS])
    qtbot.addWidget(dialog)
    ok = dialog.buttons.button(QDialogButtonBox.StandardButton.Ok)
    assert not dialog.remove.isEnabled()
    dialog.add.click()
    assert dialog.problem.text() == "Give every class a name."
    assert not ok.isEnabled()
    dialog.names[1].setText("nevus ")
    assert "same name" in dialog.problem.text()
    dialog.names[1].setText("background")
    assert "reserved" in dialog.problem.text()
    dialog.names[1].setText("hair")
    dialog.set_color(1, QColor("#112233"))
    assert ok.isEnabled()
    assert dialog.classes == (NEVUS, StudyClass(name="hair", color="#112233"))
    dialog.names[0].setText("common nevus")
    dialog.remove.click()
    assert [entry.name for entry in dialog.classes] == ["common nevus"]
    dialog.add.click()
    assert dialog.colors[1].property("color") != dialog.colors[0].property("color")


def test_what_the_dialog_says_is_done(
    qtbot: QtBot, bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(dialog: Any) -> Any:
        dialog.names[0].setText("nevus")
        dialog.adapt_model.setChecked(False)
        return 1

    monkeypatch.setattr(ClassesDialog, "exec", answer)
    bench.panel(CorrectSection).tools.paint.edit_classes.click()
    qtbot.waitUntil(lambda: bench.panel(CorrectSection).task is None, timeout=WAIT)
    assert [entry.name for entry in bench.session.study.info.classes] == ["nevus"]
    assert bench.session.editor.labels.metadata["classes"] == ("background", "nevus")
