"""Add statistics of its training images to a model's card.

    python tools/measure_domain.py MODEL.safetensors IMAGES [IMAGES ...]

``lesionseg train`` does this itself; use this script for converted models. Weights, scores and the
rest of the card do not change.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from napari_lesionseg.finetuning.domain_shift import measure_domain
from napari_lesionseg.inference.predictor import load_model
from napari_lesionseg.io.images import read_image
from napari_lesionseg.io.pairing import find_images
from napari_lesionseg.models.checkpoint import save_checkpoint


def main() -> None:
    """Read the images and rewrite the model file."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", nargs="+", type=Path)
    options = parser.parse_args()
    model = load_model(options.model, "cpu")
    paths = [path for folder in options.images for path in find_images(folder)]
    domain = measure_domain(model, (read_image(path) for path in paths))
    save_checkpoint(options.model, model.network, model.card.model_copy(update={"domain": domain}))
    print(f"{options.model}: {len(paths)} images described")


if __name__ == "__main__":
    main()
