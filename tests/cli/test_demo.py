from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_lesionseg.cli import demo
from napari_lesionseg.datasets.synthetic import sample_set


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "sample_set", lambda: sample_set(2))


def stems() -> list[str]:
    return [sample.name for sample in sample_set(2)]


@pytest.mark.parametrize("words", [[], ["--no-viewer"]])
def test_without_a_display(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setattr(demo, "why_no_viewer", lambda: "there is no display")
    out = tmp_path / "dèmo"
    result = run("demo", "--out", out, *words)
    assert result.code == 0
    assert not result.err
    assert str(out) in result.out
    assert ("viewer stays closed: there is no display" in result.out) == (not words)
    for stem in stems():
        image = np.array(Image.open(out / "images" / f"{stem}.png"))
        assert np.array(Image.open(out / f"{stem}_segmentation.png")).shape == image.shape[:2]
        assert np.array(Image.open(out / f"{stem}_overlay.png")).shape == image.shape
    assert run("demo", "--out", out, *words).code == 0  # again, over what is there


def test_the_viewer_opens_on_what_was_written(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr(demo, "why_no_viewer", lambda: "")
    monkeypatch.setattr(demo, "open_viewer", lambda *what: opened.append(what))
    assert run("demo", "--out", tmp_path / "o").code == 0
    ((folder, images, masks),) = opened
    assert folder is None
    assert [path.stem for path in images] == stems()
    assert all(path.is_file() for path in (*images, *masks))


def test_a_place_that_cannot_be_written(run: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("demo", "--no-viewer", "--out", tmp_path / "file")
    assert result.code == 2
    assert len(result.errors) == 1
