"""Take screenshots for the documentation, with synthetic images only.

    xvfb-run -a -s "-screen 0 1366x768x24" python tools/screenshots.py [NAME ...]

They are written to ``docs/images``, or with ``--out`` to another folder. Look at them before they are
committed. ``--size 2560x1440`` needs a screen that large, and shows whether the window is usable there.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
from napari.qt import get_stylesheet
from numpy.typing import NDArray
from PIL import Image
from qtpy.QtCore import QEventLoop, QTimer
from qtpy.QtWidgets import QDialog
from scipy import ndimage
from skimage.measure import find_contours
from skimage.transform import SimilarityTransform, warp

from napari_lesionseg.cluster.engine import ClusterOptions, open_engine
from napari_lesionseg.datasets.landmarks.records import marks_of
from napari_lesionseg.datasets.landmarks.skeletons import describe_skeleton
from napari_lesionseg.datasets.synthetic import FIGURE_SKELETON, synthetic_figure, synthetic_sample
from napari_lesionseg.models.store import FOLDER_VARIABLE
from napari_lesionseg.plugin.commands import make_viewer
from napari_lesionseg.plugin.instances.measurements_panel import MeasurementsPanel
from napari_lesionseg.plugin.instances.panel import InstancesPanel
from napari_lesionseg.plugin.segment.tiled_widget import TiledWidget
from napari_lesionseg.plugin.workbench.classes import ClassesDialog
from napari_lesionseg.plugin.workbench.panels.base import ModelPanel
from napari_lesionseg.plugin.workbench.panels.compute import CLUSTER, ComputePanel
from napari_lesionseg.plugin.workbench.panels.export import ExportPanel
from napari_lesionseg.plugin.workbench.panels.fields import FieldsPanel
from napari_lesionseg.plugin.workbench.panels.finetune import FinetunePanel
from napari_lesionseg.plugin.workbench.panels.followup import FollowUpPanel
from napari_lesionseg.plugin.workbench.panels.queue import QueuePanel
from napari_lesionseg.plugin.workbench.panels.review_bar import ReviewBar
from napari_lesionseg.plugin.workbench.panels.reviewer import ReviewerPanel
from napari_lesionseg.plugin.workbench.panels.start import NewStudyDialog
from napari_lesionseg.plugin.workbench.panels.visits import VisitsDialog
from napari_lesionseg.plugin.workbench.widget import Workbench
from napari_lesionseg.study.events import Identified, StudyClass
from napari_lesionseg.study.fields import StudyFields
from napari_lesionseg.study.review import mark_gold, return_image
from napari_lesionseg.study.study import Study
from napari_lesionseg.types import OCCLUDED, Click, Prompts

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
options = argparse.Namespace(out=IMAGES, size=(1366, 768))
APPROVED, WIDER, LEARN_SECONDS = 12, 14, 90
STRIP_HEIGHT, STRIP_GAP = 240, 6  # of a row of images, in pixels
PATIENCE_S = 600


def spin(seconds: float) -> None:
    """Process events for a while."""
    loop = QEventLoop()
    QTimer.singleShot(round(1000 * seconds), loop.quit)
    loop.exec()


def wait_for(done: Callable[[], bool]) -> None:
    """Process events until something is done."""
    end = time.monotonic() + PATIENCE_S
    while not done():
        spin(0.2)
        if time.monotonic() > end:
            raise TimeoutError("the window did not finish in time")


def open_window() -> napari.Viewer:
    """Open napari's own window."""
    viewer = napari.Viewer()
    viewer.window.resize(*options.size)
    return viewer


def open_own_window() -> tuple[napari.Viewer, Workbench]:
    """Open the window of `lesionseg`, with the workbench."""
    viewer = make_viewer(None, (), ())
    main = viewer.window._qt_window
    main.showNormal()
    viewer.window.resize(*options.size)
    bench = main.findChild(Workbench)
    wait_for(lambda: bench.panel(ModelPanel).models.loaded is not None)
    bench.annotator.setText("am")
    return viewer, bench


def save(viewer: napari.Viewer, name: str) -> None:
    """Take a screenshot once everything is drawn, in as few colors as it needs."""
    spin(2)
    shot = Image.fromarray(viewer.screenshot(canvas_only=False, flash=False)[..., :3])
    # Most colors for the image, and some for words and lines, which are too small to get any otherwise.
    many, rare = shot.quantize(200), shot.quantize(56, Image.Quantize.MAXCOVERAGE)
    colors = Image.new("P", (1, 1))
    colors.putpalette([*(many.getpalette() or ())[:600], *(rare.getpalette() or ())[:168]])
    few = shot.quantize(palette=colors, dither=Image.Dither.NONE)
    few.save(options.out / f"{name}.png", optimize=True)


def take(viewer: napari.Viewer, name: str) -> None:
    """Take the last screenshot of a window."""
    save(viewer, name)
    viewer.close()


def show_only(bench: Workbench, title: str) -> None:
    """Unfold one panel besides the list of images, and fold all others."""
    for panel, heading in bench.sections.headings.items():
        heading.setChecked(panel.grows or panel.title == title)


def make_study(folder: Path) -> None:
    """Create a study whose annotator draws wider outlines than the model."""
    samples = {f"nevus-{seed:02d}": synthetic_sample(seed) for seed in range(1, APPROVED + 3)}
    with Study.create(folder, "am", images={name: s.image for name, s in samples.items()}) as study:
        for image, state in list(study.state.images.items())[:APPROVED]:
            wide = ndimage.binary_dilation(samples[state.name].mask, iterations=WIDER)
            study.approve(image, wide.astype(np.uint8))


def open_workbench(folder: Path) -> Workbench:
    """Open a study in the workbench and wait for its first outline."""
    _, bench = open_own_window()
    bench.open_folder(folder)
    wait_for(lambda: bench.session is not None and bench.session.editor is not None)
    return bench


def open_nevi(folder: Path) -> Workbench:
    """Open a study in which one image is approved and one is flagged."""
    samples = {f"nevus-{seed:02d}": synthetic_sample(seed) for seed in range(1, 13)}
    images = {name: sample.image for name, sample in samples.items()}
    with Study.create(folder / "nevi-2026", "bk", images=images) as study:
        first, second = list(study.state.images)[:2]
        study.approve(first, samples["nevus-01"].mask)
        study.flag(second, "hair?")
    bench = open_workbench(folder / "nevi-2026")
    wait_for(lambda: bench.session.editor.snapshot.mask.any())
    return bench


def click_below(bench: Workbench) -> None:
    """Correct the outline by a click on its lowest point."""
    editor = bench.session.editor
    rows, cols = np.nonzero(editor.snapshot.mask)
    editor.add_stroke(Click(int(rows.max()), int(cols[rows.argmax()]), positive=True))
    wait_for(lambda: not editor.requests.queue)


def workbench(folder: Path) -> None:
    """Show a study in which some images are reviewed, with an outline corrected by a click."""
    bench = open_nevi(folder)
    click_below(bench)
    take(bench._viewer, "workbench")


def loop_open(folder: Path) -> None:
    """Show the window as it opens."""
    del folder
    take(open_own_window()[0], "loop-open")


def loop_review(folder: Path) -> None:
    """Show an outline, its correction, and the next image after the approval."""
    bench = open_nevi(folder)
    save(bench._viewer, "loop-outline")
    click_below(bench)
    save(bench._viewer, "loop-correct")
    opened = bench.session.editor
    bench.panel(ReviewBar).approve.click()
    wait_for(lambda: bench.session.editor is not None and bench.session.editor is not opened)
    take(bench._viewer, "loop-approve")


def phone_photo(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw a pale lesion in uneven light, as in a photo without a dermoscope, and its mask."""
    sample = synthetic_sample(seed, (420, 560), artifacts=False)
    skin = np.median(sample.image, axis=(0, 1))
    light = np.linspace(1, 0.65, 560)[None, :, None]
    pale = (skin + (sample.image - skin) * 0.15) * light
    return pale.clip(0, 255).astype(np.uint8), sample.mask > 0


def rough_lasso(mask: NDArray[np.bool_]) -> tuple[tuple[float, float], ...]:
    """Draw around a mask, too wide and without its detail."""
    blurred = ndimage.gaussian_filter(ndimage.binary_dilation(mask, iterations=6).astype(float), 8)
    outline = max(find_contours(blurred, 0.5), key=len)
    return tuple((row, col) for row, col in outline[::4].tolist())


def gesture(folder: Path) -> None:
    """Show a photo, its poor outline, a lasso being drawn, the answer, and the window after the approval."""
    photo, truth = phone_photo(38)
    images = {"photo-1": photo, "photo-2": phone_photo(27)[0]}
    with Study.create(folder / "photos", "bk", images=images):
        pass
    bench = open_workbench(folder / "photos")
    viewer, editor = bench._viewer, bench.session.editor
    wait_for(lambda: editor.snapshot.mask.any())
    shots = []

    def shoot(*, canvas_only: bool = True) -> None:
        spin(1)
        shot = Image.fromarray(viewer.screenshot(canvas_only=canvas_only, flash=False)[..., :3])
        if canvas_only:  # the image fills the middle of the canvas
            side = min(shot.width, shot.height * 4 // 3)
            left = (shot.width - side) // 2
            shot = shot.crop((left, 0, left + side, shot.height))
        shots.append(shot.resize((shot.width * STRIP_HEIGHT // shot.height, STRIP_HEIGHT)))

    editor.labels.visible = False
    shoot()
    editor.labels.visible = True
    shoot()
    lasso = rough_lasso(truth)
    editor.document.overlay.show_lasso(lasso[: len(lasso) * 3 // 4])
    shoot()
    editor.document.overlay.show_lasso(())
    before = editor.snapshot.mask
    editor.add_area(Prompts(lasso=lasso))
    wait_for(lambda: (editor.snapshot.mask != before).any())
    shoot()
    bench.panel(ReviewBar).approve.click()
    wait_for(lambda: bench.session.editor is not None and bench.session.editor is not editor)
    shoot(canvas_only=False)
    viewer.close()
    strip = Image.new(
        "RGB", (sum(shot.width + STRIP_GAP for shot in shots) - STRIP_GAP, STRIP_HEIGHT), "white"
    )
    left = 0
    for shot in shots:
        strip.paste(shot, (left, 0))
        left += shot.width + STRIP_GAP
    strip.quantize(256, dither=Image.Dither.NONE).save(options.out / "gesture.png", optimize=True)


def export(folder: Path) -> None:
    """Show a dataset that was exported."""
    make_study(folder / "nevi-2026")
    bench = open_workbench(folder / "nevi-2026")
    panel = bench.panel(ExportPanel)
    show_only(bench, "Export")
    panel.start(folder / "nevi-isic")
    wait_for(lambda: panel.task is None)
    take(bench._viewer, "export")


def unfolded(folder: Path) -> None:
    """Show the workbench with every section unfolded."""
    make_study(folder / "nevi-2026")
    bench = open_workbench(folder / "nevi-2026")
    for panel in bench.panels:
        panel.unfold.emit()
    take(bench._viewer, "unfolded")


def new_study(folder: Path) -> None:
    """Show the dialog for a new study."""
    (folder / "images").mkdir()
    viewer = open_window()
    dialog = NewStudyDialog("am", {})
    dialog.images.set_path(Path("images"))
    take_dialog(viewer, dialog, "new-study")


def classes(folder: Path) -> None:
    """Show the dialog for the classes of a study."""
    del folder
    viewer = open_window()
    names = {"nevus": "#56b4e9", "melanoma": "#e69f00", "hair": "#009e73"}
    dialog = ClassesDialog([StudyClass(name=name, color=color) for name, color in names.items()])
    take_dialog(viewer, dialog, "classes")


def take_dialog(viewer: napari.Viewer, dialog: QDialog, name: str) -> None:
    """Take a screenshot of a dialog in napari's style."""
    dialog.setStyleSheet(get_stylesheet("dark"))
    dialog.show()
    spin(1)
    dialog.grab().save(str(options.out / f"{name}.png"))
    dialog.close()
    viewer.close()


def lesions(folder: Path) -> None:
    """Show lesions that are numbered and measured."""
    del folder
    sample = synthetic_sample(6, (560, 768), n_lesions=4)
    viewer = open_window()
    viewer.add_image(sample.image, name="arm", rgb=True)
    viewer.add_labels(sample.mask, name="arm outline")
    panel, measurements = InstancesPanel(viewer), MeasurementsPanel(viewer)
    viewer.window.add_dock_widget(panel, name="Single lesions", area="right")
    viewer.window.add_dock_widget(measurements, name="Measure lesions", area="right")
    spin(1)
    panel.numbering.button.click()
    wait_for(lambda: not panel.numbering.is_running)
    spin(1)
    measurements.measure.click()
    wait_for(lambda: not measurements.model.is_running)
    panel.table.selectRow(1)
    viewer.reset_view()
    take(viewer, "lesions")


def fine_tune(folder: Path) -> None:
    """Show the result of fine-tuning with its curve."""
    make_study(folder / "nevi-2026")
    bench = open_workbench(folder / "nevi-2026")
    panel = bench.panel(FinetunePanel)
    show_only(bench, "Fine-tune")
    panel.controls.seconds.setValue(LEARN_SECONDS)
    panel.controls.start.click()
    wait_for(lambda: panel.task is None)
    if panel.candidate is None:
        raise RuntimeError(panel.message.text())
    panel.progress.result.click()
    take(bench._viewer, "fine-tune")


def large_image(folder: Path) -> None:
    """Show a tiled segmentation of an image with twelve megapixels."""
    drawn = Image.fromarray(synthetic_sample(6, (750, 1000), n_lesions=7).image)
    viewer = open_window()
    viewer.add_image(np.array(drawn.resize((4000, 3000), Image.Resampling.BICUBIC)), name="back", rgb=True)
    widget = TiledWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Segment a very large image", area="right")
    wait_for(lambda: widget.models.choice is not None and widget.models.model.count() > 0)
    widget.form.width_of_lesions.setValue(600)
    widget.segment.click()
    wait_for(lambda: widget.outline.labels is not None)
    take(viewer, "large-image")


def fields(folder: Path) -> None:
    """Show the form for the fields of an image, filled in."""
    bench = open_nevi(folder)
    panel = bench.panel(FieldsPanel)
    show_only(bench, panel.title)
    image_id = bench.session.image_id
    values = {"diagnosis": "nevus", "anatom_site_general": "anterior torso", "fitzpatrick_skin_type": "II"}
    values |= {"image_type": "dermoscopic", "pigment_network": "typical", "taken_on": "2026-03-01"}
    for name, value in values.items():
        bench.session.fields.set(image_id, name, value)
    bench.session.fields.identify(image_id, "017", "2")
    take(bench._viewer, "fields")


def follow_up(folder: Path) -> None:
    """Show three visits of one lesion, with the outline of the last one carried over to the next."""
    sample = synthetic_sample(3)
    center = SimilarityTransform(translation=np.array(sample.image.shape[1::-1]) / 2)
    visits = {}
    for number, (degrees, scale) in enumerate(((0, 1.0), (25, 1.08), (-15, 1.15)), 1):
        turn = SimilarityTransform(rotation=np.deg2rad(degrees), scale=scale)
        back = (center.inverse + turn + center).inverse
        pixels = warp(sample.image, back, mode="reflect")
        mask = warp(sample.mask, back, order=0, preserve_range=True).astype(np.uint8)
        visits[f"visit-{number}"] = (255 * pixels).astype(np.uint8), mask
    images = {name: image for name, (image, _) in visits.items()}
    with Study.create(folder / "nevi-2026", "am", images=images) as study:
        fields = StudyFields(study)
        for number, (image_id, state) in enumerate(study.state.images.items(), 1):
            study.record(Identified, image_id, patient="017", lesion="2")
            fields.set(image_id, {"taken_on": f"2026-0{2 * number}-01", "mm_per_pixel": 0.02})
            if number < len(visits):
                study.approve(image_id, visits[state.name][1])
    bench = open_workbench(folder / "nevi-2026")
    show_only(bench, FollowUpPanel.title)
    panel = bench.panel(FollowUpPanel)
    wait_for(lambda: panel.table.rowCount() == len(visits))
    panel.compare.click()
    dialog = panel.findChild(VisitsDialog)
    wait_for(lambda: not dialog.images[-1].pixmap().isNull())
    path = options.out / "visits.png"
    dialog.grab().save(str(path))
    Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    dialog.close()
    take(bench._viewer, "follow-up")


def review(folder: Path) -> None:
    """Show a reviewer's work on the outlines of two annotators, who were measured by a gold standard."""
    samples = {f"nevus-{seed:02d}": synthetic_sample(seed) for seed in range(1, 13)}
    images = {name: sample.image for name, sample in samples.items()}
    where = folder / "nevi-2026"
    with Study.create(where, "chief", images=images) as study:
        for image_id in list(study.state.images)[:5]:
            study.approve(image_id, samples[study.state.images[image_id].name].mask)
            mark_gold(study, image_id)
    for width, annotator in enumerate(("am", "bk")):
        with Study.open(where, annotator) as study:
            for place, image_id in enumerate(list(study.state.images)[: 9 - 2 * width]):
                mask = samples[study.state.images[image_id].name].mask
                wide = ndimage.binary_dilation(mask, iterations=2 + 5 * width + (place * 3) % 4)
                study.approve(image_id, wide.astype(np.uint8))
    with Study.open(where, "chief", reviewer=True) as study:
        study.approve(list(study.state.images)[7])
        return_image(study, list(study.state.images)[8], "too wide at the top")
    bench = open_workbench(where)
    opened = bench.session
    bench.start.open_folder(where, "chief")
    wait_for(lambda: bench.session not in (None, opened) and bench.session.editor is not None)
    show_only(bench, ReviewerPanel.title)
    wait_for(lambda: bench.panel(ReviewerPanel).table.rowCount() > 1)
    take(bench._viewer, "review")


def compute(folder: Path) -> None:
    """Show a cluster that is connected."""
    with open_engine(ClusterOptions(workers=2), threads=1) as engine:
        bench = open_nevi(folder)
        panel = bench.panel(ComputePanel)
        show_only(bench, ComputePanel.title)
        panel.where.setCurrentText(CLUSTER)
        panel.address.setText(engine.client.scheduler.address)
        panel.test.click()
        wait_for(panel.test.isEnabled)
        bench.panel(QueuePanel).predict_all.click()
        wait_for(lambda: not bench.session.batch.is_active)
        take(bench._viewer, "compute")


def landmarks(folder: Path) -> None:
    """Show a study of landmarks, half marked."""
    figures = [synthetic_figure(seed, (480, 640), people=2) for seed in range(2, 7)]
    images = {f"posture-{number:02d}": figure.image for number, figure in enumerate(figures, 1)}
    place = folder / "posture"
    with Study.create(place, "am", images=images, landmarks=FIGURE_SKELETON) as study:
        for image, figure in list(zip(study.state.images, figures, strict=True))[:2]:
            study.approve(image, marks_of(figure.landmarks, FIGURE_SKELETON))
    bench = open_workbench(place)
    marks = marks_of(figures[2].landmarks, FIGURE_SKELETON)
    wait_for(lambda: bench.session.state.name == "posture-03")
    hidden = marks[16]._replace(visibility=OCCLUDED)
    bench.session.editor.put((*marks[:16], hidden, *marks[17:23]), "prediction")
    bench.session.editor.start_person()
    bench.session.editor.choose(7)
    take(bench._viewer, "landmarks")


def landmark_widget(folder: Path) -> None:
    """Show the widget for landmarks of open images."""
    del folder
    viewer = open_window()
    figure = synthetic_figure(3, (480, 640), people=1)
    viewer.add_image(figure.image, name="posture", rgb=True)
    _, widget = viewer.window.add_plugin_dock_widget("napari-lesionseg", "Landmarks")
    widget.names.setEditText(describe_skeleton(FIGURE_SKELETON))
    widget.names.lineEdit().home(False)
    widget.mark().put(marks_of(figure.landmarks, FIGURE_SKELETON), "prediction")
    take(viewer, "landmark-widget")


IN_DOCS = {
    "workbench": workbench,
    "new-study": new_study,
    "classes": classes,
    "lesions": lesions,
    "fine-tune": fine_tune,
    "large-image": large_image,
    "loop-open": loop_open,
    "loop-review": loop_review,
    "gesture": gesture,
    "fields": fields,
    "follow-up": follow_up,
    "review": review,
    "compute": compute,
    "landmarks": landmarks,
}
OTHERS = {"export": export, "unfolded": unfolded, "landmark-widget": landmark_widget}


def known_name(name: str) -> str:
    """Return the name of a screenshot; raise if there is none."""
    if name not in IN_DOCS | OTHERS:
        raise argparse.ArgumentTypeError(f"choose from {', '.join(IN_DOCS | OTHERS)}")
    return name


def main() -> int:
    """Take the named screenshots, or all of the documentation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    # Not `choices`: with nargs="*", Python 3.11 looks for the whole default among them.
    parser.add_argument("names", nargs="*", type=known_name, default=list(IN_DOCS), metavar="NAME")
    parser.add_argument("--size", type=lambda text: tuple(map(int, text.split("x"))), default=options.size)
    parser.add_argument("--out", type=Path, default=IMAGES)
    parser.parse_args(namespace=options)
    options.out = options.out.absolute()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names:
        # In a folder of its own, so that short paths are shown.
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            os.environ[FOLDER_VARIABLE] = str(Path(folder) / "models")
            (IN_DOCS | OTHERS)[name](Path(folder))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
