from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from napari_lesionseg.cli.console import progress_bar
from napari_lesionseg.cli.main import main
from napari_lesionseg.cli.options import find_all_pairs, hold_out_stems
from napari_lesionseg.cli.train import _read_all, describe_trend
from napari_lesionseg.config import TrainConfig
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.io.atomic import sha256_file
from napari_lesionseg.io.images import read_image, read_mask, write_image, write_mask
from napari_lesionseg.masks.plausibility import INVERTED
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import load_checkpoint, read_card, save_checkpoint
from napari_lesionseg.models.lite_unet import DESCRIPTION_LENGTH
from napari_lesionseg.models.mixture import card_with_experts
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.models.store import ModelStore
from napari_lesionseg.training.trainer import EpochResult, ValidationScores
from napari_lesionseg.types import IGNORED

SETTINGS = {
    "arch": "unet",
    "arch_settings": {"width": 4, "depth": 2},
    "pretrained": False,
    "epochs": 2,
    "batch_size": 2,
    "sizes": [[0.0, 32]],
    "precision": "float32",
}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        mask = np.zeros((40, 48), np.uint8)
        mask[8 : 26 + number, 10:30] = 1
        write_image(images / f"mole-{number}.png", rng.integers(0, 255, (40, 48, 3)).astype(np.uint8))
        write_mask(masks / f"mole-{number}_mask.png", mask)
    return images, masks


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "recipe.json").write_text(json.dumps(SETTINGS))
    return tmp_path / "recipe.json"


def train(folders: tuple[Path, Path], recipe: Path | str, out: Path, *more: str) -> int:
    images, masks = folders
    words = ["train", str(images), "--masks", str(masks), "--out", str(out), "--recipe", str(recipe)]
    return main([*words, "--device", "cpu", *more])


def test_writes_a_model_with_its_card(
    folders: tuple[Path, Path], recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "net.safetensors"
    assert train(folders, recipe, out, "--license", "CC0-1.0", "--classes", "skin", "mole") == 0
    told = capsys.readouterr().out
    assert "pass 2/2" in told
    assert "held out" in told
    card = read_card(out)
    assert (card.name, card.license, card.working_size) == ("net", "CC0-1.0", 32)
    assert card.classes == ("skin", "mole")
    assert card.training["settings"]["epochs"] == 2
    assert card.training["data"]["pairs"] == 4
    assert sorted(path.name for path in out.parent.iterdir()) == ["net.safetensors"]


def test_a_log_file_shows_life_before_the_first_pass_ends(
    folders: tuple[Path, Path],
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("napari_lesionseg.cli.console.LOG_SECONDS", 0.0)
    assert train(folders, recipe, tmp_path / "net.safetensors") == 0
    said = capsys.readouterr().err.splitlines()
    lines = [line for line in said if line.startswith("Training: 1 of")]
    lines += [line for line in said if line.startswith("Training: 2 of") and "a second" in line]
    assert lines[0].startswith("Training: 1 of 4, ")
    assert "left, loss " in lines[-1]


def test_the_rate_in_a_log_file_is_that_of_the_work_since_the_last_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("napari_lesionseg.cli.console.time.monotonic", lambda: clock[0])
    with progress_bar("Outlining", 1000) as (progress, task):
        for seconds, done in ((1, 500), (40, 539), (80, 559)):  # 500 are skipped at once
            clock[0] = seconds
            progress.update(task, completed=done)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "Outlining: 539 of 1000, 1 a second, 0:07:41 left",
        "Outlining: 559 of 1000, 0.5 a second, 0:14:42 left",
    ]


def passes(losses: list[float], scores: list[float]) -> list[EpochResult]:
    return [
        EpochResult(
            epoch=number + 1,
            epochs=16,
            step=number,
            progress=0.1,
            seconds=1.0,
            loss=loss,
            size=64,
            validation=ValidationScores(score, score, 0.0),
        )
        for number, (loss, score) in enumerate(zip(losses, scores, strict=True))
    ]


@pytest.mark.parametrize(
    ("losses", "scores", "said"),
    [
        ([1.0, 0.8, 0.7], [0.3, 0.5, 0.6], ""),
        ([1.0, 0.5, 0.9], [0.3, 0.5, 0.4], "diverging"),
        ([0.1, 0.02, 0.04], [0.8, 0.9, 0.9], ""),
        (
            [1.0, 0.8, 0.7, 0.7, 0.7, 0.7],
            [0.3, 0.6, 0.5, 0.5, 0.6, 0.5],
            "no better on the held-out images",
        ),
        ([1.0, 0.8, 0.7, 0.7, 0.7], [0.3, 0.6, 0.5, 0.5, 0.6], ""),
    ],
)
def test_a_run_that_diverges_or_stalls_is_named(losses: list[float], scores: list[float], said: str) -> None:
    trend = describe_trend(passes(losses, scores))
    assert said in trend
    assert bool(trend) == bool(said)


def test_the_recipe_for_upright_subjects_is_the_default_with_small_rotations() -> None:
    recipes = resources.files("napari_lesionseg") / "recipes"
    upright, default = (json.loads((recipes / f"{n}.json").read_text()) for n in ("upright", "default"))
    assert TrainConfig.model_validate(upright).augment.rotation == 15
    assert upright == default | {"augment": {"rotation": 15}}


def test_settings_can_be_changed(folders: tuple[Path, Path], recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    assert train(folders, recipe, out, "--epochs", "1", "--set", "decoder_lr=0.003", "--name", "mine") == 0
    card = read_card(out)
    assert (card.training["settings"]["epochs"], card.training["settings"]["decoder_lr"]) == (1, 0.003)
    assert card.name == "mine"


def test_continue_after_an_interruption(
    folders: tuple[Path, Path], recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole.safetensors", tmp_path / "out.safetensors"
    assert train(folders, recipe, whole) == 0

    def interrupt(_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("napari_lesionseg.cli.train.describe_epoch", interrupt)
        assert train(folders, recipe, out) == 130
    assert (tmp_path / "out.state.safetensors").is_file()
    assert train(folders, recipe, out) == 2  # and not from the start
    assert train(folders, recipe, out, "--resume") == 0
    mine, theirs = (load_checkpoint(path).network.state_dict() for path in (whole, out))
    assert all((mine[name] == theirs[name]).all() for name in mine)
    assert not (tmp_path / "out.state.safetensors").exists()


def test_images_that_are_moved_meanwhile_are_no_loss(
    folders: tuple[Path, Path], recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "net.safetensors"

    def move(_: object) -> str:
        if folders[0].is_dir():
            folders[0].rename(tmp_path / "moved")
        return "moved"

    monkeypatch.setattr("napari_lesionseg.cli.train.describe_epoch", move)
    assert train(folders, recipe, out) == 0
    assert read_card(out).training["data"]["pairs"] == 4


def test_images_to_measure_on(folders: tuple[Path, Path], recipe: Path, tmp_path: Path) -> None:
    images, masks = map(str, folders)
    out = tmp_path / "net.safetensors"
    assert train(folders, recipe, out, "--val-images", images, "--val-masks", masks) == 0
    assert read_card(out).training["data"]["pairs"] == 5


def test_broken_image_is_named(
    folders: tuple[Path, Path], recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folders[0] / "mole-2.png").write_bytes(b"no image")
    assert train(folders, recipe, tmp_path / "net.safetensors") == 1
    assert "mole-2" in capsys.readouterr().err
    assert (tmp_path / "net.safetensors").is_file()


def test_a_doubtful_mask_is_learned_and_named(
    folders: tuple[Path, Path], recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = folders[1] / "mole-2_mask.png"
    write_mask(mask, 1 - read_mask(mask))
    out = tmp_path / "net.safetensors"
    assert train(folders, recipe, out) == 1
    assert f"mole-2_mask.png: {INVERTED}" in capsys.readouterr().err
    assert read_card(out).training["data"]["pairs"] == 4


@pytest.mark.parametrize(
    ("recipe_name", "more", "reason"),
    [
        ("recipe.json", ["--epochs", "0"], "epochs"),
        ("recipe.json", ["--set", "speed=3"], "speed"),
        ("recipe.json", ["--resume"], "There is no training at"),
        ("recipe.json", ["--arch", "transformer"], "transformer"),
        ("recipe.json", ["--arch", "lite-unet-experts"], "come from fine-tuning; train 'lite-unet'"),
        ("recipe.json", ["--set", "arch=lite-unet-experts"], "come from fine-tuning"),
        ("recipe.json", ["--masks", "a", "b"], "one folder of masks for each"),
        ("none.json", [], "no recipe"),
        ("broken.json", [], "no valid JSON"),
    ],
)
def test_wrong_usage(
    folders: tuple[Path, Path],
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    recipe_name: str,
    more: list[str],
    reason: str,
) -> None:
    (tmp_path / "broken.json").write_text("{epochs")
    assert train(folders, tmp_path / recipe_name, tmp_path / "net.safetensors", *more) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "net.safetensors").exists()


def test_wrong_place_is_told_before_the_training(
    folders: tuple[Path, Path], recipe: Path, tmp_path: Path
) -> None:
    assert train(folders, recipe, tmp_path / "net.pth") == 2
    assert not list(tmp_path.glob("*.state.safetensors"))


@pytest.mark.parametrize("name", ["refine", "finish"])
def test_recipes_of_the_package_go_on_from_the_shipped_model(
    name: str, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "net.safetensors"
    (shipped,) = (entry.name for entry in ModelStore(tmp_path / "none").list() if entry.shipped)
    quick = ("--epochs", "1", "--set", "sizes=[[0,64]]", "--set", "batch_size=2")
    assert train(folders, name, out, "--start", shipped, *quick) == 0
    settings = read_card(out).training["settings"]
    assert settings["frozen_stages"] == {"refine": 2, "finish": 0}[name]
    # the part for prompts knows only what the shipped model outlines
    assert read_card(out).arch_settings == {}
    assert load_checkpoint(out).network.for_prompts() is None


def test_the_recipe_for_prompts_keeps_the_automatic_outline(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "net.safetensors"
    path = ModelStore().resolve()
    quick = ("--epochs", "1", "--set", "sizes=[[0,64]]", "--set", "batch_size=2")
    assert train(folders, "prompts", out, "--start", path.stem, *quick) == 0
    network, card = load_checkpoint(out)
    started, old = load_checkpoint(path)
    kept = started.state_dict()
    assert all(
        torch.equal(tensor, kept[name])
        for name, tensor in network.state_dict().items()
        if not name.startswith("prompt_network.")
    )
    assert card.arch_settings == {"prompts": 1}
    assert card.parent == sha256_file(path)
    unchanged = ("threshold", "temperature", "test_time_augmentation", "domain", "working_size", "scores")
    assert all(getattr(card, name) == getattr(old, name) for name in unchanged)
    assert card.training["settings"]["prompts"]["recolor"] == 1


def test_a_network_without_a_part_for_prompts_is_named(
    folders: tuple[Path, Path], tmp_path: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net.safetensors"
    assert train(folders, recipe, out, "--set", 'prompts={"lasso": 0.2}') == 2
    assert "'lite-unet' with one class" in capsys.readouterr().err


def test_starts_from_a_model(folders: tuple[Path, Path], recipe: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    assert train(folders, recipe, first, "--classes", "skin", "mole") == 0
    slow = ("--epochs", "1", "--set", "encoder_lr=1e-9", "--set", "decoder_lr=1e-9")
    assert train(folders, recipe, second, "--start", str(first), *slow) == 0
    before, after = load_checkpoint(first), load_checkpoint(second)
    assert (after.card.parent, after.card.classes) == (sha256_file(first), ("skin", "mole"))
    weights = dict(after.network.named_parameters())
    for name, weight in before.network.named_parameters():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=2e-3)  # files hold half precision


def test_keeps_to_the_network_it_starts_from(
    folders: tuple[Path, Path], recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    assert train(folders, recipe, first, "--epochs", "1") == 0
    assert train(folders, recipe, second, "--start", str(first), "--arch", "segnet") != 0
    assert "leave --arch out" in capsys.readouterr().err
    assert not second.exists()


@pytest.mark.parametrize("classes", [("background", "person"), ("background", "lesion", "hair")])
def test_a_start_may_get_other_classes(
    folders: tuple[Path, Path], recipe: Path, tmp_path: Path, classes: tuple[str, ...]
) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    assert train(folders, recipe, first, "--epochs", "1") == 0
    more = ("--epochs", "1", "--set", "encoder_lr=0", "--set", "decoder_lr=1e-9")
    assert train(folders, recipe, second, "--start", str(first), "--classes", *classes, *more) == 0
    before, after = load_checkpoint(first), load_checkpoint(second)
    assert after.card.classes == classes
    weights = dict(after.network.named_parameters())
    for name, weight in before.network.named_parameters():
        if weight.shape == weights[name].shape:
            torch.testing.assert_close(weights[name], weight, rtol=0, atol=2e-3)


@pytest.mark.parametrize("parts", [1, 2])
def test_the_card_says_whether_masks_have_several_parts(recipe: Path, tmp_path: Path, parts: int) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    for folder in (images, masks):
        folder.mkdir()
    for number in range(4):
        mask = np.zeros((48, 64), np.uint8)
        for part in range(parts):
            mask[10:30, 5 + 30 * part : 25 + 30 * part] = 1
        write_image(images / f"{number}.png", np.repeat(255 - 150 * mask[..., None], 3, axis=2))
        write_mask(masks / f"{number}.png", mask)
    out = tmp_path / "net.safetensors"
    assert train((images, masks), recipe, out, "--epochs", "1") == 0
    assert read_card(out).largest_only == (parts == 1)


def test_the_card_says_what_the_images_look_like(
    folders: tuple[Path, Path], recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "net.safetensors"
    default = ("--arch", "lite-unet", "--set", "arch_settings={}", "--epochs", "1")
    assert train(folders, recipe, out, *default) == 0
    network, card = load_checkpoint(out)
    assert card.domain is not None
    assert card.domain.images == 4  # the fifth was held out
    model = Model(network, card, "cpu")
    shown = [model.describe(read_image(path)) for path in sorted(folders[0].iterdir())]
    assert len(card.domain.mean) == shown[0].size == DESCRIPTION_LENGTH
    # Training reads images smaller, and leaves one out: the same kind of image, not the same numbers.
    assert np.corrcoef(card.domain.mean, np.mean(shown, axis=0))[0, 1] > 0.97


def test_networks_without_words_for_images_say_nothing_of_them(
    folders: tuple[Path, Path], recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "net.safetensors"
    assert train(folders, recipe, out, "--epochs", "1") == 0
    assert read_card(out).domain is None


def test_models_with_experts_are_left_to_fine_tuning(
    folders: tuple[Path, Path], recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    several, out = tmp_path / "several.safetensors", tmp_path / "net.safetensors"
    save_checkpoint(several, build_network("lite-unet-experts", experts=2), card_with_experts(ModelCard(), 2))
    assert train(folders, recipe, out, "--start", str(several)) == 2
    assert "lesionseg finetune" in capsys.readouterr().err
    assert not out.exists()


def write_diagnoses(path: Path, names: list[str]) -> Path:
    rows = [f"mole-{number}.png,{name}" for number, name in enumerate(names)]
    path.write_text("\n".join(["image,diagnosis", *rows]))
    return path


def test_lesions_get_the_class_of_a_column(folders: tuple[Path, Path], recipe: Path, tmp_path: Path) -> None:
    write_diagnoses(folders[0] / "metadata.csv", ["nevus", "melanoma", "nevus", "", "melanoma"])
    out = tmp_path / "net.safetensors"
    assert train(folders, recipe, out, "--classes-from", "diagnosis") == 0
    network, card = load_checkpoint(out)
    assert card.classes == ("background", "melanoma", "nevus")
    assert len(network.head.weight) == 3


def test_a_class_that_the_model_does_not_know_is_named(
    folders: tuple[Path, Path], recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_diagnoses(tmp_path / "table.csv", ["nevus", "wart", "nevus", "nevus", "nevus"])
    classes = ("--classes", "skin", "nevus", "melanoma", "--classes-from", "diagnosis")
    assert train(folders, recipe, tmp_path / "net.safetensors", *classes, "--metadata", str(table)) == 1
    assert "no class 'wart'" in capsys.readouterr().err
    assert read_card(tmp_path / "net.safetensors").classes == ("skin", "nevus", "melanoma")


def test_labels_read_for_training_have_their_class(folders: tuple[Path, Path]) -> None:
    pairs, _ = find_all_pairs([str(folders[0])], [str(folders[1])])
    names = {"mole-0": "nevus", "mole-1": "melanoma"}
    read = _read_all(pairs, "", side=64, class_names=names, classes=("background", "melanoma", "nevus"))
    assert list(read) == pairs
    assert [set(np.unique(pair.labels)) for pair in list(read.values())[:3]] == [{0, 2}, {0, 1}, {0, IGNORED}]


@pytest.mark.parametrize("column", ["diagnosis", "color"])
def test_a_table_without_classes_is_refused(
    column: str, folders: tuple[Path, Path], recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "net.safetensors"
    assert train(folders, recipe, out, "--classes-from", column) == 2
    assert "--metadata" in capsys.readouterr().err
    write_diagnoses(folders[0] / "metadata.csv", [""] * 5)
    assert train(folders, recipe, out, "--classes-from", column) == 2
    assert f"no value in a column '{column}'" in capsys.readouterr().err


def test_a_mask_with_an_unknown_class_is_named_and_left_out(
    folders: tuple[Path, Path], recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = np.zeros((40, 48), np.uint8)
    odd[10:20, 10:20] = 3
    for path in folders[1].iterdir():
        write_mask(path, read_mask(path), style="index")
    write_mask(folders[1] / "mole-2_mask.png", odd, style="index")
    out = tmp_path / "net.safetensors"
    assert train(folders, recipe, out, "--classes", "skin", "nevus", "hair") == 1
    assert "mole-2_mask.png has a class 3" in capsys.readouterr().err
    assert out.is_file()


def test_images_without_a_patient_are_named_when_others_have_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"m{number};{number // 3 if number % 3 == 0 else ''}\n" for number in range(9))
    (tmp_path / "facts.csv").write_text(f"image;patient_id\n{rows}")
    hold_out_stems([str(tmp_path)], [f"m{number}" for number in range(9)])
    assert "6 of 9 images, such as m1, have no patient" in capsys.readouterr().err


def test_images_of_one_patient_are_held_out_together(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    stems = [f"m{number:02}" for number in range(40)]
    rows = "".join(f"{stem}.png;{number % 8}\n" for number, stem in enumerate(stems))
    (folder / "facts.csv").write_text(f"image;patient_id\n{rows}")
    held_out, left_out = hold_out_stems([str(folder)], stems)
    assert left_out == 0
    assert 0 < len(held_out) < len(stems)
    patient_of = {stem: number % 8 for number, stem in enumerate(stems)}
    chosen = {patient_of[stem] for stem in held_out}
    assert held_out == {stem for stem in stems if patient_of[stem] in chosen}
    photos = [f"PAT_{patient}_{lesion}_1" for patient in range(20) for lesion in range(2)]
    by_name, _ = hold_out_stems([str(folder)], photos)
    assert by_name
    assert all(f"{stem.rsplit('_', 2)[0]}_{lesion}_1" in by_name for stem in by_name for lesion in range(2))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--name", "a\nb"], "The setting 'name' is wrong: must be printable"),
        (["--name", "n" * 101], "The setting 'name' is wrong"),
        (["--license", "\x1b[31m"], "The setting 'license' is wrong"),
        (["--classes", "background", ""], "An argument is empty"),
        (["--classes", "background", "a", "a"], "The setting 'classes' is wrong: every class needs a name"),
        (["--set", "sizes=[[1,32]]"], "The setting 'sizes"),
        (["--set", "sizes=[]"], "The setting 'sizes' is wrong"),
        (["--set", "sizes=32"], "The setting 'sizes' is wrong"),
        (["--set", 'augment={"scale":[0,0]}'], "The setting 'augment.scale"),
        (["--set", "nothing"], "There is no setting 'nothing'; choose from max_seconds"),
        (["--set", "decoder_lr=1e400"], "The setting 'decoder_lr' is wrong"),
        (["--set", 'arch_settings={"wings":2}'], "does not take these settings"),
        (["--set", 'arch="segnet"', "--set", 'arch_settings={"depth":99}'], "depth 1 to 5"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_before_the_training(
    folders: tuple[Path, Path],
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    reason: str,
) -> None:
    assert train(folders, recipe, tmp_path / "m.safetensors", *words) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("text", ["[1, 2]", "[" * 100_000, "3"])
def test_a_recipe_that_holds_no_settings_is_refused(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "r.json").write_text(text)
    assert train(folders, tmp_path / "r.json", tmp_path / "m.safetensors") == 2
    assert capsys.readouterr().err.count("\n") == 1
