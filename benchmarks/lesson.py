"""Train SegNet and U-Net from scratch on 200 dermoscopy images, and compare them with the default network.

Prints a table of ``docs/development/benchmarks.md``::

    python benchmarks/lesson.py [--ph2 FOLDER] [--data DIR] [--runs N] [--resume DIR] [--json F] [--quick]

Takes about an hour on one core. With ``--resume DIR`` the state is saved after every epoch; the same command
continues an interrupted run with exactly the same result and skips what is finished.

Settings: images resized to 256 x 256, nine tenths for training and one tenth held out, binary cross-entropy,
Adam with a learning rate of 1e-3, batches of 32, 30 epochs, no augmentation, weights of the last epoch. Both
networks go from 16 to 128 channels, a quarter of the published sizes. The images are those of ``--ph2``, or
200 from ``isic2017-train-256``.

Common mistakes that are avoided here:

- applying sigmoid twice: the loss takes logits, and no network ends with a sigmoid;
- computing U-Net's skip features twice: the encoder's features are reused;
- pairing images and masks by their order in the folder: they are paired by name;
- choosing an epoch or a threshold on the held-out images: nothing is chosen on them.

The default network is trained on the same images for as many epochs, with a pretrained encoder, augmentation
and the package's own settings, except for a shorter moving average of the weights, because there are few
steps. The shipped model is measured on PH2 only, because it was trained on the other images. The Jaccard
index on validation images and on the PH2 sample is printed as well.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

import napari_lesionseg as ls
from images import add_data_argument, find_set
from napari_lesionseg.config import TrainConfig
from napari_lesionseg.errors import ModelNotFoundError
from napari_lesionseg.evaluation.metrics import score_masks
from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.io.atomic import write_atomically
from napari_lesionseg.io.images import read_image, read_mask
from napari_lesionseg.io.pairing import find_pairs
from napari_lesionseg.models.base import SegmentationNetwork
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.registry import build_network
from napari_lesionseg.models.segnet import SegNet
from napari_lesionseg.training.augmentation import plain_sample
from napari_lesionseg.training.dataset import CachedPair
from napari_lesionseg.training.trainer import Trainer
from napari_lesionseg.types import Pair

IMAGES = 200
TEST_SHARE = 0.1
RATE = 1e-3
ELSEWHERE = ("isic2017-val-256", "isic-crop512-val", "ph2-sample")
RESULTS = "results.json"
SETTINGS = ("ph2", "images", "size", "epochs", "batch", "precision", "quick")
NETWORKS = {
    "segnet": {"width": 16, "depth": 5, "widest": 128},
    "unet": {"width": 16, "depth": 4, "widest": 128},
}


@dataclass(frozen=True, slots=True)
class Result:
    """What one network reached in one run."""

    network: str
    run: int
    parameters: int
    seconds: float
    dice: float
    jaccard: float
    elsewhere: dict[str, float]
    """Mean Jaccard on images that no network was trained on, by folder."""


def read_pairs(arguments: argparse.Namespace) -> list[CachedPair]:
    """Read the images, resized to squares; those of ISIC are a fixed random sample."""
    if arguments.ph2:
        pairs = list(find_pairs([arguments.ph2]).pairs)
    else:
        folder = arguments.data / "isic2017-train-256"
        pairs = list(find_pairs([folder / "images"], [folder / "masks"]).pairs)
    pairs.sort(key=lambda pair: pair.stem)
    chosen = np.random.default_rng(0).permutation(len(pairs))[: arguments.images]
    squashed = []
    for place in track(sorted(chosen), "Reading images", console=Console(stderr=True)):
        image = read_image(pairs[place].image)
        mask = read_mask(pairs[place].mask, image.shape[:2])
        sample = plain_sample(image, (mask > 0).astype(np.uint8), arguments.size)
        squashed.append(
            CachedPair(pairs[place].stem, sample.image.permute(1, 2, 0).numpy(), sample.labels.numpy())
        )
    return squashed


def split(pairs: Sequence[CachedPair], run: int) -> tuple[list[CachedPair], list[CachedPair]]:
    """Split images at random into training and held-out images."""
    order = np.random.default_rng((1, run)).permutation(len(pairs))
    held_out = max(1, round(TEST_SHARE * len(pairs)))
    return [pairs[place] for place in order[held_out:]], [pairs[place] for place in order[:held_out]]


def card_of(arch: str, settings: dict[str, int], size: int) -> ModelCard:
    """Describe a network that sees RGB from 0 to 1."""
    return ModelCard(
        name=arch, arch=arch, arch_settings=settings, working_size=size, mean=(0, 0, 0), std=(1, 1, 1)
    )


def batches(
    pairs: Sequence[CachedPair], size: int, rng: np.random.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images (B, 3, H, W) from 0 to 1, and masks (B, 1, H, W), in a new order."""
    order = rng.permutation(len(pairs))
    for first in range(0, len(order), size):
        chosen = [pairs[place] for place in order[first : first + size]]
        images = torch.from_numpy(np.stack([pair.image for pair in chosen]))
        masks = torch.from_numpy(np.stack([pair.labels for pair in chosen]))
        yield images.permute(0, 3, 1, 2).float() / 255, masks[:, None].float()


def learn(
    network: SegmentationNetwork, pairs: Sequence[CachedPair], arguments: argparse.Namespace, run: int
) -> float:
    """Train from the saved state, if any; return the CPU seconds in total."""
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    name = type(network).__name__
    state = arguments.resume / f"{name.lower()}-{run}.safetensors" if arguments.resume else None
    # SegNet does not learn in bfloat16, perhaps because rounding creates ties between the maxima.
    quick = arguments.precision == "bfloat16" and not isinstance(network, SegNet)
    first, seconds = restore(state, network, optimizer) if state and state.is_file() else (0, 0.0)
    for done in track(range(first, arguments.epochs), f"{name}, run {run + 1}", console=Console(stderr=True)):
        started = time.process_time()
        source = batches(pairs, arguments.batch, np.random.default_rng((2, run, done)))
        with torch.autocast("cpu", torch.bfloat16, enabled=quick):
            loss = learn_once(network, optimizer, source)
        seconds += time.process_time() - started
        if state:
            keep(state, network, optimizer, {"done": done + 1, "seconds": seconds, "loss": loss})
    return seconds


def learn_once(
    network: SegmentationNetwork, optimizer: torch.optim.Adam, source: Iterator[tuple[Tensor, Tensor]]
) -> float:
    """Train for one epoch; return the mean loss."""
    network.train()
    losses = []
    for images, masks in source:
        images = images.contiguous(memory_format=torch.channels_last)
        loss = functional.binary_cross_entropy_with_logits(network(images).float(), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses))


def keep(
    path: Path,
    network: SegmentationNetwork,
    optimizer: torch.optim.Adam,
    position: dict[str, float],
) -> None:
    """Write weights and optimizer after a pass."""
    tensors = {f"network.{name}": value.contiguous() for name, value in network.state_dict().items()}
    for place, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{place}.{name}": value.contiguous() for name, value in moments.items()}
    write_atomically(path, save(tensors, metadata={name: str(value) for name, value in position.items()}))


def restore(path: Path, network: SegmentationNetwork, optimizer: torch.optim.Adam) -> tuple[int, float]:
    """Read what `keep` wrote; return the finished epochs and their seconds."""
    moments: dict[int, dict[str, Tensor]] = {}
    weights = {}
    with safe_open(path, framework="pt") as file:
        position = file.metadata()
        for key in file.keys():  # noqa: SIM118  safe_open is no mapping
            kind, name = key.split(".", 1)
            if kind == "network":
                weights[name] = file.get_tensor(key)
            else:
                place, moment = name.split(".")
                moments.setdefault(int(place), {})[moment] = file.get_tensor(key)
    network.load_state_dict(weights)
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
    return int(position["done"]), float(position["seconds"])


def measure(model: Model, pairs: Sequence[CachedPair]) -> tuple[float, float]:
    """Average Dice and Jaccard over images, at a threshold of 0.5 and without cleaning up."""
    scores = [score_masks(model.predict(pair.image) >= 0.5, pair.labels) for pair in pairs]
    return float(np.mean([score.dice for score in scores])), float(
        np.mean([score.jaccard for score in scores])
    )


def measure_elsewhere(model: Model, data: Path) -> dict[str, float]:
    """Average the Jaccard on other datasets, whole images, in the same way."""
    found = {}
    for name in ELSEWHERE:
        pairs = track(find_set(data / name), f"{model.card.name}: {name}", console=Console(stderr=True))
        found[name] = float(np.mean([overlap(model, pair) for pair in pairs]))
    return found


def overlap(model: Model, pair: Pair) -> float:
    """Measure the Jaccard of one image on disk."""
    outline = model.predict(read_image(pair.image)) >= 0.5
    return score_masks(outline, read_mask(pair.mask, outline.shape)).jaccard


def run_lesson(arch: str, pairs: Sequence[CachedPair], arguments: argparse.Namespace, run: int) -> Result:
    """Train one of the lesson's networks and measure it."""
    torch.manual_seed(run)
    train, test = split(pairs, run)
    card = card_of(arch, NETWORKS[arch], arguments.size)
    network = build_network(arch, 1, **card.arch_settings).to(memory_format=torch.channels_last)
    seconds = learn(network, train, arguments, run)
    model = Model(network, card, "cpu", precision="float32")
    return make_result(arch, run, model, seconds, test, arguments)


def make_result(
    name: str,
    run: int,
    model: Model,
    seconds: float,
    test: Sequence[CachedPair],
    arguments: argparse.Namespace,
) -> Result:
    """Measure a finished network."""
    elsewhere = {} if arguments.quick else measure_elsewhere(model, arguments.data)
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    return Result(name, run, parameters, seconds, *measure(model, test), elsewhere)


def run_default(pairs: Sequence[CachedPair], arguments: argparse.Namespace, run: int) -> Result:
    """Train the default network as the package does and measure it."""
    torch.manual_seed(run)
    train, test = split(pairs, run)
    recipe = json.loads((resources.files("napari_lesionseg") / "recipes" / "default.json").read_text())
    changed = {"epochs": arguments.epochs, "sizes": [[0, arguments.size]], "seed": run, "average": 0.9}
    config = TrainConfig.model_validate(recipe | changed | {"pretrained": not arguments.quick})
    card = ModelCard(name="lite-unet", working_size=arguments.size)
    network = build_network(card.arch, 1)
    if config.pretrained:
        network.load_pretrained()
    state = arguments.resume / f"liteunet-{run}.safetensors" if arguments.resume else None
    trainer = Trainer(network, card, train, [], config, device="cpu", state_path=state)
    if state and state.is_file():
        trainer.load_state(state)
    clock = state.with_suffix(".seconds") if state else None
    earlier = float(clock.read_text()) if clock and clock.is_file() else 0.0
    seconds, started = earlier, time.process_time()
    for _ in track(trainer.run(), f"LiteUNet, run {run + 1}", arguments.epochs, console=Console(stderr=True)):
        seconds = earlier + time.process_time() - started
        if clock:
            clock.write_text(str(seconds))
    model = Model(trainer.averaged_network, card, "cpu")
    return make_result("lite-unet", run, model, seconds, test, arguments)


def run_shipped(pairs: Sequence[CachedPair], arguments: argparse.Namespace, run: int) -> Result | None:
    """Measure the shipped model as it is; None where there is none."""
    try:
        model = ls.load_model(device="cpu")
    except ModelNotFoundError:
        return None
    return make_result(f"shipped: {model.card.name}", run, model, 0, split(pairs, run)[1], arguments)


def finished(arguments: argparse.Namespace) -> list[Result]:
    """Read the results of earlier sittings; they must be those of the same settings."""
    settings = {name: str(vars(arguments)[name]) for name in SETTINGS}
    if arguments.resume is None:
        return []
    arguments.resume.mkdir(parents=True, exist_ok=True)
    path = arguments.resume / RESULTS
    if not path.is_file():
        write_results(path, [], settings)
    found = json.loads(path.read_text())
    if found["settings"] != settings:
        raise SystemExit(f"{arguments.resume} belongs to other settings: {found['settings']}.")
    return [Result(**result) for result in found["results"]]


def write_results(path: Path, results: Sequence[Result], settings: dict[str, str]) -> None:
    """Write every result with the settings it was reached with."""
    content = {"settings": settings, "results": [asdict(result) for result in results]}
    write_atomically(path, json.dumps(content, indent=1).encode())


def results_of(pairs: Sequence[CachedPair], arguments: argparse.Namespace) -> Iterator[Result]:
    """Yield every result, saved ones first."""
    results = finished(arguments)
    yield from results
    settings = {name: str(vars(arguments)[name]) for name in SETTINGS}
    done = {(result.network, result.run) for result in results}
    for run in range(arguments.runs):
        jobs: dict[str, Callable[[], Result]] = {
            arch: partial(run_lesson, arch, pairs, arguments, run) for arch in NETWORKS
        }
        jobs["lite-unet"] = partial(run_default, pairs, arguments, run)
        for name, job in jobs.items():
            if (name, run) not in done:
                results.append(job())
                if arguments.resume:
                    write_results(arguments.resume / RESULTS, results, settings)
                yield results[-1]
        shipped = run_shipped(pairs, arguments, run) if arguments.ph2 else None
        if shipped:
            yield shipped


def table(results: Sequence[Result]) -> Table:
    """Lay out the means over runs, and the spread between them."""
    sets = list(dict.fromkeys(name for result in results for name in result.elsewhere))
    heads = ("network", "parameters", "runs", "Dice", "Jaccard", *sets, "CPU s")
    made = Table(*heads, title="The lesson repeated")
    for network in dict.fromkeys(result.network for result in results):
        own = [result for result in results if result.network == network]
        figures = [
            np.array([getattr(result, name) for result in own]) for name in ("dice", "jaccard", "seconds")
        ]
        shown = [f"{values.mean():.3f} ± {values.std():.3f}" for values in figures[:2]]
        shown += [f"{np.mean([result.elsewhere[name] for result in own]):.3f}" for name in sets]
        parameters = f"{own[0].parameters / 1e6:.2f} M"
        made.add_row(network, parameters, str(len(own)), *shown, f"{figures[2].mean():.0f}")
    return made


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ph2", type=Path, help="folder of PH2")
    add_data_argument(parser)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels")
    parser.add_argument("--epochs", type=int, default=30, help="number of epochs")
    parser.add_argument("--batch", type=int, default=32, help="batch size")
    parser.add_argument("--runs", type=int, default=1, help="number of runs with different splits")
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of U-Net's convolutions in training; bfloat16 is faster on some processors",
    )
    parser.add_argument("--resume", type=Path, help="folder to save the state in and continue from")
    parser.add_argument("--json", type=Path, help="write every result to this file")
    parser.add_argument("--quick", action="store_true", help="a run of one minute, for testing")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.images, arguments.size, arguments.epochs, arguments.batch = 20, 64, 2, 6
    return arguments


def main() -> None:
    """Train and measure everything, and print the table."""
    arguments = parse_arguments()
    pairs = read_pairs(arguments)
    results = list(results_of(pairs, arguments))
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table(results))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=1))


if __name__ == "__main__":
    main()
