from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from napari_lesionseg.cli import models as module
from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import read_card
from napari_lesionseg.models.mixture import DomainStatistics


@pytest.mark.parametrize("words", [["models"], ["models", "list"]])
def test_the_list(run: Callable, save_model: Callable, models: Path, words: list[str]) -> None:
    save_model(models / "mine æ.safetensors", scores={"ph2": {"jaccard": 0.87654}, "note": "x"})
    result = run(*words)
    assert result.code == 0
    assert not result.err
    assert [name for name in ("default", "mine æ", "tiny") if name in result.out] == [
        "default",
        "mine æ",
        "tiny",
    ]
    assert "shipped" in result.out
    assert "ph2 0.877" in result.out
    assert "[red]" in result.out


def test_damaged_models_are_listed_as_such(run: Callable, models: Path) -> None:
    (models / "broken [b].safetensors").write_bytes(b"junk")
    result = run("models")
    assert result.code == 1
    assert "broken [b]" in result.out
    assert "damaged" in result.out
    assert len(result.errors) == 1
    assert "broken [b].safetensors" in result.errors[0]


def test_a_card(run: Callable) -> None:
    result = run("models", "show", "tiny")
    assert result.code == 0
    assert json.loads(result.out)["name"] == "tiny [/b]"
    assert json.loads(result.out)["domain"] is None


def test_a_card_is_shown_without_its_long_lists(run: Callable, save_model: Callable, models: Path) -> None:
    domain = DomainStatistics.of(np.random.default_rng(0).normal(size=(90, 48)))
    path = save_model(models / "mine.safetensors", domain=domain)
    result = run("models", "show", "mine")
    assert result.code == 0
    assert json.loads(result.out)["domain"] == {"images": 90}
    assert "covariance" not in result.out
    assert read_card(path).domain == domain  # the file has them


def test_add_rename_remove(run: Callable, save_model: Callable, models: Path, tmp_path: Path) -> None:
    given = save_model(tmp_path / "given æ.safetensors")
    assert run("models", "add", given).out == "added as given æ\n"
    assert run("models", "add", given).out == "added as given æ-2\n"
    assert run("models", "add", given, "--name", "clinic").out == "added as clinic\n"
    assert run("models", "rename", "clinic", "our clinic").out == "renamed to our clinic\n"
    assert run("models", "remove", "given æ-2").code == 0
    assert {path.stem for path in models.iterdir()} == {"tiny", "given æ", "our clinic"}


def test_what_cannot_be_done(run: Callable, save_model: Callable, models: Path, tmp_path: Path) -> None:
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "photo.png").write_text("no model")
    given = save_model(tmp_path / "given.safetensors")
    for words in (
        ("show", "none"),
        ("add", tmp_path / "none.safetensors"),
        ("add", tmp_path),
        ("add", tmp_path / "junk.safetensors"),
        ("add", tmp_path / "empty.safetensors"),
        ("add", tmp_path / "photo.png"),
        ("add", given, "--name", "../up"),
        ("add", given, "--license", "CC0"),
        ("rename", "tiny", "a/b"),
        ("rename", "none", "some"),
        ("rename", "default", "mine"),
        ("rename", "tiny", "default"),
        ("remove", "none"),
        ("remove", "default"),
        ("remove", "../weights/default"),
        ("export-onnx", "none", "--out", tmp_path / "x.onnx"),
        ("export-onnx", "tiny", "--out", tmp_path / "x.safetensors"),
    ):
        result = run("models", *words)
        assert result.code == 2, words
        assert len(result.errors) == 1
        assert not result.out
    assert {path.name for path in models.iterdir()} == {"tiny.safetensors"}


@pytest.mark.parametrize(
    ("name", "content", "answer"),
    [
        ("x.safetensors", b"", "x.safetensors is empty; copy the model again."),
        ("x.png", b"text", "x.png is no model file, or damaged"),
        ("x.onnx", b"text", "use it where it is, as --model"),
    ],
)
def test_what_is_no_model_is_told(
    run: Callable, tmp_path: Path, name: str, content: bytes, answer: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert answer in run("models", "add", tmp_path / name).err


def test_export(run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = []

    def note(network: SegmentationNetwork, card: ModelCard, path: Path) -> float:
        exported.append((card.name, path))
        return 3e-6

    monkeypatch.setattr(module, "export_onnx", note)
    result = run("models", "export-onnx", "tiny", "--out", tmp_path / "t.onnx")
    assert result.code == 0
    assert exported == [("tiny [/b]", tmp_path / "t.onnx")]
    assert "3e-06" in result.out
