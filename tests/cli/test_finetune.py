from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from napari_lesionseg.cli.main import main
from napari_lesionseg.finetuning.checkpoint import find_checkpoint
from napari_lesionseg.inference.predictor import load_model
from napari_lesionseg.io.atomic import sha256_file
from napari_lesionseg.io.images import write_image, write_mask
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import load_checkpoint, read_card, save_checkpoint
from napari_lesionseg.models.registry import build_network

ARCH = {"arch": "unet", "arch_settings": {"width": 4, "depth": 2}}
SETTINGS = [
    *("--set", "batch_size=2"),
    *("--set", "rounds=2"),
    *("--set", "folds=2"),
    *("--set", "decoder_lr=0.02"),
    *("--set", "freeze_norm=false"),
    *("--set", "precision=float32"),
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    card = ModelCard(name="tiny", working_size=32, license="CC0-1.0", **ARCH)
    save_checkpoint(tmp_path / "tiny.safetensors", build_network("unet", width=4, depth=2), card)
    return tmp_path / "tiny.safetensors"


def draw(folder: Path, masks: Path, count: int, *, wrong: bool = False) -> None:
    """Draw bright squares, with masks that are right, or the wrong way round."""
    rng = np.random.default_rng(0)
    for number in range(count):
        mask = np.zeros((40, 48), np.uint8)
        mask[8 : 26 + number, 10 : 30 + number] = 1
        image = (rng.integers(20, 60, (40, 48, 3)) + 150 * mask[..., None]).astype(np.uint8)
        write_image(folder / f"mole-{number}.png", image)
        write_mask(masks / f"mole-{number}_segmentation.png", 1 - mask if wrong else mask)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    images, masks = tmp_path / "images", tmp_path / "corrected"
    images.mkdir()
    masks.mkdir()
    draw(images, masks, 4)
    return images, masks


def finetune(folders: tuple[Path, Path], model: Path, out: Path, *more: str) -> int:
    images, masks = folders
    words = ["finetune", str(images), "--masks", str(masks), "--out", str(out), "--model", str(model)]
    return main([*words, "--device", "cpu", *SETTINGS, *more])


def test_writes_a_better_model_and_tells_what_it_does(
    folders: tuple[Path, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "ours.safetensors"
    assert finetune(folders, model, out, "--epochs", "12") == 0
    told = capsys.readouterr().out
    assert "4 images to train on, 4 held out in turn" in told
    assert "round 2/2" in told
    assert "is better" in told
    card = read_card(out)
    assert (card.name, card.license, card.parent) == ("ours", "CC0-1.0", sha256_file(model))
    assert card.scores["held-out"]["jaccard"] > card.scores["held-out"]["jaccard_before"]
    assert load_model(out, "cpu").predict(np.zeros((30, 40, 3), np.uint8)).shape == (30, 40)
    assert sorted(path.name for path in out.parent.iterdir()) == ["ours.safetensors"]


def test_worse_is_not_written_unless_insisted(
    folders: tuple[Path, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, out = tmp_path / "good.safetensors", tmp_path / "out.safetensors"
    assert finetune(folders, model, good, "--epochs", "12") == 0
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    draw(folders[0], wrong, 4, wrong=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in folders[0].iterdir():
        (elsewhere / f"val-{path.name}").write_bytes(path.read_bytes())
    for path in folders[1].iterdir():
        (elsewhere / f"val-{path.name}").write_bytes(path.read_bytes())
    val = ["--epochs", "12", "--val-images", str(elsewhere), "--val-masks", str(elsewhere)]
    assert finetune((folders[0], wrong), good, out, *val) == 0
    assert "the old model" in capsys.readouterr().out
    assert same_weights(good, out)
    assert finetune((folders[0], wrong), good, out, *val, "--insist", "--overwrite") == 0
    assert not same_weights(good, out)


def same_weights(one: Path, other: Path) -> bool:
    mine, theirs = (load_checkpoint(path).network.state_dict() for path in (one, other))
    return all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_one_image(folders: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        (folders[0] / f"mole-{number}.png").unlink()
        (folders[1] / f"mole-{number}_segmentation.png").unlink()
    out = tmp_path / "out.safetensors"
    assert finetune(folders, model, out, "--epochs", "4") == 0
    assert not same_weights(model, out)
    assert read_card(out).scores == {}


def test_broken_image_is_named(
    folders: tuple[Path, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folders[0] / "mole-2.png").write_bytes(b"no image")
    out = tmp_path / "out.safetensors"
    assert finetune(folders, model, out, "--epochs", "1") == 1
    captured = capsys.readouterr()
    assert "mole-2" in captured.err
    assert "3 images to train on" in captured.out
    assert out.is_file()


def test_patients(
    folders: tuple[Path, Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listing, out = tmp_path / "patients.csv", tmp_path / "out.safetensors"
    listing.write_text("image,patient\n" + "".join(f"mole-{number},A\n" for number in range(4)))
    assert finetune(folders, model, out, "--epochs", "1", "--patients", str(listing)) == 0
    assert "0 held out" in capsys.readouterr().out
    listing.write_text("name;patient\n1;2\n")
    assert finetune(folders, model, out, "--patients", str(listing)) == 2
    assert finetune(folders, model, out, "--patients", str(tmp_path / "missing.csv")) == 2


def test_continue_after_an_interruption(
    folders: tuple[Path, Path], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole.safetensors", tmp_path / "out.safetensors"
    assert finetune(folders, model, whole, "--epochs", "4") == 0

    def interrupt(_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("napari_lesionseg.cli.finetune.describe_round", interrupt)
        assert finetune(folders, model, out, "--epochs", "4") == 130
    assert not out.exists()
    assert find_checkpoint(tmp_path / "out.state.safetensors") is not None
    assert finetune(folders, model, out, "--epochs", "4") == 2  # and not from the start
    assert finetune(folders, model, out, "--epochs", "4", "--resume") == 0
    assert same_weights(whole, out)
    assert find_checkpoint(tmp_path / "out.state.safetensors") is None


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--epochs", "0"], "epochs"),
        (["--seconds", "-1"], "max_seconds"),
        (["--set", "speed=3"], "speed"),
        (["--resume"], "There is no fine-tuning at"),
        (["--model", "nobody-has-this"], "no model"),
        (["--masks", "a", "b"], "one folder of masks for each"),
    ],
)
def test_wrong_usage(
    folders: tuple[Path, Path],
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    reason: str,
) -> None:
    assert finetune(folders, model, tmp_path / "out.safetensors", *more) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


def test_wrong_place(folders: tuple[Path, Path], model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("out.pth", "file/out.safetensors", "folder.safetensors"):
        assert finetune(folders, model, tmp_path / name) == 2


def test_no_masks(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert finetune((tmp_path / "empty", tmp_path / "empty"), model, tmp_path / "out.safetensors") == 2
