"""Compare ways to carry an outline from an earlier image of a lesion to a later one.

Prints the table of ``docs/development/benchmarks.md``::

    OMP_NUM_THREADS=1 python benchmarks/registration.py [--data DIR] [--sets S ...] [--limit N] [--seed N]

A later visit is a changed copy of a real image: turned by up to 40 degrees, zoomed by 0.8 to 1.25, shifted by
up to 10 % of the width, in other light (color, brightness, gamma, a dark corner), blurred, with
noise and with up to 25 new hairs. So its true outline is known. "Dice" compares it with the outline that was
carried over; where a method finds no answer, the outline stays where it was. Real visits differ more: the
figures rank the methods and are no promise.

- none: the outline stays where it was.
- phase correlation: of the spectra in log-polar coordinates for turn and zoom, then of the images for the
  shift.
- ORB and SIFT: key points matched and a similarity found with RANSAC; "plain" without equalized contrast,
  "affine" with an affine model, "shipped" as `napari_lesionseg.masks.registration.register` has it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import fmean, median

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from skimage.color import rgb2gray
from skimage.draw import line
from skimage.exposure import equalize_adapthist
from skimage.feature import ORB, SIFT, match_descriptors
from skimage.filters import gaussian, window
from skimage.measure import ransac
from skimage.registration import phase_cross_correlation
from skimage.transform import AffineTransform, SimilarityTransform, resize, warp, warp_polar

from images import add_data_argument, find_set
from napari_lesionseg.errors import MaskError
from napari_lesionseg.io.images import read_image, read_mask
from napari_lesionseg.masks.registration import SIDE, move_mask, register
from napari_lesionseg.study.agreement import dice

SETS = ("ph2-sample", "isic-crop512-val")
WORKING_SIDE = 512  # of the images, which are shrunk to it so that hairs and noise are comparable
POOR = 0.8

Matrix = NDArray[np.float64]
Method = Callable[[NDArray[np.uint8], NDArray[np.uint8]], Matrix]


def change(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return an image and its mask as they might look at a later visit."""
    height, width = image.shape[:2]
    turn = SimilarityTransform(rotation=np.deg2rad(rng.uniform(-40, 40)), scale=rng.uniform(0.8, 1.25))
    center = SimilarityTransform(translation=np.array([width, height]) / 2)
    shift = SimilarityTransform(translation=rng.uniform(-0.1, 0.1, 2) * width)
    back = (center.inverse + turn + center + shift).inverse
    pixels = warp(image, back, mode="reflect")
    moved = warp(mask, back, order=0, preserve_range=True)
    pixels = np.clip(pixels * rng.uniform(0.75, 1.25, 3) * rng.uniform(0.8, 1.2), 0, 1)
    pixels = gaussian(pixels ** rng.uniform(0.7, 1.4), rng.uniform(0, 1.5), channel_axis=2)
    rows, cols = np.mgrid[:height, :width] / max(height, width)
    far = (rows - rng.uniform()) ** 2 + (cols - rng.uniform()) ** 2
    pixels *= np.clip(1 - rng.uniform(0, 0.4) * far, 0, 1)[..., None]
    pixels = np.clip(pixels + rng.normal(0, 0.03, pixels.shape), 0, 1)
    for _ in range(rng.integers(0, 26)):
        start = rng.integers(0, (height, width))
        end = np.clip(start + rng.integers(-height // 3, height // 3, 2), 0, (height - 1, width - 1))
        along, across = line(*start, *end)
        for thick in range(3):
            pixels[np.clip(along + thick, 0, height - 1), across] *= 0.4
    return (255 * pixels).astype(np.uint8), np.asarray(moved, np.uint8)


def shrink(image: NDArray[np.uint8], side: int) -> tuple[NDArray[np.float64], float]:
    """Return a gray image of at most `side` pixels, and by how much it was shrunk."""
    scale = side / max(image.shape[:2])
    shape = (round(image.shape[0] * scale), round(image.shape[1] * scale))
    return resize(rgb2gray(image), shape, anti_aliasing=True), scale


def key_points(detector: Callable[[], SIFT | ORB], model: type, *, equalized: bool = True) -> Method:
    """Return a method that matches key points and finds a motion that most of them agree on."""

    def found(earlier: NDArray[np.uint8], later: NDArray[np.uint8]) -> Matrix:
        points, descriptors, scales = [], [], []
        for image in (earlier, later):
            gray, scale = shrink(image, SIDE)
            made = detector()
            try:
                made.detect_and_extract(equalize_adapthist(gray) if equalized else gray)
            except RuntimeError as error:
                raise MaskError("no key points") from error
            points.append(made.keypoints[:, ::-1])
            descriptors.append(made.descriptors)
            scales.append(scale)
        matches = match_descriptors(*descriptors, cross_check=True, max_ratio=0.8)
        if len(matches) < 8:
            raise MaskError("too few matches")
        pairs = points[0][matches[:, 0]], points[1][matches[:, 1]]
        motion, agreeing = ransac(pairs, model, min_samples=3, residual_threshold=4, max_trials=1000, rng=0)
        if agreeing is None or agreeing.sum() < 8:
            raise MaskError("too few matches agree")
        before, after = (np.diag([scale, scale, 1]) for scale in scales)
        return np.linalg.inv(after) @ motion.params @ before

    return found


def phase_correlation(earlier: NDArray[np.uint8], later: NDArray[np.uint8]) -> Matrix:
    """Find turn and zoom from the spectra, then the shift."""
    side = 256
    planes, scales = [], []
    for image in (earlier, later):
        gray, scale = shrink(image, side)
        plane = np.zeros((side, side))
        plane[: gray.shape[0], : gray.shape[1]] = gray - gray.mean()
        planes.append(plane)
        scales.append(scale)
    radius, shape = side // 3, (360, side)
    spectra = [np.log1p(np.abs(np.fft.fftshift(np.fft.fft2(p * window("hann", p.shape))))) for p in planes]
    polar = [
        warp_polar(spectrum, radius=radius, output_shape=shape, scaling="log")[:180] for spectrum in spectra
    ]
    (turned, zoomed), _, _ = phase_cross_correlation(*polar, upsample_factor=4, normalization=None)
    scale = np.exp(zoomed * np.log(radius) / side)
    center = SimilarityTransform(translation=(side / 2, side / 2))
    found: list[tuple[float, Matrix]] = []
    for angle in (turned, turned + 180):  # the spectrum is the same upside down
        turn = SimilarityTransform(rotation=np.deg2rad(-angle), scale=1 / scale)
        motion = center.inverse + turn + center
        moved = warp(planes[0], motion.inverse)
        shift, error, _ = phase_cross_correlation(planes[1], moved, normalization=None)
        found.append((error, (motion + SimilarityTransform(translation=shift[::-1])).params))
    _, best = min(found, key=lambda answer: answer[0])
    return np.diag([1 / scales[1], 1 / scales[1], 1]) @ best @ np.diag([scales[0], scales[0], 1])


METHODS: dict[str, Method] = {
    "none": lambda earlier, later: np.eye(3),
    "phase correlation": phase_correlation,
    "ORB": key_points(lambda: ORB(n_keypoints=800, fast_threshold=0.02), SimilarityTransform),
    "SIFT, plain": key_points(SIFT, SimilarityTransform, equalized=False),
    "SIFT, affine": key_points(SIFT, AffineTransform),
    "SIFT, shipped": register,
}


def main() -> None:
    """Print a table for each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_data_argument(parser)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    table = Table("set", "method", "Dice, median", "mean", f"below {POOR}", "no answer", "ms")
    for name in options.sets:
        rng = np.random.default_rng(options.seed)
        visits = []
        for pair in find_set(options.data / name, options.limit):
            image, mask = read_image(pair.image), read_mask(pair.mask)
            scale = min(1.0, WORKING_SIDE / max(mask.shape))
            shape = (round(mask.shape[0] * scale), round(mask.shape[1] * scale))
            image = (255 * resize(image, shape, anti_aliasing=True)).astype(np.uint8)
            mask = (resize(mask > 0, shape, order=0) > 0).astype(np.uint8)
            visits.append((image, mask, *change(image, mask, rng)))
        for method, find in METHODS.items():
            scores, silent, began = [], 0, time.perf_counter()
            for image, mask, later, truth in visits:
                try:
                    matrix = find(image, later)
                except MaskError:
                    matrix, silent = np.eye(3), silent + 1
                scores.append(dice(move_mask(mask, matrix, truth.shape), truth))
            spent = 1000 * (time.perf_counter() - began) / len(visits)
            poor = sum(score < POOR for score in scores) / len(scores)
            table.add_row(
                name, method, f"{median(scores):.3f}", f"{fmean(scores):.3f}", f"{poor:.0%}",
                str(silent), f"{spent:.0f}",
            )  # fmt: skip
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
