"""Measure how well images from a different domain are recognized.

Prints a table of ``docs/development/fine-tuning.md``::

    python benchmarks/domains.py [--model M] [--data DIR] [--draws 40]

Images of a set from another camera are drawn at random and define the new domain, as in fine-tuning. The
table shows how many of the set's other images are recognized, and how many ISIC validation
images, which are from the model's training domain, are mistaken for it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import napari_lesionseg as ls
from images import add_data_argument, find_set
from napari_lesionseg.io.images import read_image
from napari_lesionseg.models.mixture import GATE_THRESHOLD, DomainStatistics

DOMAINS = {"pad-smartphone": (5, 10, 20), "ph2-sample": (3, 5, 10)}
OWN = {
    "ISIC val": "isic2017-val-256",
    "crops": "isic-crop512-val",
    "full size": "isic2017-val-fullres",
}

Descriptions = NDArray[np.float32]


def fraction_recognized(domain: DomainStatistics, drawn: Descriptions, others: Descriptions) -> float:
    """Return the fraction of images that belong to the domain of those drawn."""
    return float((domain.direction_to(drawn).distances(others) > GATE_THRESHOLD).mean())


def measure(
    domain: DomainStatistics, features: Descriptions, own: Mapping[str, Descriptions], count: int, draws: int
) -> list[float]:
    """Average over draws: the fraction recognized, then the fractions mistaken for it."""
    shares = []
    for draw in range(draws):
        order = np.random.default_rng((2026, draw)).permutation(len(features))
        drawn, left = features[order[:count]], features[order[count:]]
        shares.append([fraction_recognized(domain, drawn, others) for others in (left, *own.values())])
    return [float(mean) for mean in np.mean(shares, axis=0)]


def main() -> None:
    """Describe all images, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model")
    add_data_argument(parser)
    parser.add_argument("--draws", type=int, default=40)
    options = parser.parse_args()
    model = ls.load_model(options.model, "cpu")
    if model.card.domain is None:
        parser.error("the model's card does not say what its training images look like")

    def describe(folder: str) -> Descriptions:
        images = (read_image(pair.image) for pair in find_set(options.data / folder))
        return np.stack([model.describe(image) for image in images])

    own = {name: describe(folder) for name, folder in OWN.items()}
    table = Table("domain", "drawn", "recognized", *(f"taken of {name}" for name in own))
    for folder, counts in DOMAINS.items():
        features = describe(folder)
        for count in counts:
            shares = measure(model.card.domain, features, own, count, options.draws)
            table.add_row(folder, str(count), *(f"{share:.0%}" for share in shares))
    Console().print(table)


if __name__ == "__main__":
    main()
