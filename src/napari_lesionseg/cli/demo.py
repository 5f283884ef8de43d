"""``lesionseg demo``: segment built-in sample images and show them."""

from __future__ import annotations

import argparse
from pathlib import Path

from napari_lesionseg.cli.app import open_viewer, why_no_viewer
from napari_lesionseg.cli.console import print_result
from napari_lesionseg.cli.options import add_device, make_folder
from napari_lesionseg.cli.segment import segment_images
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.datasets.synthetic import sample_set
from napari_lesionseg.io.images import write_image

IMAGES = "images"
EXAMPLE = """example:
  lesionseg demo --no-viewer --out demo/"""


def configure_demo(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EXAMPLE
    parser.add_argument(
        "--out", type=Path, default=Path("lesionseg-demo"), help="folder for images, masks and overlays"
    )
    parser.add_argument("--no-viewer", action="store_true", help="write the files only")
    add_device(parser)


def run_demo(options: argparse.Namespace) -> int:
    """Write images, masks and overlays, then open the viewer on them if one can be opened."""
    make_folder(options.out / IMAGES)
    images = []
    for sample in sample_set():
        images.append(options.out / IMAGES / f"{sample.name}.png")
        write_image(images[-1], sample.image)
    config = PostprocessConfig(largest_only=False)  # one of the samples has two lesions
    code = segment_images(images, options.out, None, options.device, config, overlay=True)
    masks = [options.out / f"{image.stem}_segmentation.png" for image in images]
    reason = why_no_viewer()
    if reason and not options.no_viewer:
        print_result(f"The viewer stays closed: {reason}.")
    elif not options.no_viewer:
        open_viewer(None, images, masks)
    return code
