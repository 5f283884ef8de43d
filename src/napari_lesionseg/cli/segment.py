"""``lesionseg segment``: outline the lesions of images."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from napari_lesionseg.cli.console import progress_bar, say, say_error
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.inference.device import describe_device
from napari_lesionseg.inference.predictor import Model, load_model, segment
from napari_lesionseg.io.images import read_image, write_image, write_mask
from napari_lesionseg.io.overlay import draw_outline
from napari_lesionseg.io.pairing import find_images

EXAMPLE = """example:
  lesionseg segment images/ "more/*.jpg" --out outlines/ --overlay"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXAMPLE
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="images, folders of images, or patterns")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for the masks, NAME_segmentation.png; a mask beside its own image is never replaced",
    )
    parser.add_argument(
        "--model", help="a registered model or a .safetensors file (default: the shipped one)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--threshold", type=probability, help="between 0 and 1 (default: the model's own)")
    parser.add_argument(
        "--overlay", action="store_true", help="also write NAME_overlay.png, the image with its outline"
    )


def probability(text: str) -> float:
    """Read a number between 0 and 1, both excluded, for argparse."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError("must lie between 0 and 1")
    return value


def run(options: argparse.Namespace) -> int:
    """Outline every image; 1 if some failed."""
    images = find_images(options.inputs)
    make_folder(options.out)
    model = load_model(options.model, options.device)
    config = PostprocessConfig(threshold=options.threshold)
    failures = segment_files(images, options.out, model, config, overlay=options.overlay)
    done = len(images) - failures
    device = describe_device(model.device)
    say(f"{done} of {len(images)} images outlined by {model.card.name} ({device}) in {options.out}")
    return 1 if failures else 0


def make_folder(folder: Path) -> None:
    """Make the folder for results, if it is not there.

    Raises
    ------
    LesionSegError
        If it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LesionSegError(f"The folder {folder} cannot be made: {error.strerror}.") from error


def segment_files(
    images: Iterable[Path], out: Path, model: Model, config: PostprocessConfig, *, overlay: bool = False
) -> int:
    """Write a mask for each image, and name on standard error those that failed.

    Returns
    -------
    int
        How many failed.
    """
    images, failures, written = list(images), 0, dict[str, Path]()
    with progress_bar("Outlining", len(images)) as (progress, task):
        for image in images:
            try:
                _check_free(image, written)
                _segment_file(image, out, model, config, overlay=overlay)
            except LesionSegError as error:
                failures += 1
                say_error(name_image(image, str(error)))
            progress.advance(task)
    return failures


def name_image(image: Path | str, reason: str) -> str:
    """Put the image's name before what is wrong with it, unless it is said already."""
    return reason if str(image) in reason else f"{image}: {reason}"


def _check_free(image: Path, written: dict[str, Path]) -> None:
    first = written.setdefault(image.stem.casefold(), image)
    if first is not image:
        raise LesionSegError(f"{image}: left out, because its mask would replace that of {first}.")


def _segment_file(source: Path, out: Path, model: Model, config: PostprocessConfig, *, overlay: bool) -> None:
    path = out / f"{source.stem}_segmentation.png"
    if path.exists() and out.samefile(source.parent):
        raise LesionSegError(
            f"{source}: left out, because {path.name} beside it may be an annotator's own mask."
        )
    image = read_image(source)
    labels = segment(image, model=model, postprocess=config)
    one_class = len(model.card.classes) == 2
    write_mask(path, labels, style="binary" if one_class else "index")
    if overlay:
        write_image(out / f"{source.stem}_overlay.png", draw_outline(image, labels))
