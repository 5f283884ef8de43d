"""Whatever a command writes goes through links, and into pipes and devices, and replaces none of them."""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import napari_lesionseg
from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.errors import StudyError
from napari_lesionseg.io.images import write_image, write_mask
from napari_lesionseg.study.pseudonyms import KeyFile

SIDE = (48, 64)
SOURCE = Path(napari_lesionseg.__file__).parent
WRITING = re.compile(r"\.write_(?:bytes|text)\(|open\(\s*['\"][wxa]|\.save_as\(")
# In temporary folders, or in the folder of a dataset that is moved into place as a whole.
WRITE_THEMSELVES = {
    "cluster/chunks.py",
    "cluster/predict.py",
    "cluster/segment.py",
    "datasets/datasheet.py",
    "datasets/manifest.py",
    "finetuning/fold_processes.py",
    "inference/tiling_io.py",
    "io/archives.py",
    "io/atomic.py",
    "io/images.py",
    "study/event_log.py",
}


def test_every_output_is_written_by_one_function() -> None:
    found = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if WRITING.search(path.read_text(encoding="utf-8"))
    }
    assert {name for name in found if not name.startswith("datasets/formats/")} <= WRITE_THEMSELVES


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for seed in range(2):
        sample = synthetic_sample(seed, SIDE)
        for folder in ("images", "masks"):
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
        write_image(tmp_path / "set" / "images" / f"p{seed}.png", sample.image)
        write_mask(tmp_path / "set" / "masks" / f"p{seed}.png", (sample.mask > 0).astype(np.uint8))
    return tmp_path / "set"


def words(option: str, pairs: Path, path: Path) -> list[object]:
    """Return the command line that writes `path`."""
    images = [pairs / "images", "--masks", pairs / "masks"]
    out = pairs.parent / "written"
    return {
        "evaluate --json": ["evaluate", *images, "--model", "tiny", "--json", path],
        "export --key": ["export", pairs, "--names", "all", "--out", out, "--key", path],
        "tune --out": ["tune", "tiny", *images, "--out", path],
        "models export-onnx --out": ["models", "export-onnx", "tiny", "--out", path],
        "segment --out": ["segment", pairs / "images", "--model", "tiny", "--out", path],
        "export --out": ["export", pairs, "--out", path],
        "import --out": ["import", pairs, "--out", path],
        "models export --out": ["models", "export", "tiny", "--out", path],
        "demo --out": ["demo", "--no-viewer", "--out", path],
    }[option]


ENDINGS = {"tune --out": ".safetensors", "models export-onnx --out": ".onnx"}
QUICK_FILES = ("evaluate --json", "export --key", "tune --out", "models export-onnx --out")


MODEL_WRITERS = (["train", "none"], ["finetune", "none"], ["tune", "tiny", "none"])
FILE_WRITERS = [
    (["evaluate", "none", "--json"], ".json"),
    (["landmarks", "none", "--out"], ".json"),
    (["models", "export-onnx", "none", "--out"], ".onnx"),
    (["export", "none", "--out", "new", "--key"], ".csv"),
    *(([command, "none", "--out"], ".csv") for command in ("fields", "followup", "review")),
    *(([*words, "--out"], ".safetensors") for words in MODEL_WRITERS),
]
FOLDER_WRITERS = [
    ["agreement", "none", "--consensus"],
    ["export", "none", "--out"],
    ["import", "none", "--out"],
]


@pytest.mark.parametrize(("words", "ending"), FILE_WRITERS, ids=lambda value: " ".join(value))
def test_a_file_that_cannot_be_written_is_named_before_the_work(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], ending: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"folder{ending}").mkdir()
    (tmp_path / "file.txt").touch()
    for wrong in (f"folder{ending}", f"file.txt/x{ending}"):
        result = run(*words, wrong)
        assert (result.code, len(result.errors)) == (2, 1)
        assert wrong.split("/")[0] in result.err  # and not that the input does not exist
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    result = run(*words, f"new{ending}")
    assert (result.code, len(result.errors)) == (2, 1)
    assert result.err.endswith(": Read-only file system.\n")
    assert not Path(f"new{ending}").exists()


@pytest.mark.parametrize("words", FOLDER_WRITERS, ids=lambda value: value[0])
def test_a_folder_that_cannot_be_written_is_named_before_the_work(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").touch()
    assert "file.txt" in run(*words, "file.txt").err
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    result = run(*words, "new")
    assert (result.code, len(result.errors)) == (2, 1)
    assert result.err.endswith("Read-only file system.\n")


def refuse(**where: object) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_a_missing_folder_is_named(run: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "none"
    result = run("evaluate", "none", "--json", folder / "x.json")
    assert result.errors == [
        f"lesionseg: {folder / 'x.json'} cannot be written: there is no folder {folder}."
    ]


@pytest.mark.parametrize("words", MODEL_WRITERS, ids=lambda value: value[0])
def test_a_model_is_overwritten_only_when_that_is_asked_for(
    run: Callable, tmp_path: Path, words: list[str]
) -> None:
    out = tmp_path / "mine.safetensors"
    out.write_bytes(b"mine")
    result = run(*words, "--out", out)
    assert result.code == 2
    assert result.errors == [
        f"lesionseg: {out} already exists; give another name, or replace it with --overwrite."
    ]
    assert "none does not exist" in run(*words, "--out", out, "--overwrite").err
    assert out.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ("evaluate none --stuff hair", "--stuff needs --panoptic."),
        ("train none --out m.safetensors --val-masks x", "--val-masks needs --val-images."),
        ("train none --out m.safetensors --metadata x", "--metadata needs --classes-from."),
        ("finetune none --out m.safetensors --val-masks x", "--val-masks needs --val-images."),
        ("finetune none --out m.safetensors --val-images x --patients y", "leave --patients out."),
        ("landmarks none --out x.json --min-score 0.5", "--min-score needs --model."),
        ("review none --expert am", "--expert needs --gold."),
        ("review none --seed 3", "--seed needs --gold."),
        ("export none --out new --landmarks x", "--landmarks needs --black-out-eyes."),
        ("export none --out new --landmark-model x", "--landmark-model needs --black-out-eyes."),
        ("export none --out new --polygons", "--polygons needs --format coco."),
        ("export none --out new --originals x --format isic", "--originals needs --format dicom."),
        ("app --landmarks eyes", "--landmarks needs a folder"),
        ("app --follow-links .", "--follow-links needs a folder"),
    ],
)
def test_an_option_is_never_ignored(
    run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, fault: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*words.split())
    assert (result.code, len(result.errors)) == (2, 1)
    assert fault in result.err


@pytest.mark.parametrize("option", QUICK_FILES)
def test_a_link_to_a_file_is_followed(run: Callable, pairs: Path, tmp_path: Path, option: str) -> None:
    ending = ENDINGS.get(option, ".txt")
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / f"target{ending}", tmp_path / f"link{ending}"
    link.symlink_to(target)
    assert run(*words(option, pairs, link)).code == 0
    assert link.is_symlink()
    assert target.stat().st_size > 10


@pytest.mark.parametrize("option", QUICK_FILES)
def test_a_pipe_gets_all_of_it(run: Callable, pairs: Path, tmp_path: Path, option: str) -> None:
    pipe = tmp_path / f"pipe{ENDINGS.get(option, '')}"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    assert run(*words(option, pairs, pipe)).code == 0
    reader.join(30)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert len(got[0]) > 10


@pytest.mark.parametrize("option", ["evaluate --json", "export --key"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the devices of Linux")
def test_a_device_stays_a_device(run: Callable, pairs: Path, option: str) -> None:
    before = Path("/dev/null").stat()
    assert run(*words(option, pairs, Path("/dev/null"))).code == 0
    assert (Path("/dev/null").stat().st_mode, before.st_mode) == (before.st_mode, before.st_mode)
    full = run(
        "evaluate", pairs / "images", "--masks", pairs / "masks", "--model", "tiny", "--json", "/dev/full"
    )
    assert full.code == 2
    assert full.errors[-1].endswith("No space left on device.")


def test_a_key_is_written_with_its_dataset_or_neither_is(run: Callable, pairs: Path, tmp_path: Path) -> None:
    key = tmp_path / "key.csv"
    key.write_text("old_name,new_name\na,b\n")
    command = words("export --key", pairs, key)
    assert run(*command).errors == [
        f"lesionseg: {key} already exists, perhaps as the key of another dataset; choose a new file."
    ]
    assert key.read_text() == "old_name,new_name\na,b\n"
    assert not (tmp_path / "written").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the devices of Linux")
def test_without_room_for_the_key_nothing_is_exported(run: Callable, pairs: Path, tmp_path: Path) -> None:
    result = run(*words("export --key", pairs, Path("/dev/full")))
    assert result.code == 2
    assert result.errors == ["lesionseg: The key cannot be written to /dev/full: No space left on device."]
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("option", ["segment --out", "export --out", "import --out", "models export --out"])
def test_a_link_to_a_folder_is_followed(run: Callable, pairs: Path, tmp_path: Path, option: str) -> None:
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)  # which is made
    assert run(*words(option, pairs, link)).code == 0
    assert link.is_symlink()
    assert any(target.iterdir())


def test_the_key_of_a_study_may_be_a_device(tmp_path: Path) -> None:
    mode = Path("/dev/null").stat().st_mode
    key = KeyFile(Path("/dev/null"), tmp_path)
    key.pseudonym("patient", "Jane")
    key.save()
    assert Path("/dev/null").stat().st_mode == mode
    with pytest.raises(StudyError, match="inside the study"):
        KeyFile(tmp_path / "key.csv", tmp_path)


def test_a_link_in_a_circle_is_one_line(run: Callable, pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    result = run(*words("evaluate --json", pairs, tmp_path / "circle"))
    assert result.code == 2
    assert "cannot be written" in result.errors[-1]
