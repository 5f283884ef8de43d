from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from napari_lesionseg.errors import ImageError, PairingError
from napari_lesionseg.io.images import read_image
from napari_lesionseg.io.pairing import find_images, find_pairs, natural_key, search_pairs

Touch = Callable[..., list[Path]]


@pytest.fixture
def touch(tmp_path: Path) -> Touch:
    """Make empty files: finding looks at names alone."""

    def make(*names: str) -> list[Path]:
        paths = [tmp_path / name for name in names]
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return paths

    return make


def names(paths: list[Path] | tuple[Path, ...]) -> list[str]:
    return [path.name for path in paths]


def ph2(number: str, root: str = "PH2 Dataset images") -> tuple[str, str, str]:
    case = f"{root}/IMD{number}/IMD{number}"
    return (
        f"{case}_Dermoscopic_Image/IMD{number}.bmp",
        f"{case}_lesion/IMD{number}_lesion.bmp",
        f"{case}_roi/IMD{number}_R1_Label3.bmp",
    )


class TestFindImages:
    def test_a_folder_gives_its_own_images_in_natural_order(self, touch: Touch, tmp_path: Path) -> None:
        touch("IMD10.bmp", "IMD2.JPG", "imd1.png", "notes.txt", "blå 3.tiff", "deeper/IMD3.bmp", "IMD9.webp")
        assert names(find_images([tmp_path])) == [
            "blå 3.tiff", "imd1.png", "IMD2.JPG", "IMD9.webp", "IMD10.bmp",
        ]  # fmt: skip

    def test_what_is_no_image_is_left_out(self, touch: Touch, tmp_path: Path) -> None:
        touch(
            "a.jpg", "a_segmentation.png", "A_MASK.png", "a_Lesion.png", "b_mask.png", "a_superpixels.png",
            "._a.jpg", ".a.jpg.1-0a.tmp", "Thumbs.db",
        )  # fmt: skip
        (tmp_path / "folder.jpg").mkdir()
        assert names(find_images([tmp_path])) == ["a.jpg"]

    def test_lesion_may_be_the_name_of_an_image(self, touch: Touch, tmp_path: Path) -> None:
        touch("overview.jpg", "arm_lesion.jpg", "leg_gt.jpg")
        assert names(find_images([tmp_path])) == ["arm_lesion.jpg", "leg_gt.jpg", "overview.jpg"]

    @pytest.mark.parametrize("word", ["_seg", "-gt", " label", ".annotation", "_GroundTruth", "_masks"])
    def test_masks_of_other_programs_beside_an_image_are_no_images(
        self, touch: Touch, tmp_path: Path, word: str
    ) -> None:
        touch("a.jpg", f"a{word}.png")
        assert names(find_images([tmp_path])) == ["a.jpg"]
        assert [pair.mask.name for pair in find_pairs(tmp_path).pairs] == [f"a{word}.png"]

    def test_files_folders_and_patterns_together_give_each_once(
        self, touch: Touch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        touch("one/a.jpg", "one/b.png", "two/c.jpg")
        monkeypatch.chdir(tmp_path)
        found = find_images(
            ["one", Path("one/a.jpg"), "./one/../one/a.jpg", "t*/*.jpg", "**/b.png", tmp_path / "one"]
        )
        assert names(found) == ["a.jpg", "b.png", "c.jpg"]

    def test_one_input_need_not_be_a_list(self, touch: Touch, tmp_path: Path) -> None:
        (path,) = touch("a.jpg")
        assert find_images(path) == find_images(str(path)) == find_images(tmp_path) == [path]

    def test_inputs_may_be_a_generator(self, touch: Touch) -> None:
        paths = touch("a.jpg", "b.jpg")
        assert find_images(path for path in paths) == paths

    def test_patterns_take_images_only(self, touch: Touch, tmp_path: Path) -> None:
        touch("a.jpg", "a.csv", "a_mask.png", "sub/b.jpg")
        assert names(find_images([f"{tmp_path}/*"])) == ["a.jpg"]
        assert names(find_images([f"{tmp_path}/**/*.jpg"])) == ["a.jpg", "b.jpg"]

    def test_brackets_in_names_are_no_pattern(self, touch: Touch, tmp_path: Path) -> None:
        touch("visit [1]/a [x].jpg", "visit [1]/b.jpg")
        assert names(find_images([tmp_path / "visit [1]" / "a [x].jpg"])) == ["a [x].jpg"]
        assert names(find_images([f"{tmp_path}/visit [1]/*.jpg"])) == ["a [x].jpg", "b.jpg"]

    def test_a_named_file_is_kept_so_that_reading_can_tell(self, touch: Touch) -> None:
        paths = touch("a.jpg", "notes.txt")
        assert find_images(paths) == paths

    @pytest.mark.parametrize(
        "start", ["", "PH2Dataset", "PH2Dataset/PH2 Dataset images", "PH2Dataset/PH2 Dataset images/IMD002"]
    )
    def test_ph2_is_found_from_any_of_its_folders(self, touch: Touch, tmp_path: Path, start: str) -> None:
        touch(*ph2("002", "PH2Dataset/PH2 Dataset images"), "PH2Dataset/PH2_dataset.xlsx")
        assert names(find_images([tmp_path / start])) == ["IMD002.bmp"]

    def test_ph2_is_found_from_inside_a_case(
        self, touch: Touch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        touch(*ph2("002"))
        monkeypatch.chdir(tmp_path / "PH2 Dataset images" / "IMD002")
        assert names(find_images(["."])) == ["IMD002.bmp"]
        monkeypatch.chdir("IMD002_Dermoscopic_Image")
        assert find_pairs(".").pairs[0].mask.name == "IMD002_lesion.bmp"

    def test_a_folder_of_images_and_masks_gives_the_images(self, touch: Touch, tmp_path: Path) -> None:
        touch("images/a.jpg", "masks/a.png")
        assert names(find_images([tmp_path])) == ["a.jpg"]

    @pytest.mark.parametrize("given", ["nowhere", "nowhere/*.jpg", "nowhere/a.jpg", "*.gif", "n" * 300])
    def test_what_is_not_there_is_named(self, tmp_path: Path, given: str) -> None:
        with pytest.raises(PairingError) as raised:
            find_images([tmp_path / given])
        assert str(tmp_path / given) in str(raised.value)

    def test_no_images_is_an_error(self, touch: Touch, tmp_path: Path) -> None:
        with pytest.raises(PairingError, match="No images were found in nothing"):
            find_images([])
        with pytest.raises(PairingError, match="No images were found in"):
            find_images([tmp_path])
        touch("a_mask.png")
        with pytest.raises(PairingError, match="only masks"):
            find_images([tmp_path])

    def test_a_folder_that_may_not_be_listed_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def denied(_: Path) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("napari_lesionseg.io.pairing.os.access", lambda *_: False)
        monkeypatch.setattr(Path, "iterdir", denied)
        with pytest.raises(PairingError, match="cannot be listed: Permission denied"):
            find_images([tmp_path])


class TestFindPairs:
    @pytest.mark.parametrize(
        "mask",
        [
            "a b æ.png",
            "a b æ_segmentation.png",
            "A B Æ_Mask.JPG",
            "a b æ_lesion.bmp",
            "a b æ_SEGMENTATION.tif",
            "a b æ-mask.png",
            "a b æ_gt.png",
            "a b æ_Ground_Truth.png",
            "a b æ.labels.png",
        ],
    )
    def test_a_mask_has_the_stem_alone_or_with_an_ending(
        self, touch: Touch, tmp_path: Path, mask: str
    ) -> None:
        touch("images/a b æ.jpg", f"masks/{mask}", "masks/notes.csv")
        (pair,) = find_pairs(tmp_path / "images", tmp_path / "masks").pairs
        assert (pair.stem, pair.image.name, pair.mask.name) == ("a b æ", "a b æ.jpg", mask)
        assert find_pairs(tmp_path).pairs == (pair,)

    @pytest.mark.parametrize(
        "mask", ["aa.png", "a_1.png", "a_segmentation2.png", "_mask.png", "b_a.png", "a_mask_mask.png"]
    )
    def test_other_stems_do_not_belong(self, touch: Touch, tmp_path: Path, mask: str) -> None:
        touch("images/a.jpg", "images/z.jpg", f"masks/{mask}", "masks/z.png")
        search = find_pairs(tmp_path / "images", tmp_path / "masks")
        assert [pair.stem for pair in search.pairs] == ["z"]
        assert names(search.without_mask) == ["a.jpg"]

    @pytest.mark.parametrize(
        ("images", "masks"), [("Images", "Masks"), ("imgs", "labels"), ("image", "GroundTruth")]
    )
    def test_folders_of_images_and_masks_have_several_names(
        self, touch: Touch, tmp_path: Path, images: str, masks: str
    ) -> None:
        touch(f"{images}/a.jpg", f"{masks}/a.png", "notes/a.png")
        (pair,) = find_pairs(tmp_path).pairs
        assert (pair.image.parent.name, pair.mask.parent.name) == (images, masks)

    def test_masks_in_two_folders_are_several_masks(self, touch: Touch, tmp_path: Path) -> None:
        touch("images/a.jpg", "masks/a.png", "labels/a.png")
        with pytest.raises(PairingError, match="has several masks"):
            find_pairs(tmp_path)

    def test_masks_may_lie_beside_the_images(self, touch: Touch, tmp_path: Path) -> None:
        touch("a.jpg", "a_mask.png", "a10.jpg", "a10_segmentation.png", "a2.jpg", "a2_lesion.png", "b.jpg")
        for search in (
            find_pairs(tmp_path),
            find_pairs(tmp_path, tmp_path),
            find_pairs([f"{tmp_path}/*.jpg"]),
        ):
            assert [(pair.stem, pair.mask.name) for pair in search.pairs] == [
                ("a", "a_mask.png"), ("a2", "a2_lesion.png"), ("a10", "a10_segmentation.png"),
            ]  # fmt: skip
            assert names(search.without_mask) == ["b.jpg"]

    def test_one_folder_by_two_patterns(self, touch: Touch, tmp_path: Path) -> None:
        touch("a.jpg", "a.png")
        (pair,) = find_pairs(f"{tmp_path}/*.jpg", f"{tmp_path}/*.png").pairs
        assert (pair.image.name, pair.mask.name) == ("a.jpg", "a.png")

    def test_an_image_is_never_its_own_mask(self, touch: Touch, tmp_path: Path) -> None:
        touch("a.jpg")
        with pytest.raises(PairingError, match=r"None of 1 images has a mask \(such as a_segmentation"):
            find_pairs(tmp_path, tmp_path)

    def test_generators_are_taken(self, touch: Touch) -> None:
        image, mask = touch("images/a.jpg", "masks/a.png")
        assert len(find_pairs((path for path in [image]), (path for path in [mask])).pairs) == 1

    def test_composed_and_decomposed_letters_are_the_same(self, touch: Touch, tmp_path: Path) -> None:
        touch(
            f"images/{unicodedata.normalize('NFD', 'blåbær')}.jpg",
            f"masks/{unicodedata.normalize('NFC', 'blåbær')}_mask.png",
        )
        assert len(find_pairs(tmp_path).pairs) == 1

    def test_several_masks_for_an_image_are_named(self, touch: Touch, tmp_path: Path) -> None:
        touch("images/a.jpg", "masks/a.png", "masks/a_mask.png", "masks/b.png")
        with pytest.raises(PairingError, match=r"a\.jpg has several masks: .*a\.png, .*a_mask\.png; keep"):
            find_pairs(tmp_path)

    @pytest.mark.parametrize("other", ["two/a.jpg", "one/a.png", "two/A.JPG"])
    def test_two_images_of_one_name_are_refused(self, touch: Touch, tmp_path: Path, other: str) -> None:
        touch("one/a.jpg", other, "masks/a_mask.png")
        with pytest.raises(PairingError, match="have the same name; rename one") as raised:
            find_pairs([tmp_path / "one", tmp_path / other], tmp_path / "masks")
        assert str(tmp_path / "one" / "a.jpg") in str(raised.value)
        assert str(tmp_path / other) in str(raised.value)

    def test_an_image_whose_name_ends_like_a_mask_gets_its_own(self, touch: Touch, tmp_path: Path) -> None:
        touch("images/arm_lesion.jpg", "images/leg.jpg", "masks/arm_lesion_mask.png", "masks/leg.png")
        assert [pair.mask.name for pair in find_pairs(tmp_path).pairs] == ["arm_lesion_mask.png", "leg.png"]

    def test_ph2_pairs_with_the_lesion_not_the_roi(self, touch: Touch, tmp_path: Path) -> None:
        touch(*ph2("002"), *ph2("010"), ph2("011")[0])
        for search in (
            find_pairs(tmp_path),
            find_pairs(tmp_path, tmp_path),
            find_pairs(tmp_path / "PH2 Dataset images"),
            find_pairs(f"{tmp_path}/*/*/*_Dermoscopic_Image/*.bmp"),
            find_pairs(tmp_path, f"{tmp_path}/PH2 Dataset images/*/*_lesion/*"),
        ):
            assert [pair.mask.name for pair in search.pairs] == ["IMD002_lesion.bmp", "IMD010_lesion.bmp"]
            assert names(search.without_mask) == ["IMD011.bmp"]

    def test_isic_as_it_is_downloaded(self, touch: Touch, tmp_path: Path) -> None:
        touch(
            "Data/ISIC_0000000.jpg", "Data/ISIC_0000000_superpixels.png", "Data/metadata.csv",
            "GroundTruth/ISIC_0000000_segmentation.png",
        )  # fmt: skip
        search = find_pairs(tmp_path / "Data", tmp_path / "GroundTruth")
        assert len(search.pairs) == 1
        assert search.without_mask == ()

    def test_missing_masks_are_named(self, touch: Touch, tmp_path: Path) -> None:
        touch("images/a.jpg")
        (tmp_path / "empty").mkdir()
        with pytest.raises(PairingError, match="nowhere does not exist"):
            find_pairs(tmp_path / "images", tmp_path / "nowhere")
        with pytest.raises(PairingError, match=r"No masks were found in .*empty"):
            find_pairs(tmp_path / "images", tmp_path / "empty")
        with pytest.raises(PairingError, match="No masks were found in nothing"):
            find_pairs(tmp_path / "images", [])


def test_every_file_without_a_partner_is_named(touch: Touch, tmp_path: Path) -> None:
    touch("images/a.jpg", "images/b.jpg", "images/c.jpg", "images/c.png", "images/d.jpg")
    touch("masks/a.png", "masks/b.png", "masks/b_mask.png", "masks/z.png")
    search = search_pairs(tmp_path)
    assert [pair.stem for pair in search.pairs] == ["a"]
    said = "\n".join(search.unused())
    assert all(f"{name} " in said or f"{name}:" in said for name in ("b.jpg", "c.jpg", "c.png", "d.jpg"))
    assert "z.png is a mask without an image." in said


def test_natural_order_counts() -> None:
    given = ["IMD100", "imd20", "IMD3", "a", "3", "20", "x²", "x2y10", "x2y9", "IMD003"]
    ordered = [str(path) for path in sorted(map(Path, given), key=natural_key)]
    assert ordered == ["3", "20", "a", "IMD003", "IMD3", "imd20", "IMD100", "x2y9", "x2y10", "x²"]


@pytest.mark.parametrize(
    ("folder", "count"),
    [("ph2-sample", 20), ("pad-smartphone", 30), ("isic2017-val-256", 149), ("isic2017-val-fullres", 6)],
)
def test_real_data_pairs_completely(real_data: Path, folder: str, count: int) -> None:
    search = find_pairs(real_data / folder)
    assert len(search.pairs) == count
    assert search.without_mask == ()
    assert len({pair.mask for pair in search.pairs}) == count
    assert [pair.image for pair in search.pairs] == find_images([real_data / folder])


def test_the_second_reader_of_the_smartphone_photographs(real_data: Path) -> None:
    folder = real_data / "pad-smartphone"
    search = find_pairs(folder / "images", folder / "second_reader_masks")
    assert (len(search.pairs), len(search.without_mask)) == (12, 18)


def test_the_folders_that_hold_images_are_named(tmp_path: Path) -> None:
    for name in ("train/images/a.png", "train/masks/a.png", "val/images/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(PairingError) as raised:
        find_images(tmp_path)
    assert f"but in {tmp_path / 'train/images'}, {tmp_path / 'val/images'};" in str(raised.value)


def test_images_that_are_not_read_are_found_without_a_copy(tmp_path: Path) -> None:
    """Raw photos lie beside JPEG files of the same name; alone they are the only image of a lesion."""
    copies, others = ("a.jpg", "a.NEF", "A.psd"), ("b.cr2", "c.dcm", "d.tga", ".e.dng", "f.mov")
    for name in (*copies, *others, "g.png", "g_mask.png"):
        (tmp_path / name).write_bytes(b"x")
    names = ["a.jpg", "b.cr2", "c.dcm", "d.tga", "g.png"]
    assert [path.name for path in find_images(tmp_path)] == names
    search = search_pairs(tmp_path)
    assert [path.name for path in search.without_mask] == names[:-1]


def test_a_link_that_leads_nowhere_does_not_refuse_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / "b.png").symlink_to(tmp_path / "not_fetched.png")
    assert find_images(find_images(tmp_path)) == [tmp_path / "a.png", tmp_path / "b.png"]
    with pytest.raises(ImageError, match="not there; fetch it"):
        read_image(tmp_path / "b.png")


def test_images_that_placeholders_stand_for_are_named(tmp_path: Path) -> None:
    for name in ("a.png", "a.png.dvc", "b.png.dvc", ".c.jpg.icloud", "notes.pdf.dvc"):
        (tmp_path / name).write_bytes(b"x")
    found = find_images(tmp_path)
    assert {path.name for path in found} == {"a.png", "b.png.dvc", ".c.jpg.icloud"}
    for path in found:
        if path.name == "a.png":
            continue
        with pytest.raises(ImageError, match="is not there"):
            read_image(path)
