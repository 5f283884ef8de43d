from __future__ import annotations

import numpy as np

from napari_lesionseg.io.overlay import OUTLINE_COLORS, draw_outline


def square(value: int = 1, side: int = 100) -> np.ndarray:
    labels = np.zeros((side, side), np.uint8)
    labels[side // 5 : -side // 5, side // 5 : -side // 5] = value
    return labels


def test_the_border_alone_is_drawn_within_the_lesion() -> None:
    image = np.full((100, 100, 3), 77, np.uint8)
    drawn = draw_outline(image, square())
    changed = (drawn != image).any(axis=-1)
    assert changed[20, 20:80].all()
    assert changed[20:80, 79].all()
    assert not changed[21:79, 21:79].any()
    assert not changed[square() == 0].any()
    assert (drawn[changed] == OUTLINE_COLORS[0]).all()


def test_the_image_stays_as_it_is() -> None:
    image = np.zeros((100, 100, 3), np.uint8)
    assert draw_outline(image, square()) is not image
    assert not image.any()


def test_nothing_to_draw() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    assert np.array_equal(draw_outline(image, np.zeros((50, 60), np.uint8)), image)
    assert np.array_equal(draw_outline(image, np.ones((50, 60), np.uint8)), image)


def test_no_line_along_the_border_of_the_image() -> None:
    labels = np.zeros((100, 100), np.uint8)
    labels[:, :50] = 1
    drawn = draw_outline(np.zeros((100, 100, 3), np.uint8), labels)
    assert drawn[:, 49].any(axis=-1).all()
    assert not drawn[:, :49].any()


def test_each_class_has_a_color_and_colors_come_again() -> None:
    labels = np.zeros((40, 240), np.uint8)
    for index in range(5):
        labels[10:30, 10 + 40 * index : 30 + 40 * index] = index + 1
    drawn = draw_outline(np.zeros((40, 240, 3), np.uint8), labels)
    colors = [tuple(drawn[10, 20 + 40 * index].tolist()) for index in range(5)]
    assert colors == [*OUTLINE_COLORS, OUTLINE_COLORS[0]]


def test_lines_grow_with_the_image() -> None:
    drawn = draw_outline(np.zeros((1000, 1000, 3), np.uint8), square(side=1000))
    assert drawn[500].any(axis=-1).sum() == 2 * 4


def test_a_single_pixel_is_seen() -> None:
    labels = np.zeros((9, 9), np.uint8)
    labels[4, 4] = 1
    assert draw_outline(np.zeros((9, 9, 3), np.uint8), labels)[4, 4].any()
