from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from napari_lesionseg.errors import CheckpointError, ModelNotFoundError
from napari_lesionseg.io.atomic import sha256_file
from napari_lesionseg.models import store as module
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import checkpoint_bytes, load_checkpoint
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.models.store import ModelStore


@pytest.fixture
def shipped(tmp_path: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one shipped model of these tests."""
    path = tmp_path / "weights" / "shipped-1.0.safetensors"
    path.parent.mkdir()
    path.write_bytes(model_file.read_bytes())
    monkeypatch.setattr(module.resources, "files", lambda package: tmp_path)
    return path


@pytest.fixture
def store(tmp_path: Path, shipped: Path) -> ModelStore:
    return ModelStore(tmp_path / "models æø")


def names(store: ModelStore) -> list[str]:
    return [entry.name for entry in store.list()]


def test_the_shipped_model_comes_first(store: ModelStore, shipped: Path, model_file: Path) -> None:
    store.add(model_file, "aaa")
    first, second = store.list()
    assert (first.name, first.shipped, first.path) == ("shipped-1.0", True, shipped)
    assert (second.name, second.shipped) == ("aaa", False)
    assert second.card is not None
    assert second.card.name == "a model"
    assert store.resolve() == shipped
    assert store.resolve("shipped-1.0") == shipped


def test_an_installation_without_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.resources, "files", lambda package: tmp_path / "nothing")
    store = ModelStore(tmp_path / "none")
    assert store.list() == ()
    with pytest.raises(ModelNotFoundError, match="install"):
        store.resolve()


def test_folder_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LESIONSEG_MODELS", str(tmp_path / "here"))
    assert ModelStore().folder == tmp_path / "here"
    monkeypatch.setenv("LESIONSEG_MODELS", "")
    assert ModelStore().folder.name == "models"


def test_nothing_is_ever_overwritten(store: ModelStore, model_file: Path) -> None:
    added = [store.add(model_file, "clinic") for _ in range(3)]
    assert [path.stem for path in added] == ["clinic", "clinic-2", "clinic-3"]
    assert store.add(model_file.read_bytes(), "shipped-1.0").stem == "shipped-1.0-2"


def test_two_programs_at_once(store: ModelStore, model_file: Path) -> None:
    others = [ModelStore(store.folder) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        added = list(pool.map(lambda other: other.add(model_file, "same"), others * 3))
    assert len(set(added)) == 24
    assert {sha256_file(path) for path in added} == {sha256_file(model_file)}
    assert not [entry for entry in store.list() if entry.problem]
    assert {path.suffix for path in store.folder.iterdir()} == {".safetensors"}


def test_a_name_taken_by_another_program_in_the_meantime(
    store: ModelStore, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add(model_file, "first")
    (store.folder / "theirs.safetensors").write_bytes(b"theirs")
    monkeypatch.setattr(Path, "exists", lambda path, **options: False)  # what was looked up is out of date
    with pytest.raises(CheckpointError, match="already"):
        store.rename("first", "theirs")
    assert store.add(model_file, "theirs").stem == "theirs-2"
    assert (store.folder / "theirs.safetensors").read_bytes() == b"theirs"


def test_a_damaged_model_is_shown_and_does_no_harm(store: ModelStore, model_file: Path) -> None:
    store.add(model_file, "good")
    (store.folder / "bad.safetensors").write_bytes(model_file.read_bytes()[:200])
    (store.folder / "empty.safetensors").touch()
    (store.folder / "folder.safetensors").mkdir()
    (store.folder / "notes.txt").write_text("not a model")
    entries = {entry.name: entry for entry in store.list()}
    assert set(entries) == {"shipped-1.0", "good", "bad", "empty", "folder"}
    assert [name for name, entry in entries.items() if not entry.problem] == ["shipped-1.0", "good"]
    assert entries["bad"].card is None
    store.remove("bad")
    assert "bad" not in names(store)


def test_a_training_at_work_is_no_model(store: ModelStore, model_file: Path) -> None:
    store.add(model_file, "good")
    (store.folder / "next.state.safetensors").write_bytes(b"state")
    assert "next.state" not in names(store)
    with pytest.raises(ModelNotFoundError):
        store.resolve("next.state")
    with pytest.raises(CheckpointError, match="name"):
        store.add(model_file, "next.state")


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        ".",
        "..",
        ".hidden",
        "a/b",
        "../up",
        "/etc/passwd",
        "a\\b",
        "C:x",
        "a\nb",
        "a\x00b",
        "-flag",
        "dot.",
        "space ",
        "*",
        "what?",
        'quo"te',
        "CON",
        "nul.old",
        "Lpt1",
        "x.safetensors",
        "x.onnx",
        "x" * 101,
        "皮" * 100,
    ],
)
def test_names_that_are_refused(store: ModelStore, model_file: Path, name: str) -> None:
    store.add(model_file, "mine")
    for refuse in (
        lambda: store.add(model_file, name),
        lambda: store.rename("mine", name),
        lambda: store.rename(name, "other"),
        lambda: store.remove(name),
    ):
        with pytest.raises(CheckpointError, match="name of a model"):
            refuse()
    assert names(store) == ["shipped-1.0", "mine"]


@pytest.mark.parametrize("name", ["æøå", "皮膚", "v1.2", "a-b_c+d.e", "console", "x" * 100])
def test_names_that_are_taken(store: ModelStore, model_file: Path, name: str) -> None:
    store.add(model_file, name)
    assert store.resolve(name).stem == name
    assert store.add(model_file, name).stem != name


def test_rename(store: ModelStore, model_file: Path) -> None:
    store.add(model_file, "old")
    store.add(model_file, "other")
    assert store.rename("old", "new").stem == "new"
    assert names(store) == ["shipped-1.0", "new", "other"]
    for taken in ("other", "new", "shipped-1.0"):
        with pytest.raises(CheckpointError, match="already"):
            store.rename("new", taken)
    assert names(store) == ["shipped-1.0", "new", "other"]


def test_shipped_models_stay(store: ModelStore, shipped: Path) -> None:
    with pytest.raises(CheckpointError, match="stays"):
        store.remove("shipped-1.0")
    with pytest.raises(CheckpointError, match="stays"):
        store.rename("shipped-1.0", "mine")
    assert shipped.is_file()


def test_a_copy_with_the_shipped_name_does_not_stand_in_for_it(
    store: ModelStore, shipped: Path, model_file: Path
) -> None:
    store.add(model_file, "other")
    (store.folder / "shipped-1.0.safetensors").write_bytes(model_file.read_bytes())
    assert store.resolve("shipped-1.0") == shipped


def test_what_is_not_there(store: ModelStore, tmp_path: Path) -> None:
    for name in (
        "none",
        str(tmp_path / "none.safetensors"),
        "x" * 5000 + ".safetensors",
        "a\x00.safetensors",
    ):
        with pytest.raises(ModelNotFoundError, match="lesionseg models"):
            store.resolve(name)
    with pytest.raises(ModelNotFoundError):
        store.remove("none")
    with pytest.raises(ModelNotFoundError):
        store.rename("none", "some")


def test_a_path_is_a_model_too(store: ModelStore, model_file: Path) -> None:
    assert store.resolve(model_file) == model_file
    assert store.resolve(str(model_file)) == model_file


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_only_usable_models_are_added(store: ModelStore, model_file: Path, share: float) -> None:
    payload = model_file.read_bytes()
    damaged = payload[: int(len(payload) * share)]
    model_file.write_bytes(damaged)
    for source in (model_file, damaged):
        with pytest.raises(CheckpointError):
            store.add(source, "damaged")
    assert names(store) == ["shipped-1.0"]


def test_a_folder_that_cannot_be_written(tmp_path: Path, shipped: Path, model_file: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        ModelStore(tmp_path / "file").add(model_file, "mine")
    assert names(ModelStore(tmp_path / "file")) == ["shipped-1.0"]


def test_a_full_disk_leaves_no_trace(
    store: ModelStore, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, payload: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_atomically", full)
    with pytest.raises(CheckpointError, match="No space left"):
        store.add(model_file, "mine")
    assert names(store) == ["shipped-1.0"]


def make_model(seed: int, parent: str | None = None, license_id: str = "CC0-1.0") -> bytes:
    torch.manual_seed(seed)
    card = ModelCard(
        name=f"model {seed}",
        arch="unet",
        arch_settings={"width": 2, "depth": 1},
        parent=parent,
        license=license_id,
    )
    return checkpoint_bytes(build_network("unet", width=2, depth=1), card)


@pytest.fixture
def own_store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def test_history_goes_back_to_the_first_model(own_store: ModelStore) -> None:
    first = own_store.add(make_model(0), "first")
    second = own_store.add(make_model(1, parent=sha256_file(first)), "second")
    own_store.add(make_model(2, parent=sha256_file(second)), "third")
    own_store.add(make_model(3), "other")
    assert [entry.name for entry in own_store.history("third")] == ["third", "second", "first"]
    assert [entry.name for entry in own_store.history("other")] == ["other"]


def test_history_survives_renaming_and_losses(own_store: ModelStore) -> None:
    first = own_store.add(make_model(0), "first")
    own_store.add(make_model(1, parent=sha256_file(first)), "second")
    own_store.rename("first", "the old one")
    assert [entry.name for entry in own_store.history("second")] == ["second", "the old one"]
    own_store.remove("the old one")
    assert [entry.name for entry in own_store.history("second")] == ["second"]


def test_history_skips_damaged_models(own_store: ModelStore) -> None:
    own_store.add(make_model(0), "whole")
    (own_store.folder / "broken.safetensors").write_bytes(b"broken")
    assert [entry.name for entry in own_store.history("whole")] == ["whole"]
    (entry,) = own_store.history("broken")
    assert entry.card is None


def test_history_of_a_missing_model(own_store: ModelStore) -> None:
    with pytest.raises(ModelNotFoundError):
        own_store.history("none")


def test_export_comes_with_card_and_license(own_store: ModelStore, tmp_path: Path) -> None:
    path = own_store.add(make_model(0, parent="ab" * 32), "ours")
    model, card, license_file = own_store.export("ours", tmp_path / "for others")
    assert model.read_bytes() == path.read_bytes()
    assert load_checkpoint(model).card.name == "model 0"
    assert json.loads(card.read_text())["license"] == "CC0-1.0"
    text = license_file.read_text()
    assert "CC0-1.0" in text
    assert sha256_file(path) in text
    assert "ab" * 32 in text


def test_export_overwrites_nothing(own_store: ModelStore, tmp_path: Path) -> None:
    own_store.add(make_model(0), "ours")
    (tmp_path / "ours.card.json").write_text("mine")
    with pytest.raises(CheckpointError, match="choose another folder"):
        own_store.export("ours", tmp_path)
    assert (tmp_path / "ours.card.json").read_text() == "mine"
    assert not (tmp_path / "ours.safetensors").exists()


def test_damaged_models_are_not_exported(own_store: ModelStore, tmp_path: Path) -> None:
    own_store.folder.mkdir()
    (own_store.folder / "broken.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError):
        own_store.export("broken", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_export_to_a_folder_that_cannot_be_written(own_store: ModelStore, tmp_path: Path) -> None:
    own_store.add(make_model(0), "ours")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        own_store.export("ours", tmp_path / "file" / "folder")
