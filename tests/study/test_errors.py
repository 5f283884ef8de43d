"""Whatever the disk refuses, nothing is lost, the annotator gets a message, and saving works again."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from scenario import plan, read_world
from seam import Tap, fail_at

from conftest import MEMORY, SHAPE, noise
from napari_lesionseg.errors import StudyError
from napari_lesionseg.study.study import Study, find_damage

ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EIO: "Input/output error",
    errno.EACCES: "permission denied",
}


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """A study with two approved images and one that waits."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as scratch:
        folder = Path(scratch) / "study"
        with Study.create(folder, "am", images={f"nevus {n}": noise(n) for n in range(3)}) as study:
            for image_id in list(study.state.images)[:2]:
                study.approve(image_id, np.ones(SHAPE, np.uint8))
        yield folder


def count_points(template: Path, copy: Path, act: Callable[[Study], object]) -> list[str]:
    """Name the points that an action passes in a study."""
    names: list[str] = []
    shutil.copytree(template, copy)
    with Study.open(copy, "am") as study, Tap(copy, lambda point, name: names.append(name)):
        act(study)
    return names


def draw_and_approve(study: Study) -> object:
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:5, 3:9] = 1
    return study.approve(list(study.state.images)[2], labels)


def set_aside(study: Study) -> object:
    return study.flag(next(iter(study.state.images)), "hair?")


def bring_in(study: Study) -> object:
    return study.add_images(images={"new": noise(77)})


def point_to(study: Study) -> object:
    return study.set_images_folder(study.folder.parent)


ACTIONS = {act.__name__: act for act in (draw_and_approve, set_aside, bring_in, point_to)}


@pytest.mark.parametrize("lasting", [False, True], ids=["passing", "lasting"])
@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("act", ACTIONS.values(), ids=ACTIONS)
def test_every_call_may_fail(
    template: Path, scratch: Path, act: Callable[[Study], object], error: int, lasting: bool
) -> None:
    points = count_points(template, scratch / "count", act)
    assert len([name for name in points if not name.startswith("after")]) >= 4
    for number, name in enumerate(points):
        folder = scratch / str(number)
        shutil.copytree(template, folder)
        with Study.open(folder, "am") as study:
            check_one_fault(study, act, Tap(folder, fail_at(number, error, lasting=lasting)), name, error)
        shutil.rmtree(folder)


def check_one_fault(study: Study, act: Callable[[Study], object], tap: Tap, name: str, error: int) -> None:
    """Make an action fail once, check the study, do it again."""
    before, info, caught = study.state, study.info, None
    with tap:
        try:
            act(study)
        except StudyError as error_seen:
            caught = error_seen
    if caught is not None:
        assert ERRORS[error] in str(caught), name
        assert study.state is before, name
        assert study.info is info, name
        with Study.open(study.folder, "bo") as other:
            assert other.problems == (), name
            assert all(
                other.state.images[image_id].approved == state.approved
                for image_id, state in before.images.items()
                if state.approved
            ), name
    # What is only asked for after the work is done, or again by itself, may go unnoticed.
    assert caught or name.startswith("after") or error == errno.EACCES or "replacing" in name, name
    if caught is not None:
        act(study)
    world = read_world(study)
    with Study.open(study.folder, "am") as again:
        assert again.problems == (), name
        assert read_world(again) == world, name
        assert again.info == study.info, name
        assert find_damage(again) == (), name
    assert not list(study.folder.rglob("*.tmp")), name


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
def test_making_a_study_may_fail_anywhere_and_be_tried_again(scratch: Path, error: int) -> None:
    images = {f"nevus {n}": noise(n) for n in range(2)}
    names: list[str] = []
    with Tap(scratch, lambda point, name: names.append(name)):
        Study.create(scratch / "first", "am", images=images)
    assert len(names) > 30
    for number, name in enumerate(names):
        folder = scratch / str(number)
        with Tap(scratch, fail_at(number, error, lasting=True)), contextlib.suppress(StudyError):
            Study.create(folder, "am", images=images)
        if not (folder / "study.json").exists() or not Study.open(folder, "am").state.images:
            Study.create(folder, "am", images=images)
        with Study.open(folder, "am") as study:
            assert len(study.state.images) == 2, name
            assert study.problems == find_damage(study) == (), name


def test_a_whole_round_of_work_while_the_disk_comes_and_goes(template: Path, tmp_path: Path) -> None:
    """Each step fails at a point of its own before it is done again."""
    folder = tmp_path / "study"
    shutil.copytree(template, folder)
    with Study.open(folder, "am") as study:
        image_id = list(study.state.images)[2]
        work = plan([image_id], 2, before={image_id: read_world(study)[image_id]})
        for number, (step, world) in enumerate(zip(work.steps, work.worlds[1:], strict=True)):
            with contextlib.suppress(StudyError), Tap(folder, fail_at(number % 9, errno.EIO, lasting=True)):
                step(study)
            step(study)
            seen = read_world(study)[image_id]
            assert (seen.status, seen.outline) == (world[image_id].status, world[image_id].outline)
    with Study.open(folder, "am") as again:
        assert again.state == study.state
        assert again.problems == ()


def test_an_event_file_that_cannot_be_read_is_reported_and_the_others_are_read(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "study"
    shutil.copytree(template, folder)
    broken = next(path for path in (folder / "events").iterdir() if b"approved" in path.read_bytes())
    real = Path.open

    def opening(path: Path, *args: object, **named: object) -> object:
        if path == broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, *args, **named)

    monkeypatch.setattr(Path, "open", opening)
    with Study.open(folder, "am") as study:
        assert len(study.state.images) == 3
        assert [problem.reason for problem in study.problems] == ["it cannot be read (Input/output error)"]
        monkeypatch.undo()
        assert len(study.refresh()) == 2
        assert sum(state.status.done for state in study.state.images.values()) == 2


def test_a_folder_that_disappears_and_comes_back(template: Path, tmp_path: Path) -> None:
    folder, away = tmp_path / "study", tmp_path / "away"
    shutil.copytree(template, folder)
    with Study.open(folder, "am") as study:
        set_aside(study)
        before = study.state
        folder.rename(away)
        for act in (draw_and_approve, set_aside, bring_in, Study.refresh):
            with pytest.raises(StudyError, match="cannot be reached"):
                act(study)
        with pytest.raises(StudyError, match="missing"):
            study.read_mask(next(iter(study.state.images)))
        assert study.state is before
        assert not folder.exists()
        away.rename(folder)
        draw_and_approve(study)
        study.refresh()
    with Study.open(folder, "am") as again:
        assert again.state == study.state
        assert again.problems == find_damage(again) == ()


def test_a_folder_that_is_taken_away_for_good_and_put_back_from_a_backup(
    template: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    shutil.copytree(template, folder)
    with Study.open(folder, "am") as study:
        set_aside(study)
        shutil.rmtree(folder)
        with pytest.raises(StudyError, match="cannot be reached"):
            draw_and_approve(study)
        shutil.copytree(template, folder)
        draw_and_approve(study)
    with Study.open(folder, "am") as again:
        assert again.problems == find_damage(again) == ()
        assert all(state.approved for state in again.state.images.values())


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Take the right to write away, also from the superuser."""
    everything = [folder, *folder.rglob("*")]
    modes = {path: path.stat().st_mode for path in everything}
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(0)
        for path, mode in modes.items():
            path.chmod(mode)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such rights on folders")
def test_a_read_only_study_can_be_opened(template: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o755)
        folder = Path(scratch) / "study"
        shutil.copytree(template, folder)
        with Study.open(folder, "am") as study:
            expected = read_world(study)
        with read_only(folder), Study.open(folder, "am") as study:
            assert read_world(study) == expected
            for act in (draw_and_approve, set_aside, bring_in):
                with pytest.raises(StudyError, match="permission denied"):
                    act(study)
            assert read_world(study) == expected
        draw_and_approve(study := Study.open(folder, "am"))
        assert find_damage(study) == ()


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from napari_lesionseg.errors import StudyError
from napari_lesionseg.study.study import Study, find_damage

study = Study.open(Path(sys.argv[1]), "am")
image = list(study.state.images)[2]
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
rng = np.random.default_rng(0)
approved = []
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), hard))
while True:
    labels = rng.integers(0, 2, study.state.images[image].shape, np.uint8)
    try:
        study.approve(image, labels)
    except StudyError as error:
        assert "the disk is full" in str(error), error
        break
    approved.append(labels)
    assert len(approved) < 100
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
study.approve(image, labels)
again = Study.open(Path(sys.argv[1]), "am")
assert again.problems == find_damage(again) == ()
assert again.state == study.state
found = [again.read_revision(entry) for entry in again.history(image) if entry.event == "approved"]
assert [labels.tolist() for labels in found] == [labels.tolist() for labels in [*approved, labels]]
sys.stdout.write(str(len(approved)))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
@pytest.mark.parametrize(("limit", "fits"), [(40, False), (2000, True)], ids=["mask", "events"])
def test_a_real_limit_on_what_can_be_written(template: Path, tmp_path: Path, limit: int, fits: bool) -> None:
    """The system itself cuts a write short: of the mask, or in the middle of a line of the event log."""
    folder = tmp_path / "study"
    shutil.copytree(template, folder)
    command = [sys.executable, "-c", FULL_DISK, str(folder), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (int(done.stdout) > 0) is fits
