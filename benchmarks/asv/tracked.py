"""What asv measures at every commit: the steps that a user waits for, on synthetic images.

asv run main^!                    measure the last commit
asv continuous main my-branch     compare two
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from napari_lesionseg import Click, load_model
from napari_lesionseg.datasets.synthetic import sample_set, synthetic_sample
from napari_lesionseg.io.images import read_image, write_image
from napari_lesionseg.study.study import Study

IMAGES = 24


class Outline:
    """The outline of an image, automatic and after a click."""

    def setup(self) -> None:
        """Load the shipped model."""
        self.model = load_model(device="cpu")
        self.image = synthetic_sample(1).image  # (H, W, 3)
        self.encoded = self.model.encode(self.image)

    def time_automatic(self) -> None:
        """Read nothing, predict one image."""
        self.model.encode(self.image).predict_logits()

    def time_click(self) -> None:
        """Predict again after a click, on the features that are there."""
        self.encoded.predict([Click(100.0, 100.0, True)])

    def peakmem_automatic(self) -> None:
        """Measure the memory of one prediction."""
        self.model.encode(self.image).predict_logits()


class Files:
    """A folder of images, and the study of it."""

    def setup(self) -> None:
        """Write images, and make a study of them."""
        self.temporary = tempfile.TemporaryDirectory()
        self.images = Path(self.temporary.name) / "images"
        self.images.mkdir()
        for sample in sample_set(IMAGES):
            write_image(self.images / f"{sample.name}.png", sample.image)
        self.study = Path(self.temporary.name) / "study"
        Study.create(self.study, "am", paths=self.images).close()

    def teardown(self) -> None:
        """Remove the folder."""
        self.temporary.cleanup()

    def time_read_image(self) -> None:
        """Read an image."""
        read_image(next(self.images.iterdir()))

    def time_open_study(self) -> None:
        """Open a study, and close it."""
        Study.open(self.study, "am").close()


def timeraw_import() -> str:
    """Import the package, as `lesionseg --help` does."""
    return "import napari_lesionseg.cli"


def timeraw_model() -> str:
    """Import PyTorch and load the model, as the first outline needs it."""
    return "import napari_lesionseg; napari_lesionseg.load_model(device='cpu')"
