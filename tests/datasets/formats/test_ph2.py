from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from napari_lesionseg.datasets.formats.ph2 import facts_of_sheet, facts_of_text
from napari_lesionseg.datasets.import_ import read_dataset
from napari_lesionseg.errors import DatasetError

TEXT = """
|| Name || Histological Diagnosis || Clinical Diagnosis || Asymmetry | Pigment Network ||           Colors ||
|| IMD003 ||                        ||                  0 ||         0 | T | A | A | A | A ||             4 ||
|| IMD409 ||               Melanoma ||        2 ||         2 | AT | A | P | P | P || 1  3  4  5  6 ||
Legends: Clinical Diagnosis: 0 - Common Nevus; 1 - Atypical Nevus; 2 - Melanoma.
"""


@pytest.fixture
def ph2(kit, tmp_path: Path) -> Path:
    """Two cases in the original layout, one with a 1-bit mask and colors, one with an RGB mask."""
    root = tmp_path / "PH2Dataset"
    for seed, name in enumerate(("IMD003", "IMD409")):
        case = root / "PH2 Dataset images" / name
        mask = Image.fromarray(kit.labels(seed) * np.uint8(255))
        for folder, file, image in (
            (f"{name}_Dermoscopic_Image", f"{name}.bmp", Image.fromarray(kit.image(seed))),
            (f"{name}_lesion", f"{name}_lesion.bmp", mask.convert("RGB" if seed else "1")),
        ):
            (case / folder).mkdir(parents=True)
            image.save(case / folder / file)
    roi = root / "PH2 Dataset images/IMD409/IMD409_roi"
    roi.mkdir()
    for number, label, rows in ((1, 6, slice(0, 3)), (2, 6, slice(5, 8)), (3, 1, slice(0, 1))):
        region = np.zeros((40, 56), bool)
        region[rows] = True
        Image.fromarray(region).save(roi / f"IMD409_R{number}_Label{label}.bmp")
    (root / "PH2_dataset.txt").write_text(TEXT)
    return tmp_path


def test_cases_come_with_masks_colors_and_facts(kit, ph2: Path) -> None:
    dataset = read_dataset(ph2)
    assert dataset.format == "ph2"
    assert dataset.problems == ()
    common, melanoma = dataset.records
    assert (common.name, common.diagnosis, common.metadata["colors"]) == (
        "IMD003",
        "common nevus",
        "dark-brown",
    )
    assert melanoma.diagnosis == "melanoma"
    assert melanoma.metadata["histological_diagnosis"] == "Melanoma"
    assert melanoma.metadata["colors"] == "white;light-brown;dark-brown;blue-gray;black"
    assert [melanoma.metadata[key] for key in ("asymmetry", "pigment_network", "blue_whitish_veil")] == [
        "2",
        "AT",
        "P",
    ]
    pixels = melanoma.load()
    assert np.array_equal(pixels.labels, kit.labels(1))
    assert np.array_equal(pixels.image, kit.image(1))
    assert {name: int(mask.sum()) for name, mask in pixels.regions.items()} == {"black": 6 * 56, "white": 56}


def test_the_table_may_be_missing_or_damaged(ph2: Path) -> None:
    table = ph2 / "PH2Dataset/PH2_dataset.txt"
    (table.with_suffix(".xlsx")).write_bytes(b"PK damaged")
    dataset = read_dataset(ph2)
    assert [problem.name for problem in dataset.problems] == ["PH2_dataset.xlsx"]
    assert dataset.records[0].diagnosis == "common nevus"
    table.unlink()
    table.with_suffix(".xlsx").unlink()
    assert read_dataset(ph2).records[0].diagnosis is None


def test_incomplete_cases_are_listed(ph2: Path) -> None:
    shutil.rmtree(ph2 / "PH2Dataset/PH2 Dataset images/IMD003/IMD003_lesion")
    dataset = read_dataset(ph2)
    assert [record.name for record in dataset.records] == ["IMD409"]
    assert [(problem.name, problem.reason) for problem in dataset.problems] == [
        ("IMD003", "IMD003 has no lesion mask.")
    ]


def test_another_folder_is_not_ph2(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no PH2 cases"):
        read_dataset(tmp_path, "ph2")


@given(
    st.lists(st.lists(st.sampled_from(["IMD001", "X", "x", " 2 ", "", "AT", "||"]), max_size=20), max_size=5)
)
def test_any_rows_of_cells_are_borne(rows: list[list[str]]) -> None:
    for name, facts in facts_of_sheet(rows):
        assert name == "IMD001"
        assert set(facts) >= {"diagnosis", "colors"}


@given(st.text(alphabet="|| IMD0123\n ATPX", max_size=300))
def test_any_text_is_borne(text: str) -> None:
    assert all(name.startswith("IMD") for name, _ in facts_of_text(text))


def test_the_real_sample_is_read_whole(real_data: Path) -> None:
    dataset = read_dataset(real_data / "ph2-sample")
    assert dataset.format == "ph2"
    assert len(dataset.records) == 20
    assert dataset.problems == ()
    assert {record.diagnosis for record in dataset.records} <= {"common nevus", "atypical nevus", "melanoma"}
    case = next(record for record in dataset.records if record.name == "IMD033")
    assert case.diagnosis == "atypical nevus"
    assert set(case.load().regions) == {"light-brown", "black"}
