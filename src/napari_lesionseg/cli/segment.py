"""``lesionseg segment``: outline the lesions of images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from napari_lesionseg.cli.console import name_image, print_error, print_plan, print_result, progress_bar
from napari_lesionseg.cli.options import (
    add_cluster,
    add_model,
    cluster_options,
    install_model,
    make_folder,
    pixel_count,
    positive,
    probability,
)
from napari_lesionseg.cluster.chunks import load_cached
from napari_lesionseg.cluster.engine import IN_PROCESS, ClusterOptions, open_engine
from napari_lesionseg.cluster.segment import segment_files
from napari_lesionseg.cluster.segment_chunk import SegmentJob
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import ClusterError
from napari_lesionseg.inference.device import describe_device
from napari_lesionseg.inference.predictor import read_model_card
from napari_lesionseg.io.atomic import sha256_file
from napari_lesionseg.io.images import unread_pages
from napari_lesionseg.io.pairing import find_images
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.store import ModelStore

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
        help="folder for the masks, NAME_segmentation.png; masks that somebody drew or changed are kept",
    )
    add_model(parser)
    parser.add_argument("--threshold", type=probability, help="between 0 and 1 (default: the model's own)")
    parser.add_argument(
        "--all-parts", action="store_true", help="keep every part of the outline, not only the largest"
    )
    parser.add_argument(
        "--smallest",
        type=pixel_count,
        metavar="PIXELS",
        help="remove parts with fewer pixels (default: 64)",
    )
    parser.add_argument("--keep-holes", action="store_true", help="do not fill holes in the outline")
    parser.add_argument(
        "--overlay", action="store_true", help="also write NAME_overlay.png, the image with its outline"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="skip images whose mask is whole and came from the same image, model and settings",
    )
    parser.add_argument(
        "--batch-size",
        type=positive,
        metavar="N",
        help="images computed at once (default: what fits into the memory of the GPU; 1 on the CPU)",
    )
    add_cluster(parser)


def run_segment(options: argparse.Namespace) -> int:
    """Outline every image; 1 if some failed."""
    images = find_images(options.inputs)
    config = _postprocess_config(options, read_model_card(ModelStore().resolve(options.model)))
    make_folder(options.out)
    return segment_images(
        images,
        options.out,
        options.model,
        options.device,
        config,
        cluster=cluster_options(options),
        overlay=options.overlay,
        resume=options.resume,
        batch_size=options.batch_size,
    )


def _postprocess_config(options: argparse.Namespace, card: ModelCard) -> PostprocessConfig:
    config = PostprocessConfig(
        threshold=options.threshold,
        largest_only=card.largest_only and not options.all_parts,
        fill_holes=not options.keep_holes,
    )
    return config if options.smallest is None else config.model_copy(update={"min_area": options.smallest})


def segment_images(
    images: Sequence[Path],
    out: Path,
    model_name: str | None,
    device: str,
    config: PostprocessConfig,
    *,
    cluster: ClusterOptions = IN_PROCESS,
    overlay: bool = False,
    resume: bool = False,
    batch_size: int | None = None,
) -> int:
    """Write a mask for each image, print what failed or was left out, and return the exit code."""
    path = ModelStore().resolve(model_name)
    name = read_model_card(path).name
    job = SegmentJob(sha256_file(path), config.model_dump_json(), device, overlay)
    failures = skipped = partly_read = 0
    with open_engine(cluster) as engine, progress_bar("Outlining", len(images)) as (progress, task):
        install_model(engine, path)
        try:
            for result in segment_files(
                engine, job, images, out, resume=resume, batch_size=batch_size, announce=print_plan
            ):
                if result.error:
                    failures += 1
                    print_error(name_image(result.source, result.error))
                elif result.message:
                    print_error(name_image(result.source, result.message))
                if not result.error and (unread := unread_pages(result.source)):
                    partly_read += 1
                    print_error(name_image(result.source, unread))
                skipped += result.skipped
                progress.advance(task)
        except ClusterError as error:
            print_error(f"{error} Start the command again with --resume to outline the rest.")
            return 1
        where = engine.description
        if engine.in_process:
            where = describe_device(load_cached(path, device).device)
    done = len(images) - failures
    kept = f", {skipped} of them before" if skipped else ""
    print_result(f"{done} of {len(images)} images outlined by {name} ({where}) in {out}{kept}")
    return 1 if failures or partly_read or engine.problems else 0
