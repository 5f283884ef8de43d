from __future__ import annotations

import pytest

from napari_lesionseg.errors import SettingsError
from napari_lesionseg.models.card import FORMAT_VERSION, ModelCard


@pytest.mark.parametrize(
    "settings",
    [
        {"name": ""},
        {"name": "two\nlines"},
        {"name": "\x1b[31mred"},
        {"license": "a\tb"},
        {"working_size": 0},
        {"working_size": 10**9},
        {"mean": (0.5, 0.5)},
        {"mean": (0.5, float("nan"), 0.5)},
        {"std": (0.2, 0.0, 0.2)},
        {"std": (0.2, -0.1, 0.2)},
        {"std": (0.2, float("inf"), 0.2)},
        {"threshold": 0.0},
        {"threshold": 1.0},
        {"threshold": float("nan")},
        {"temperature": 0.0},
        {"temperature": float("inf")},
        {"classes": ("background",)},
        {"classes": ("background", "")},
        {"classes": ("background", "lesion", "lesion")},
        {"format_version": FORMAT_VERSION + 1},
        {"format_version": 0},
        {"arch_settings": {"width": 1.5}},
        {"unheard_of": 1},
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        ModelCard(**settings)


def test_one_class_needs_one_channel() -> None:
    assert ModelCard().out_channels == 1
    assert ModelCard(classes=("background", "nevus", "melanoma")).out_channels == 3


def test_survives_json() -> None:
    card = ModelCard(
        name="Hôpital æøå 皮膚", threshold=0.1 + 0.2, training={"seconds": 1.5, "list": [1, "a"]}
    )
    assert ModelCard.model_validate_json(card.model_dump_json()) == card
