"""Measurements of outlined lesions: sizes, shape and colors, in pixels until a scale was set.

They describe an outline; they are no diagnosis and no risk. An outline is taken as it is drawn, every pixel a
square, and of a lesion that the image cuts off the visible part is measured.
"""

from __future__ import annotations

import csv
import functools
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from skimage.color import rgb2lab
from skimage.measure import perimeter_crofton

from napari_lesionseg.errors import ImageError, MaskError
from napari_lesionseg.io.atomic import write_atomically
from napari_lesionseg.masks.instances import InstanceMap, as_columns, each_instance
from napari_lesionseg.types import ByteImage

COLORS: dict[str, tuple[int, int, int]] = {
    "white": (240, 230, 225),
    "red": (200, 90, 90),
    "light brown": (180, 125, 90),
    "dark brown": (100, 60, 45),
    "blue-gray": (100, 110, 125),
    "black": (30, 20, 20),
}
"""The six colors of the ABCD rule of dermatoscopy (Nachbar et al. 1994); their RGB values are our choice."""

COLOR_SHARE = 0.05
"""A color counts if at least this share of the lesion is nearer to it than to the others."""

_ANGLES = np.deg2rad(np.arange(0, 90, 5))
_SIDE = 128  # root of the number of pixels at which symmetry is judged
_DRAWN = 20_000  # pixels of a lesion whose colors are examined
_SQUARE = 0.01  # pixels count as square if their sides differ by no more than this share


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a pixel is on the skin.

    Parameters
    ----------
    millimeters : float
        Side of a pixel; above 0.

    Raises
    ------
    ImageError
        If it is not above 0.
    """

    millimeters: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.millimeters) and self.millimeters > 0):
            raise ImageError("The scale must be a length above 0 millimeters a pixel.")

    @classmethod
    def from_line(cls, start: tuple[float, float], end: tuple[float, float], millimeters: float) -> Scale:
        """Take the scale from a line drawn along a ruler."""
        length = math.dist(start, end)
        if length == 0:
            raise ImageError("The line on the ruler has no length; draw it from one mark to another.")
        return cls(millimeters / length)

    @classmethod
    def from_spacing(cls, rows: float, cols: float) -> Scale:
        """Take the scale from the spacing of rows and columns in millimeters, as DICOM gives it."""
        if abs(rows - cols) > _SQUARE * max(abs(rows), abs(cols)):
            raise ImageError(
                f"Pixels of {rows} x {cols} mm are not square; bring the image to square ones first."
            )
        return cls((rows + cols) / 2)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was measured on one lesion.

    Parameters
    ----------
    index : int
        Number of the lesion.
    unit : "px" or "mm"
        Of lengths; areas are in its square.
    area : float
        Area.
    longest_diameter, shortest_diameter : float
        Largest and smallest distance of two parallel lines that hold the lesion between them (Feret).
    perimeter : float
        Length of the outline, by Crofton's formula in four directions.
    asymmetry : float
        See `asymmetry`; 0 to 1.
    border_irregularity : float
        See `border_irregularity`; 1 for a disc.
    cut_off : bool
        Whether the lesion touches the border of the image, so that it may extend beyond it.
    colors : int or None
        How many of `COLORS` there are; None without an image.
    color_names : str
        Which, the commonest first, with commas.
    """

    index: int
    unit: Literal["px", "mm"]
    area: float
    longest_diameter: float
    shortest_diameter: float
    perimeter: float
    asymmetry: float
    border_irregularity: float
    cut_off: bool
    colors: int | None
    color_names: str


_LENGTHS = ("longest_diameter", "shortest_diameter", "perimeter")


def measure_instances(
    ids: InstanceMap, image: ByteImage | None = None, scale: Scale | None = None
) -> tuple[Measurement, ...]:
    """Measure every lesion of an image."""
    if image is not None and image.shape[:2] != ids.shape:
        raise MaskError(f"The lesions are of shape {ids.shape}, but the image of {image.shape[:2]}.")
    return tuple(_measure(ids, place, image, scale) for place in each_instance(ids))


def _measure(
    ids: InstanceMap,
    place: tuple[int, tuple[slice, slice], NDArray[np.bool_]],
    image: ByteImage | None,
    scale: Scale | None,
) -> Measurement:
    index, region, own = place
    shares = {} if image is None else color_shares(image[region], own)
    names = [name for name, share in shares.items() if share >= COLOR_SHARE]
    longest, shortest = diameters(own)
    area, around = int(np.count_nonzero(own)), perimeter(own)
    side = scale.millimeters if scale else 1.0
    ends = zip(region, ids.shape, strict=True)
    return Measurement(
        index=index,
        unit="mm" if scale else "px",
        area=area * side**2,
        longest_diameter=longest * side,
        shortest_diameter=shortest * side,
        perimeter=around * side,
        asymmetry=asymmetry(own),
        border_irregularity=border_irregularity(around, area),
        cut_off=any(part.start == 0 or part.stop == end for part, end in ends),
        colors=None if image is None else len(names),
        color_names=", ".join(names),
    )


def diameters(own: NDArray[np.bool_]) -> tuple[float, float]:
    """Measure the longest and the shortest diameter of a shape, in pixels (Feret 1930).

    The longest is the largest distance of two corners of the convex hull; the shortest is that of a side of
    the hull to the corner farthest from it (Toussaint 1983, "Solving geometric problems with the rotating
    calipers").
    """
    rows = np.flatnonzero(own.any(axis=1))
    left, right = own[rows].argmax(axis=1), own.shape[1] - own[rows, ::-1].argmax(axis=1)
    corners = np.array([(row + down, col) for down in (0, 1) for row, col in _ends(rows, left, right)])
    hull = corners[ConvexHull(corners).vertices].astype(np.float64)
    between = np.hypot(*(hull[:, None] - hull[None]).transpose(2, 0, 1))
    sides = np.roll(hull, -1, axis=0) - hull
    normals = np.stack([-sides[:, 1], sides[:, 0]], axis=1) / np.hypot(*sides.T)[:, None]
    across = hull @ normals.T  # (corners, sides)
    return float(between.max()), float(np.ptp(across, axis=0).min())


def perimeter(own: NDArray[np.bool_]) -> float:
    """Measure the length of the outline of a shape, holes included, in pixels.

    Crofton's formula in four directions: of the counts of crossings, it is right within 1 % for discs of a
    radius of 8 pixels and more, where the length of the staircase would be 27 % too long.
    """
    return float(perimeter_crofton(np.pad(own, 1), directions=4))


def border_irregularity(around: float, area: float) -> float:
    """Compare an outline with that of a disc of the same area.

    The compactness index, used for the border of skin lesions by Golston, Stoecker, Moss and Dhir (1992),
    "Automatic detection of irregular borders in melanoma and other skin tumors". It does not tell a long
    smooth lesion from a ragged round one (Lee et al. 2003, "Irregularity index").
    """
    return around**2 / (4 * math.pi * area)


def asymmetry(own: NDArray[np.bool_]) -> float:
    """Measure how far the halves of a shape differ when it is folded.

    The axes go through the center of the area, at right angles to each other, and are turned so that the
    result is lowest, as in the ABCD rule of dermatoscopy (Nachbar et al. 1994); the share that does not
    overlap is that of Stoecker, Li and Moss (1992), "Automatic detection of asymmetry in skin tumors".
    """
    step = math.ceil(math.sqrt(np.count_nonzero(own)) / _SIDE)
    small = own[step // 2 :: step, step // 2 :: step]
    if not small.any():
        return 0.0
    places = np.argwhere(small).astype(np.float64)
    centered = places - places.mean(axis=0)
    unlike = functools.partial(_asymmetric_share, small, places, centered)
    shares = [(unlike(angle) + unlike(angle + math.pi / 2)) / 2 for angle in _ANGLES]
    return float(min(shares))


def color_shares(image: ByteImage, own: NDArray[np.bool_]) -> dict[str, float]:
    """Return the share of a lesion nearest to each of `COLORS` in CIELAB, the largest first."""
    pixels = image[own]
    pixels = pixels[:: max(1, len(pixels) // _DRAWN)]
    names = list(COLORS)
    references = rgb2lab(np.array([list(COLORS.values())], np.uint8))[0]
    distances = np.linalg.norm(rgb2lab(pixels[None])[0][:, None] - references[None], axis=2)
    shares = np.bincount(distances.argmin(axis=1), minlength=len(names)) / len(pixels)
    return {names[place]: float(shares[place]) for place in np.argsort(-shares, kind="stable")}


def measurement_columns(rows: Sequence[Measurement]) -> dict[str, NDArray[Any]]:
    """Turn measurements into columns that say their unit, such as ``area_px2`` or ``perimeter_mm``."""
    units = {row.unit for row in rows}
    if len(units) > 1:
        raise MaskError("Measurements in pixels and in millimeters do not belong in one table.")
    columns = as_columns(rows)
    columns.pop("unit", None)
    unit = "".join(units)
    endings = {"area": f"_{unit}2"} | dict.fromkeys(_LENGTHS, f"_{unit}")
    return {name + endings.get(name, ""): column for name, column in columns.items()}


def write_measurements(path: Path, images: Sequence[tuple[str, Sequence[Measurement]]]) -> None:
    """Write the measurements of some images as CSV, one lesion a line."""
    names = list(Measurement.__dataclass_fields__)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", *names])
    for image, rows in images:
        for row in rows:
            writer.writerow([_escape_formula(image), *(_format_value(getattr(row, name)) for name in names)])
    try:
        write_atomically(path, text.getvalue().encode("utf-8"))
    except OSError as error:
        raise MaskError(f"The measurements cannot be written to {path}: {error.strerror}.") from error


def _ends(rows: NDArray[np.intp], left: NDArray[np.intp], right: NDArray[np.intp]) -> list[tuple[int, int]]:
    """List where each row of a shape begins and ends."""
    return [*zip(rows.tolist(), left.tolist(), strict=True), *zip(rows.tolist(), right.tolist(), strict=True)]


def _asymmetric_share(
    own: NDArray[np.bool_], places: NDArray[np.float64], centered: NDArray[np.float64], angle: float
) -> float:
    """Compute the share of a shape whose mirror image across an axis through its center lies outside."""
    axis = np.array([math.cos(angle), math.sin(angle)])
    mirrored = 2 * (centered @ axis)[:, None] * axis - centered
    rows, cols = np.rint(mirrored + (places - centered)).astype(np.intp).T
    inside = (rows >= 0) & (rows < own.shape[0]) & (cols >= 0) & (cols < own.shape[1])
    return 1 - float(own[rows[inside], cols[inside]].sum()) / len(places)


def _format_value(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else value


def _escape_formula(text: str) -> str:
    """Escape an image name that a spreadsheet would read as a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
