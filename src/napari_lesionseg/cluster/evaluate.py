"""Measure a model on many images with masks: chunks of pairs, wherever they run."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from napari_lesionseg.cluster.engine import Engine, cut
from napari_lesionseg.cluster.segment import CHUNK
from napari_lesionseg.cluster.segment_chunk import load_cached
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.evaluation.evaluate import FailedImage, Outcome, Tally, iter_evaluate
from napari_lesionseg.types import Pair


@dataclass(frozen=True, slots=True)
class EvaluateJob:
    """What holds for all pairs of a run; `settings` is a `PostprocessConfig` as JSON."""

    settings: str
    device: str
    tallies: tuple[Tally, ...] = ()


@dataclass(frozen=True, slots=True)
class PairTask:
    """A pair to measure: where its files are, or their bytes where workers do not see them."""

    pair: Pair
    payload: tuple[bytes, bytes] | None = None


def evaluate_pairs(engine: Engine, job: EvaluateJob, pairs: Sequence[Pair]) -> Iterator[Outcome]:
    """Yield what was measured of each pair, in order, and add it to the tallies of the job."""
    shared = not pairs or (engine.sees(pairs[0].image) and engine.sees(pairs[0].mask))
    tasks = [PairTask(pair) for pair in pairs]
    size = engine.chunk_size(len(pairs), CHUNK if shared else CHUNK // 4)
    chunks = (chunk if shared else [_with_payload(task) for task in chunk] for chunk in cut(tasks, size))
    for results in engine.map(functools.partial(evaluate_chunk, job), chunks):
        for outcome, tallies in results:
            for total, part in zip(job.tallies, tallies, strict=True):
                total.merge(part)
            yield outcome


def evaluate_chunk(
    job: EvaluateJob, model_file: Path, tasks: Sequence[PairTask]
) -> list[tuple[Outcome, tuple[Tally, ...]]]:
    """Measure the pairs of a chunk; each has tallies of its own, so that sums do not depend on the chunks."""
    model = load_cached(model_file, job.device)
    config = PostprocessConfig.model_validate_json(job.settings)
    results: list[tuple[Outcome, tuple[Tally, ...]]] = []
    for task in tasks:
        tallies = tuple(tally.empty() for tally in job.tallies)
        with tempfile.TemporaryDirectory(prefix="lesionseg-") as folder:
            pair = task.pair if task.payload is None else _unpack(task.pair, task.payload, Path(folder))
            (outcome,) = iter_evaluate(model, [pair], postprocess=config, tallies=tallies)
        results.append((_with_names(outcome, task.pair, pair), tallies))
    return results


def _with_payload(task: PairTask) -> PairTask:
    try:
        return replace(task, payload=(task.pair.image.read_bytes(), task.pair.mask.read_bytes()))
    except OSError:  # the worker's message names the file
        return replace(task, payload=(b"", b""))


def _unpack(pair: Pair, payload: tuple[bytes, bytes], folder: Path) -> Pair:
    image, mask = folder / pair.image.name, folder / f"mask{pair.mask.suffix}"
    image.write_bytes(payload[0])
    mask.write_bytes(payload[1])
    return Pair(pair.stem, image, mask)


def _with_names(outcome: Outcome, pair: Pair, copied: Pair) -> Outcome:
    """Put the names of the user's files in place of those of the copies."""
    if not isinstance(outcome, FailedImage) or pair == copied:
        return outcome
    reason = outcome.reason.replace(str(copied.image), str(pair.image))
    return FailedImage(outcome.stem, reason.replace(str(copied.mask), str(pair.mask)))
