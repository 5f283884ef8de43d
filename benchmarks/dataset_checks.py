"""Let other tools check one exported dataset each; prints one line of JSON.

This script does not import the package, so it can run in the environment of the tool. `dataset_tools.py`
writes the datasets and runs all checks:

    python -P benchmarks/dataset_checks.py isic TRUTH PREDICTIONS    isic-challenge-scoring
    python -P benchmarks/dataset_checks.py coco FOLDER PLAIN         pycocotools
    python -P benchmarks/dataset_checks.py imagefolder FOLDER PLAIN  datasets
    python -P benchmarks/dataset_checks.py croissant FOLDER          mlcroissant
    python -P benchmarks/dataset_checks.py nnunet FOLDER             nnunetv2
    python -P benchmarks/dataset_checks.py dicom FOLDER PLAIN        highdicom

PLAIN contains the same images as a plain folder; every mask is compared with its ``masks`` and ``instances``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def main() -> None:
    """Run one check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tool", choices=sorted(CHECKS))
    parser.add_argument("folders", nargs="+", type=Path)
    arguments = parser.parse_args()
    print(json.dumps({"tool": arguments.tool, **CHECKS[arguments.tool](*arguments.folders)}))


def check_isic(truth: Path, predictions: Path) -> dict[str, Any]:
    """Score a folder of masks against another."""
    from isic_challenge_scoring.segmentation import SegmentationScore

    score = SegmentationScore.from_dir(truth, predictions).macro_average
    return {key: float(value) for key, value in score.items()}


def check_coco(folder: Path, plain: Path) -> dict[str, Any]:
    """Load every part, compare every mask and every object, and score the set against itself."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images = objects = differing = 0
    precision = []
    ids = set()
    for path in sorted((folder / "annotations").glob("instances_*.json")):
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(path))
            found = [{**annotation, "score": 1.0} for annotation in truth.dataset["annotations"]]
            evaluation = COCOeval(truth, truth.loadRes(found), "segm")
            for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
                step()
        precision.append(float(evaluation.stats[0]))
        for image in truth.dataset["images"]:
            annotations = truth.loadAnns(truth.getAnnIds(imgIds=image["id"]))
            name = Path(image["file_name"]).stem
            drawn = np.zeros((image["height"], image["width"]), np.uint16)
            for number, annotation in enumerate(annotations, 1):
                drawn[truth.annToMask(annotation) > 0] = number
            images += 1
            objects += len(annotations)
            ids |= {annotation["id"] for annotation in annotations}
            same = np.array_equal(drawn > 0, _mask(plain / f"masks/{name}.png"))
            differing += not (same and np.array_equal(drawn, _objects(plain / f"instances/{name}.png")))
    found = {"images": images, "objects": objects, "differing": differing, "least id": min(ids)}
    return found | {"average precision": precision}


def check_imagefolder(folder: Path, plain: Path) -> dict[str, Any]:
    """Load the set and compare every mask."""
    from datasets import load_dataset

    loaded = load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(folder.parent / "hf-cache"))
    differing = rows = 0
    for part in loaded.values():
        for row in part:
            rows += 1
            same_size = row["image"].size == row["mask"].size
            same = np.array_equal(np.asarray(row["mask"]) > 0, _mask(plain / f"masks/{row['name']}.png"))
            differing += not (same and same_size)
    parts = {name: len(part) for name, part in loaded.items()}
    columns = next(iter(loaded.values())).column_names
    return {"parts": parts, "rows": rows, "differing": differing, "columns": columns}


def check_croissant(folder: Path) -> dict[str, Any]:
    """Validate the metadata and read every record through it."""
    import mlcroissant

    dataset = mlcroissant.Dataset(jsonld=str(folder / "croissant.json"))
    issues = dataset.metadata.ctx.issues
    records = list(dataset.records("outlines"))
    text = {
        key.split("/")[-1]: value.decode() for key, value in records[0].items() if isinstance(value, bytes)
    }
    there = all((folder / record["outlines/image"].decode()).is_file() for record in records)
    return {
        "records": len(records),
        "errors": sorted(issues.errors),
        "warnings": sorted(issues.warnings),
        "first": text,
        "images are there": there,
    }


def check_nnunet(folder: Path) -> dict[str, Any]:
    """Run the integrity check of the raw dataset, and read its split."""
    raw = folder.resolve()
    for name in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{name}"] = str(raw)
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    (dataset,) = raw.glob("Dataset*")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        verify_dataset_integrity(str(dataset), 1)
    splits = json.loads((dataset / "splits_final.json").read_text())
    known = {path.stem for path in (dataset / "labelsTr").iterdir()}
    named = all({*split["train"], *split["val"]} == known for split in splits)
    return {
        "said": " ".join(said.getvalue().replace("#", "").split()),
        "folds": len(splits),
        "names fit": named,
    }


def check_dicom(folder: Path, plain: Path) -> dict[str, Any]:
    """Read the segmentations back, compare every mask, and look for what names a person."""
    import highdicom
    import pydicom

    differing = segments = leaked = 0
    paths = sorted(folder.rglob("*_segmentation.dcm"))
    for path in paths:
        found = highdicom.seg.segread(path)
        photograph = pydicom.dcmread(path.with_name(path.name.replace("_segmentation", "")))
        frames = found.get_pixels_by_source_instance([photograph.SOPInstanceUID])
        segments += found.number_of_segments
        mask = _mask(plain / f"masks/{path.stem.removesuffix('_segmentation')}.png")
        differing += not np.array_equal(frames[0].any(axis=-1), mask)
        leaked += sum("SECRET" in str(element.value) for element in _elements(photograph, found))
    return {"images": len(paths), "segments": segments, "differing": differing, "leaked": leaked}


def _elements(*headers: Any) -> Iterator[Any]:
    for header in headers:
        yield from (element for element in header.iterall() if element.keyword != "PixelData")


def _objects(path: Path) -> NDArray[np.uint16]:
    from PIL import Image

    return np.asarray(Image.open(path)).astype(np.uint16)


def _mask(path: Path) -> NDArray[np.bool_]:
    from PIL import Image

    return np.asarray(Image.open(path)) > 0


CHECKS = {
    "isic": check_isic,
    "coco": check_coco,
    "imagefolder": check_imagefolder,
    "croissant": check_croissant,
    "nnunet": check_nnunet,
    "dicom": check_dicom,
}

if __name__ == "__main__":
    main()
