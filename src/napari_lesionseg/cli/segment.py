"""``lesionseg segment``: outline the lesions of images."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from napari_lesionseg.cli.console import name_image, print_error, print_result, progress_bar
from napari_lesionseg.cli.options import add_model, make_folder, probability
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.inference.device import describe_device
from napari_lesionseg.inference.predictor import Model, load_model, segment
from napari_lesionseg.io.images import read_image, write_image, write_mask
from napari_lesionseg.io.overlay import draw_outline
from napari_lesionseg.io.pairing import find_images

EXAMPLE = """example:
  lesionseg segment images/ "more/*.jpg" --out outlines/ --overlay"""


def configure_segment(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXAMPLE
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="images, folders of images, or patterns")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for the masks, NAME_segmentation.png; a mask beside its own image is never replaced",
    )
    add_model(parser)
    parser.add_argument("--threshold", type=probability, help="between 0 and 1 (default: the model's own)")
    parser.add_argument(
        "--overlay", action="store_true", help="also write NAME_overlay.png, the image with its outline"
    )


def run_segment(options: argparse.Namespace) -> int:
    """Outline every image; 1 if some failed."""
    images = find_images(options.inputs)
    make_folder(options.out)
    model = load_model(options.model, options.device)
    config = PostprocessConfig(threshold=options.threshold)
    failures = segment_files(images, options.out, model, config, overlay=options.overlay)
    done = len(images) - failures
    device = describe_device(model.device)
    print_result(f"{done} of {len(images)} images outlined by {model.card.name} ({device}) in {options.out}")
    return 1 if failures else 0


def segment_files(
    images: Iterable[Path], out: Path, model: Model, config: PostprocessConfig, *, overlay: bool = False
) -> int:
    """Write a mask for each image, print those that failed, and return how many did."""
    images, failures, written = list(images), 0, dict[str, Path]()
    with progress_bar("Outlining", len(images)) as (progress, task):
        for image in images:
            try:
                _check_free(image, written)
                _segment_file(image, out, model, config, overlay=overlay)
            except LesionSegError as error:
                failures += 1
                print_error(name_image(image, str(error)))
            progress.advance(task)
    return failures


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
