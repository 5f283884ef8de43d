"""Inputs that once gave wrong data with exit code 0, a traceback, or no end, through the commands."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from napari_lesionseg.cli.main import main
from napari_lesionseg.datasets.import_ import read_dataset
from napari_lesionseg.io import folders
from napari_lesionseg.io.images import read_mask
from napari_lesionseg.study.study import Study

SIDE = (96, 128)
ROWS, COLUMNS = np.ogrid[: SIDE[0], : SIDE[1]]


def lesion(radius: int) -> np.ndarray:
    return radius**2 > (ROWS - 48) ** 2 + (COLUMNS - 64) ** 2


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)
    return path


def photograph(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), np.uint8)
    blotches = np.asarray(Image.fromarray(noise).resize(SIDE[::-1], Image.Resampling.BICUBIC))
    return np.where(lesion(20)[..., None], blotches // 3, blotches // 3 + 160)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(4):
        save(tmp_path / "set" / "images" / f"p{seed}.png", photograph(seed))
        save(tmp_path / "set" / "masks" / f"p{seed}.png", lesion(20 + seed) * 255)
    return tmp_path / "set"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run a command; return its exit code and what it said on standard error."""

    def run_words(*words: object) -> tuple[int, str]:
        code = main([str(word) for word in words])
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return code, said

    return run_words


def save_as(folder: Path, name: bytes, array: np.ndarray) -> None:
    """Write a PNG whose name need not be text."""
    save(folder / "t.png", array).rename(folder / os.fsdecode(name + b".png"))


def odd_names(folder: Path, array: np.ndarray | None = None) -> list[bytes]:
    """Write images with names that Linux allows and others do not."""
    names = [
        b"a:b", b"back\\slash", b"x" * 245, b"bl\xe5", "\u6f22".encode() * 80, b"new\nline", b"-dash",
        b"p[0]*",
    ]  # fmt: skip
    folder.mkdir(exist_ok=True)
    for seed, name in enumerate(names):
        save_as(folder, name, photograph(seed) if array is None else array)
    return names


def test_segment_outlines_or_names_each_odd_name(run: Callable, tmp_path: Path) -> None:
    names = odd_names(tmp_path / "odd")
    code, said = run("segment", tmp_path / "odd", "--out", tmp_path / "out")
    masks = list((tmp_path / "out").glob("*_segmentation.png"))
    assert code == 1
    assert len(masks) == len(names) - len(said.splitlines())
    assert len(masks) >= len(names) - 2  # those whose mask would have a name of more than 255 bytes
    assert "xxxx" in said


def test_the_key_of_odd_names_is_whole(run: Callable, folder: Path, tmp_path: Path) -> None:
    odd_names(folder / "images")
    odd_names(folder / "masks", lesion(20) * 255)
    key = tmp_path / "key.csv"
    assert run("export", folder, "--out", tmp_path / "out", "--names", "all", "--key", key)[0] == 0
    assert len(read_dataset(tmp_path / "out").records) == 12
    assert key.read_text(encoding="utf-8").count("ISIC_") == 12


@pytest.mark.parametrize("second", ["p0_mask.png", "p0.bmp", "P0_Segmentation.PNG"])
def test_evaluate_leaves_out_an_image_with_two_masks(
    run: Callable, folder: Path, tmp_path: Path, second: str
) -> None:
    save(folder / "masks" / second, lesion(30) * 255)
    save(folder / "masks" / "other.png", lesion(30) * 255)
    figures = tmp_path / "figures.json"
    code, said = run("evaluate", folder / "images", "--masks", folder / "masks", "--json", figures)
    assert code == 1
    assert "p0.png has several masks" in said
    assert "other.png is a mask without an image." in said
    assert [image["stem"] for image in json.loads(figures.read_text())["images"]] == ["p1", "p2", "p3"]


def test_train_leaves_out_what_it_cannot_use(run: Callable, folder: Path, tmp_path: Path) -> None:
    for seed in range(4, 9):
        save(folder / "images" / f"p{seed}.png", photograph(seed))
        save(folder / "masks" / f"p{seed}.png", lesion(20) * (7 if seed == 8 else 255))
    save(folder / "masks" / "p0_mask.png", lesion(30) * 255)
    save(folder / "images" / "p1.jpg", photograph(9))
    (folder / "images" / "p2.png").unlink()
    (folder / "images" / "p2.png").symlink_to("nowhere.png")
    small = ["sizes=[[0,32]]", 'arch="unet"', 'arch_settings={"width":2,"depth":1}', "pretrained=false"]
    options = [word for setting in small for word in ("--set", setting)]
    out = tmp_path / "a.safetensors"
    code, said = run(
        "train", folder / "images", "--masks", folder / "masks", "--out", out, "--epochs", 1, *options
    )
    assert (code, out.is_file()) == (1, True)
    for name in ("p0.png has several", "p1.jpg and", "p2.png", "p8.png: The mask holds class indices"):
        assert name in said


def test_a_study_follows_links_where_they_may_lead(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    for seed in range(2):
        image = folder / "images" / f"p{seed}.png"
        image.rename(cache / f"{seed}.png")
        image.symlink_to(cache / f"{seed}.png")
    with Study.create(tmp_path / "strict", "am", paths=folder / "images") as study:
        assert len(study.state.images) == 2
        assert len(study.problems) == 2
    with folders.follow_links(cache), Study.create(tmp_path / "free", "am", paths=folder / "images") as study:
        assert (len(study.state.images), study.problems) == (4, ())
        assert all(study.read_image(image).shape == (*SIDE, 3) for image in study.state.images)


@pytest.mark.parametrize("kind", ["isic", "coco", "folder", "imagefolder"])
def test_what_was_exported_can_be_imported(run: Callable, folder: Path, tmp_path: Path, kind: str) -> None:
    assert run("export", folder, "--format", kind, "--names", "nothing", "--out", tmp_path / "out")[0] == 0
    assert run("import", tmp_path / "out", "--out", tmp_path / "back")[0] == 0
    for seed in range(4):
        assert np.array_equal(read_mask(tmp_path / "back" / "masks" / f"p{seed}.png"), lesion(20 + seed))
