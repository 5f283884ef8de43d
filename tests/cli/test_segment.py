from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import dask
import numpy as np
import pytest
from PIL import Image

from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import ClusterError, DeviceError
from napari_lesionseg.inference.postprocess import postprocess
from napari_lesionseg.inference.predictor import Model, load_model
from napari_lesionseg.io.images import read_image, write_image


def masks(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.array(Image.open(path)) for path in sorted(folder.glob("*_segmentation.png"))}


def test_a_folder(run: Callable, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out æ"
    result = run("segment", images, "--model", "tiny", "--out", out, "--threshold", "0.01")
    assert result.code == 0
    assert result.out.startswith("2 of 2 images outlined by tiny [/b] (")
    assert not result.err
    written = masks(out)
    assert {name: mask.shape for name, mask in written.items()} == {
        "IMD 7 [b] ñ_segmentation.png": (33, 60),
        "plain_segmentation.png": (40, 50),
    }
    assert all(mask.dtype == np.uint8 and set(np.unique(mask)) == {255} for mask in written.values())
    assert len(masks(out)) == 2


def test_nothing_found_is_a_black_mask(run: Callable, images: Path, tmp_path: Path) -> None:
    assert run("segment", images, "--out", tmp_path / "o", "--threshold", "0.99").code == 0
    assert all(set(np.unique(mask)) == {0} for mask in masks(tmp_path / "o").values())


def test_files_and_patterns(run: Callable, images: Path, tmp_path: Path) -> None:
    result = run("segment", images / "plain.png", images / "IMD*.png", "--out", tmp_path / "o")
    assert result.code == 0
    assert len(masks(tmp_path / "o")) == 2


@pytest.mark.parametrize(
    ("words", "config"),
    [
        ([], PostprocessConfig()),
        (["--all-parts"], PostprocessConfig(largest_only=False)),
        (["--smallest", "0", "--all-parts"], PostprocessConfig(largest_only=False, min_area=0)),
        (["--keep-holes", "--smallest", "900"], PostprocessConfig(fill_holes=False, min_area=900)),
    ],
)
def test_parts_and_holes(
    run: Callable, images: Path, tmp_path: Path, words: list[str], config: PostprocessConfig
) -> None:
    assert run("segment", images / "plain.png", "--out", tmp_path / "o", *words).code == 0
    model = load_model("default", "cpu")
    image = read_image(images / "plain.png")
    wanted = postprocess(model.predict(image), config, model.card.threshold)
    np.testing.assert_array_equal(masks(tmp_path / "o")["plain_segmentation.png"] > 0, wanted > 0)


def test_overlays(run: Callable, images: Path, tmp_path: Path) -> None:
    assert run("segment", images, "--out", tmp_path / "o", "--overlay").code == 0
    drawn = np.array(Image.open(tmp_path / "o" / "plain_overlay.png"))
    original = np.array(Image.open(images / "plain.png"))
    assert drawn.shape == original.shape
    assert (drawn != original).any() == (masks(tmp_path / "o")["plain_segmentation.png"] < 255).any()


def test_bad_files_are_named_and_the_others_done(run: Callable, images: Path, tmp_path: Path) -> None:
    (images / "fake.jpg").write_text("not an image")
    (images / "cut.png").write_bytes((images / "plain.png").read_bytes()[:300])
    (images / "empty.bmp").touch()
    result = run("segment", images, "--out", tmp_path / "o")
    assert result.code == 1
    assert result.out.startswith("2 of 5 ")
    assert len(result.errors) == 3
    for line, name in zip(sorted(result.errors), ("cut.png", "empty.bmp", "fake.jpg"), strict=True):
        assert line.startswith(f"lesionseg: {images / name}: ")
    assert len(masks(tmp_path / "o")) == 2


def test_a_name_with_a_line_break_is_one_line(run: Callable, images: Path, tmp_path: Path) -> None:
    try:
        (images / "a\nb.png").write_text("not an image")
    except OSError:
        pytest.skip("this file system takes no line breaks in names")
    result = run("segment", images, "--out", tmp_path / "o")
    assert result.code == 1
    assert len(result.errors) == 1
    assert "a\\nb.png: " in result.errors[0]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take fewer names")
def test_any_name_is_outlined_or_named(run: Callable, images: Path, tmp_path: Path) -> None:
    names = [b"a:b", b"back\\slash", b"x" * 245, b"bl\xe5", "\u6f22".encode() * 80, b"=1+1", b"-o"]
    for number, name in enumerate(names):
        write_image(images / "t.png", np.full((33, 40 + number, 3), 90, np.uint8))
        (images / "t.png").rename(images / os.fsdecode(name + b".png"))
    result = run("segment", images, "--out", tmp_path / "o", "--threshold", "0.01")
    written = list((tmp_path / "o").glob("*_segmentation.png"))
    assert len(written) + len(result.errors) == 9
    assert len(written) >= 7
    assert result.code == int(bool(result.errors))


def test_one_mask_that_cannot_be_written(run: Callable, images: Path, tmp_path: Path) -> None:
    (tmp_path / "o" / "plain_segmentation.png").mkdir(parents=True)
    result = run("segment", images, "--out", tmp_path / "o")
    assert result.code == 1
    assert len(result.errors) == 1
    assert "plain_segmentation.png" in result.errors[0]
    assert (tmp_path / "o" / "IMD 7 [b] ñ_segmentation.png").is_file()


def test_a_place_that_cannot_be_made(run: Callable, images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "o"):
        result = run("segment", images, "--out", out)
        assert result.code == 2
        assert len(result.errors) == 1
        assert str(out) in result.errors[0]


def test_images_of_one_name(run: Callable, images: Path, tmp_path: Path) -> None:
    Image.open(images / "plain.png").save(images / "plain.jpg")
    result = run("segment", images, "--out", tmp_path / "o")
    assert result.code == 1
    assert len(result.errors) == 1
    assert "would replace" in result.errors[0]
    assert len(masks(tmp_path / "o")) == 2


def test_a_readers_mask_beside_its_image_is_kept(run: Callable, images: Path, tmp_path: Path) -> None:
    own = images / "plain_segmentation.png"
    Image.new("L", (50, 40), 255).save(own)
    before = own.read_bytes()
    result = run("segment", images, "--out", images, "--threshold", "0.99")
    assert result.code == 1
    assert len(result.errors) == 1
    assert "plain_segmentation.png" in result.errors[0]
    assert own.read_bytes() == before
    assert (images / "IMD 7 [b] ñ_segmentation.png").is_file()


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_mask_that_somebody_drew_or_changed_is_kept(
    run: Callable, images: Path, tmp_path: Path, resume: list[str]
) -> None:
    out = tmp_path / "masks"
    drawn, changed = out / "plain_segmentation.png", out / "IMD 7 [b] ñ_segmentation.png"
    out.mkdir()
    Image.new("L", (50, 40), 255).save(drawn)
    before = drawn.read_bytes()
    words = ["segment", images, "--out", out, *resume]
    result = run(*words)
    assert (result.code, len(result.errors)) == (1, 1)
    assert f"{drawn} was drawn or changed by somebody" in result.errors[0]
    assert run(*words, "--threshold", "0.99").code == 1  # its own mask is replaced
    Image.new("L", (50, 40), 255).save(changed)
    after = changed.read_bytes()
    assert len(run(*words).errors) == 2
    assert (drawn.read_bytes(), changed.read_bytes()) == (before, after)


def test_masks_are_computed_again_in_another_folder(run: Callable, images: Path, tmp_path: Path) -> None:
    for threshold, value in (("0.01", 255), ("0.99", 0)):
        assert run("segment", images, "--out", tmp_path / "o", "--threshold", threshold).code == 0
        assert (masks(tmp_path / "o")["plain_segmentation.png"] == value).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_images(run: Callable, tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (60, 40), "tan").save(tmp_path / "turned.jpg", exif=exif)
    assert run("segment", tmp_path / "turned.jpg", "--out", tmp_path / "o").code == 0
    (mask,) = masks(tmp_path / "o").values()
    assert mask.shape == ((40, 60) if orientation <= 4 else (60, 40))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_tiny_images(run: Callable, tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size).save(tmp_path / "tiny.png")
    assert run("segment", tmp_path / "tiny.png", "--out", tmp_path / "o", "--overlay").code == 0
    (mask,) = masks(tmp_path / "o").values()
    assert mask.shape == size[::-1]


def test_several_classes_are_written_as_their_indices(
    run: Callable, save_model: Callable, images: Path, tmp_path: Path, models: Path
) -> None:
    save_model(models / "three.safetensors", classes=("skin", "nevus", "melanoma"))
    assert (
        run("segment", images, "--model", "three", "--out", tmp_path / "o", "--threshold", "0.05").code == 0
    )
    assert all(mask.max() in (1, 2) for mask in masks(tmp_path / "o").values())


@pytest.mark.parametrize(
    "words",
    [
        ["--model", "none"],
        ["--model", "none.safetensors"],
        ["--device", "abacus"],
        ["--threshold", "0"],
        ["--threshold", "1"],
        ["--threshold", "nan"],
        ["--threshold", "much"],
    ],
)
def test_wrong_settings(run: Callable, images: Path, tmp_path: Path, words: list[str]) -> None:
    result = run("segment", images, "--out", tmp_path / "o", *words)
    assert result.code == 2
    assert result.errors
    assert not masks(tmp_path / "o")
    assert (tmp_path / "o").exists() == (words[0] == "--device")  # which torch is asked about later


def test_a_damaged_model(run: Callable, images: Path, tmp_path: Path, models: Path) -> None:
    (models / "broken.safetensors").write_bytes((models / "tiny.safetensors").read_bytes()[:1000])
    result = run("segment", images, "--model", "broken", "--out", tmp_path / "o")
    assert result.code == 2
    assert len(result.errors) == 1
    assert "broken.safetensors" in result.errors[0]


def test_a_cluster_that_is_lost_is_one_sentence_and_can_be_resumed(
    run: Callable, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*args: object, **settings: object) -> None:
        raise ClusterError("The connection to the dask scheduler is lost.")

    monkeypatch.setattr("napari_lesionseg.cli.segment.segment_files", lose)
    result = run("segment", images, "--out", tmp_path / "o")
    assert result.code == 1
    assert result.err.splitlines() == [
        "lesionseg: The connection to the dask scheduler is lost. Start the command again with --resume to "
        "outline the rest."
    ]


def give_scheduler_file(text: str) -> Callable[[Path], list[object]]:
    def write(folder: Path) -> list[object]:
        path = folder / "cluster.json"
        if text:
            path.write_text(text)
        return ["--scheduler-file", path]

    return write


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--scheduler", "tcp://127.0.0.1:9"], "No dask scheduler answers at tcp://127.0.0.1:9"),
        (["--scheduler", "server"], "server is no address of a dask scheduler"),
        (["--scheduler", "http://127.0.0.1:80"], "is no address of a dask scheduler"),
        (["--scheduler", "tls://127.0.0.1:9"], "TLS is not set up"),
        (give_scheduler_file(""), "cluster.json cannot be read: No such file"),
        (give_scheduler_file("no json"), "cluster.json is no file that dask scheduler"),
        (give_scheduler_file('{"id": 1}'), "cluster.json is no file that dask scheduler"),
    ],
)
def test_a_cluster_that_cannot_be_joined_is_one_sentence(
    run: Callable,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[object] | Callable[[Path], list[object]],
    reason: str,
) -> None:
    monkeypatch.setattr("napari_lesionseg.cluster.clients.CONNECT_SECONDS", 1)
    where = words(tmp_path) if callable(words) else words
    result = run("segment", images, "--out", tmp_path / "o", *where)
    assert result.code == 1
    assert len(result.errors) == 1
    assert reason in result.errors[0]
    assert not masks(tmp_path / "o")


def test_certificates_that_cannot_be_read_are_one_sentence(
    run: Callable, images: Path, tmp_path: Path
) -> None:
    missing = str(tmp_path / "missing.pem")
    places = ("ca-file", "client.cert", "client.key")
    with dask.config.set({f"distributed.comm.tls.{place}": missing for place in places}):
        result = run("segment", images, "--out", tmp_path / "o", "--scheduler", "tls://127.0.0.1:9")
    assert result.code == 1
    assert len(result.errors) == 1
    assert "TLS cannot be used" in result.errors[0]


def test_without_distributed_the_extra_is_named(
    run: Callable, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_lesionseg.cluster.engine.find_spec", lambda name: None)
    for words in (["--workers", 1], ["--scheduler", "tcp://127.0.0.1:9"]):
        result = run("segment", images, "--out", tmp_path / "o", *words)
        assert (result.code, len(result.errors)) == (1, 1)
        assert "napari-lesionseg[cluster]" in result.errors[0]


def test_nothing_to_do(run: Callable, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "notes.txt").touch()
    for given in (tmp_path / "nothing", tmp_path / "none", tmp_path / "*.gif"):
        result = run("segment", given, "--out", tmp_path / "o")
        assert result.code == 2
        assert len(result.errors) == 1
        assert str(given) in result.errors[0]


def test_errors_without_a_name_get_the_images(
    run: Callable, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **settings: object) -> None:
        raise DeviceError("Too little memory.")

    monkeypatch.setattr(Model, "predict", fail)
    result = run("segment", images, "--out", tmp_path / "o")
    assert result.code == 1
    assert f"lesionseg: {images / 'plain.png'}: Too little memory." in result.errors
    assert len(result.errors) == 2


def test_further_pages_are_named(run: Callable, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (60, 40), color) for color in ("red", "green", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "scan.tif", save_all=True, append_images=frames[1:2])
    frames[0].save(tmp_path / "plain.png")
    result = run("segment", tmp_path, "--model", "tiny", "--out", tmp_path / "out")
    assert result.code == 1
    assert "3 of 3 images outlined" in result.out
    lines = [line for line in result.err.splitlines() if "left out" in line]
    assert len(lines) == 2
    assert any("moving.gif" in line and "2 further pages are left out" in line for line in lines)
    assert any("scan.tif" in line and "1 further page is left out" in line for line in lines)
