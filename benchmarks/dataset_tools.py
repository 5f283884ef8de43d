"""Write real datasets in every format and let other tools check them.

    python benchmarks/dataset_tools.py --python TOOLS/bin/python [--nnunet NNUNET/bin/python] [--data DIR]

TOOLS is an environment with isic-challenge-scoring, pycocotools, datasets, mlcroissant, highdicom and
pydicom, and NNUNET one with nnunetv2, which needs its own torch:

    pip install isic-challenge-scoring pycocotools datasets mlcroissant highdicom pydicom
    pip install nnunetv2

The shipped model's masks are scored against those of the ISIC dataset, and the package's scores are compared
with the challenge's. DICOM needs pydicom and highdicom here as well; its photographs are made from PH2
images, with names in their headers. Prints a Markdown table; exits with 1 if a tool finds an error.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from images import add_data_argument
from napari_lesionseg.datasets.export import export_dataset
from napari_lesionseg.datasets.formats import ExportConfig
from napari_lesionseg.datasets.import_ import read_dataset
from napari_lesionseg.datasets.records import Record
from napari_lesionseg.evaluation.metrics import score_masks
from napari_lesionseg.inference.predictor import load_model, segment
from napari_lesionseg.io.images import read_image, read_mask, write_mask

SETS = ("ph2-sample", "isic-crop512-val", "pad-smartphone")
SCORED = "isic-crop512-val"
KEEP = ExportConfig(pseudonymize="nothing")
DIGITS = 1e-6


def main() -> int:
    """Judge every set; 1 if a tool found anything wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_data_argument(parser)
    parser.add_argument("--python", type=Path, required=True, help="interpreter with the tools")
    parser.add_argument("--nnunet", type=Path, help="interpreter with nnunetv2")
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS)
    found = parser.parse_args()
    print("| images of | tool | judged | verdict |\n|---|---|---|---|")
    good = True
    for name in found.sets:
        with tempfile.TemporaryDirectory() as folder:
            records = [with_parts(record) for record in read_dataset(found.data / name).records]
            judge = Judge(name, Path(folder), records, found.python, found.nnunet)
            for row in judge.run():
                good &= report(name, *row)
    return 0 if good else 1


def report(name: str, tool: str, judged: str, verdict: str, good: bool) -> bool:
    """Print one row."""
    print(f"| {name} | {tool} | {judged} | {verdict if good else f'WRONG: {verdict}'} |", flush=True)
    return good


def with_parts(record: Record) -> Record:
    """Add the separate parts of an outline as objects to export."""
    return replace(record, instances=functools.partial(parts_of, record), regions={})


def parts_of(record: Record) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Return the connected components of an outline."""
    labels = replace(record, instances=None).load().labels
    return ndimage.label(labels, np.ones((3, 3)))[0].astype(np.uint16)


class Judge:
    """Exports one collection in every format and asks the tools.

    Parameters
    ----------
    name : str
        What the collection is called.
    folder : Path
        Where to write.
    records : sequence of Record
        The collection.
    python, nnunet : Path
        The interpreters of the two environments.
    """

    def __init__(
        self, name: str, folder: Path, records: Sequence[Record], python: Path, nnunet: Path | None
    ) -> None:
        self.name = name
        self.folder = folder
        self.records = records
        self.python = python
        self.nnunet = nnunet

    def run(self) -> Iterator[tuple[str, str, str, bool]]:
        """Yield tool, what it judged, its verdict, and whether that is good."""
        plain = self.export("folder")
        for polygons in (False, True):
            yield self.coco(polygons, plain)
        yield self.imagefolder(plain)
        yield self.croissant(plain)
        if self.nnunet is not None:
            yield self.nnunet_integrity()
        if self.name == SCORED:
            yield from self.scores()
        if self.name == "ph2-sample":
            yield self.dicom(plain)

    def export(self, convention: str, config: ExportConfig = KEEP, records: Sequence[Record] = ()) -> Path:
        """Write the collection; return where."""
        folder = self.folder / f"{convention}-{len(list(self.folder.iterdir()))}"
        deque(export_dataset(records or self.records, folder, convention, config=config), maxlen=0)
        return folder

    def ask(self, tool: str, *folders: Path, python: Path | None = None) -> dict[str, Any]:
        """Run one check in the environment of its tool."""
        script = Path(__file__).with_name("dataset_checks.py")
        # -P: the datasets.py beside this script must not stand for the package of that name.
        command = [str(python or self.python), "-P", str(script), tool, *map(str, folders)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{tool} ended with {done.returncode}:\n{done.stderr[-3000:]}")
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    def coco(self, polygons: bool, plain: Path) -> tuple[str, str, str, bool]:
        """Load and evaluate with pycocotools; compare all objects, and ours after a second round."""
        folder = self.export("coco", KEEP.model_copy(update={"polygons": polygons}))
        found = self.ask("coco", folder, plain)
        back = {record.name: record.load() for record in read_dataset(folder).records}
        kept = sum(
            np.array_equal(back[record.name].instances, pixels.instances)
            and np.array_equal(back[record.name].labels, pixels.labels)
            for record, pixels in ((record, record.load()) for record in self.records)
        )
        precision = min(found["average precision"])
        judged = f"{found['images']} images, {found['objects']} objects as "
        verdict = (
            f"{found['differing']} masks or objects differ; average precision against itself "
            f"{precision:.3f}; ids from {found['least id']}; read back by us: {kept} identical"
        )
        good = not found["differing"] and kept == len(self.records) and found["least id"] == 1
        judged += "polygons" if polygons else "run lengths"
        return "pycocotools", judged, verdict, good and precision > 1 - DIGITS

    def imagefolder(self, plain: Path) -> tuple[str, str, str, bool]:
        """Load with `datasets`."""
        found = self.ask("imagefolder", self.export("imagefolder"), plain)
        parts = ", ".join(f"{part} {count}" for part, count in found["parts"].items())
        good = not found["differing"] and found["rows"] == len(self.records)
        return "datasets", f"{found['rows']} rows ({parts})", f"{found['differing']} masks differ", good

    def croissant(self, folder: Path) -> tuple[str, str, str, bool]:
        """Validate the metadata with mlcroissant, and read every record through them."""
        found = self.ask("croissant", folder)
        verdict = f"{len(found['errors'])} errors, {len(found['warnings'])} warnings"
        good = not found["errors"] and found["records"] == len(self.records) and found["images are there"]
        return "mlcroissant", f"{found['records']} records", verdict, good

    def nnunet_integrity(self) -> tuple[str, str, str, bool]:
        """Run nnU-Net's own check."""
        found = self.ask("nnunet", self.export("nnunet"), python=self.nnunet)
        good = "verify_dataset_integrity Done" in found["said"] and found["names fit"]
        judged = f"verify_dataset_integrity, splits: {found['folds']}"
        words = "done without complaint; the split names the images" if good else found["said"]
        return "nnunetv2", judged, words, good

    def scores(self) -> Iterator[tuple[str, str, str, bool]]:
        """Score the model's outlines with the challenge's tool, and compare with our own scores."""
        truth = self.export("isic", KEEP.model_copy(update={"shares": {"test": 1.0}}))
        masks, images = truth / "Task1_Test_GroundTruth", truth / "Task1-2_Test_Input"
        predictions = self.folder / "predictions"
        predictions.mkdir()
        own, model = [], load_model()
        for mask in sorted(masks.iterdir()):
            image = next(images.glob(f"{mask.name.removesuffix('_segmentation.png')}.*"))
            outline = segment(read_image(image), model)
            write_mask(predictions / mask.name, outline)
            own.append(score_masks(outline, read_mask(mask)))
        found = self.ask("isic", masks, predictions)
        pairs = (("jaccard", "jaccard"), ("thresholded_jaccard", "threshold_jaccard"), ("dice", "dice"))
        for ours, theirs in pairs:
            mean = float(np.mean([getattr(score, ours) for score in own]))
            gap = abs(mean - found[theirs])
            words = f"theirs {found[theirs]:.6f}, ours {mean:.6f}, difference {gap:.0e}"
            yield "isic-challenge-scoring", f"{len(own)} outlines, {ours}", words, gap < DIGITS

    def dicom(self, plain: Path) -> tuple[str, str, str, bool]:
        """Read the segmentations back with highdicom, and look for names."""
        camera = self.folder / "camera"
        camera.mkdir()
        records = [replace(record, origin=photograph(record, camera)) for record in self.records]
        found = self.ask("dicom", self.export("dicom", records=records), plain)
        judged = f"{found['images']} segmentations, {found['segments']} segments"
        verdict = f"{found['differing']} masks differ, {found['leaked']} names left in headers"
        good = not found["differing"] and not found["leaked"] and found["images"] == len(records)
        return "highdicom", judged, verdict, good


def photograph(record: Record, folder: Path) -> Path:
    """Make a DICOM photograph of an image, with a header full of names."""
    import pydicom

    dataset = pydicom.Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.7"
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
        setattr(dataset, keyword, pydicom.uid.generate_uid())
    dataset.PatientName, dataset.PatientID = "SECRET^NAME", "SECRET"
    dataset.InstitutionName = dataset.ImageComments = dataset.StudyDescription = "SECRET"
    dataset.PatientBirthDate, dataset.PatientSex, dataset.StudyDate = "19600101", "F", "20240102"
    dataset.Modality, dataset.ImageType, dataset.Manufacturer = "XC", ["ORIGINAL", "PRIMARY"], "Made up"
    dataset.add_new(0x00091010, "LO", "SECRET")
    dataset.set_pixel_data(record.load().image, "RGB", 8)
    path = folder / f"{record.name}.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


if __name__ == "__main__":
    sys.exit(main())
