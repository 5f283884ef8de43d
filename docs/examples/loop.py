"""The loop in Python: open, segment, correct, approve, fine-tune, export."""

# %% [markdown]
# # The loop in Python
#
# Everything that the window does can be scripted: open a study, segment, correct, approve, fine-tune,
# export. This page is made from [`docs/examples/loop.py`](../examples/loop.py), whose cells also run in
# Jupyter, VS Code and Spyder.

# %%
import tempfile
from pathlib import Path

import numpy as np

import napari_lesionseg as ls
from napari_lesionseg.datasets.export import export_dataset
from napari_lesionseg.datasets.synthetic import synthetic_sample
from napari_lesionseg.evaluation.metrics import score_masks
from napari_lesionseg.study.datasets import study_records
from napari_lesionseg.study.events import MaskOrigin
from napari_lesionseg.study.study import Study
from napari_lesionseg.training.dataset import CachedPair

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Open
#
# A study holds the images, every mask that was ever saved, and who decided what. Here the images are
# synthetic, so that the true outlines are known; `images_folder="images/"` takes files instead.

# %%
samples = {f"nevus-{seed}": synthetic_sample(seed) for seed in range(4, 8)}
study = Study.create(
    folder / "study", annotator="am", images={name: sample.image for name, sample in samples.items()}
)

# %% [markdown]
# ## Segment
#
# `encode` runs the large part of the network once for each image. Each prediction after that costs
# milliseconds.

# %%
model = ls.load_model()
image_id, state = next(iter(study.state.images.items()))
truth = samples[state.name].mask
image = study.read_image(image_id)
encoded = model.encode(image)
probability = encoded.predict()
mask = (probability > model.card.threshold).astype(np.uint8)
before = score_masks(mask, truth).jaccard

# %% [markdown]
# ## Correct
#
# A box or a lasso around the lesion, even a rough one, or clicks on what is missing or wrong give a new
# outline.

# %%
rows, columns = np.nonzero(truth)
box = ls.Box(int(rows.min()) - 8, int(columns.min()) - 8, int(rows.max()) + 8, int(columns.max()) + 8)
click = ls.Click(int(rows.mean()), int(columns.mean()), positive=True)
corrected = ls.segment(image, model=model, box=box, clicks=[click])
after = score_masks(corrected, truth).jaccard
print(f"Jaccard {before:.2f}, with a box and a click {after:.2f}")

# %% [markdown]
# ## Approve
#
# Each approval is a new immutable file and a line in the event log, with the model that it started from.

# %%
study.approve(image_id, corrected, MaskOrigin(model=model.sha256, threshold=model.card.threshold))
for other, other_state in list(study.state.images.items())[1:]:
    study.approve(other, samples[other_state.name].mask)
assert all(found.status.done for found in study.state.images.values())

# %% [markdown]
# ## Fine-tune
#
# The new model is compared with the old one on images that were held out. It is offered only if it is
# better. Four images and a few seconds are enough to see how it works, not to get a better model.

# %%
pairs = [
    CachedPair(found.name, study.read_image(found_id), study.read_mask(found_id))
    for found_id, found in study.state.images.items()
]
tuning = ls.fine_tune(model, pairs, ls.FineTuneConfig(max_seconds=5, size=96))
for epoch in tuning:
    print(f"loss {epoch.loss:.3f}")
candidate = tuning.candidate()
print(candidate.reason)
candidate.save(folder / "our-clinic.safetensors")

# %% [markdown]
# ## Export
#
# The dataset has splits that keep patients together, a datasheet, Croissant metadata and checksums.

# %%
*steps, report = export_dataset(study_records(study), folder / "nevi-2026", "isic")
study.close()
print(f"{report.written} images in {report.folder.name}: {dict(report.parts)}")
