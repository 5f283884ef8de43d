"""Measure a model on many images with masks: chunks of pairs, wherever they run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from napari_lesionseg.cluster.chunks import describe_error, load_cached, run_on_worker, unpacked
from napari_lesionseg.cluster.engine import Engine, cut, describe_plan, find_unseen
from napari_lesionseg.cluster.segment import CHUNK
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import LesionSegError
from napari_lesionseg.evaluation.evaluate import FailedImage, Outcome, Tallied, Tally, evaluation_work
from napari_lesionseg.inference.batches import ImageWork, predict_images
from napari_lesionseg.types import ByteImage, LabelImage, Pair, Probability


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


def evaluate_pairs(
    engine: Engine,
    job: EvaluateJob,
    pairs: Sequence[Pair],
    announce: Callable[[str], None] = lambda plan: None,
) -> Iterator[Outcome]:
    """Yield what was measured of each pair, in order, and add it to the tallies of the job.

    `announce` is told once what runs where.
    """
    unseen = find_unseen(engine, (path for pair in pairs[:1] for path in (pair.image, pair.mask)))
    announce(describe_plan(engine, unseen))
    shared = unseen is None
    tasks = [PairTask(pair) for pair in pairs]
    size = engine.chunk_size(len(pairs), CHUNK if shared else CHUNK // 4)
    chunks = (chunk if shared else [_with_payload(task) for task in chunk] for chunk in cut(tasks, size))
    work = evaluate_chunk if engine.in_process else evaluate_chunk_on_worker
    for results in engine.map(functools.partial(work, job), chunks):
        for outcome, tallies in results:
            for total, part in zip(job.tallies, tallies, strict=True):
                total.merge(part)
            yield outcome


def evaluate_chunk(job: EvaluateJob, model_file: Path, tasks: Sequence[PairTask]) -> Iterator[Tallied]:
    """Measure the pairs of a chunk, and yield what was found as soon as it is known."""
    model = load_cached(model_file, job.device)
    config = PostprocessConfig.model_validate_json(job.settings)
    own = evaluation_work(model.card, config, None, job.tallies)

    def read(task: PairTask) -> tuple[ByteImage, LabelImage]:
        if task.payload is None:
            return own.read(task.pair)
        files = dict(zip((task.pair.image, task.pair.mask), task.payload, strict=True))
        with unpacked(files) as (image, mask):
            return own.read(Pair(task.pair.stem, image, mask))

    def finish(task: PairTask, truth: LabelImage, probability: Probability, message: str) -> Tallied:
        return own.finish(task.pair, truth, probability, message)

    return predict_images(model, tasks, ImageWork(read, finish, functools.partial(_failed, job)))


def evaluate_chunk_on_worker(job: EvaluateJob, model_file: Path, tasks: Sequence[PairTask]) -> list[Tallied]:
    """Measure a chunk; a worker that lost its model file fails its own images, and not the run."""
    work = functools.partial(evaluate_chunk, job, model_file)
    return run_on_worker(model_file, job.device, tasks, work, functools.partial(_failed, job))


def _failed(job: EvaluateJob, task: PairTask, error: LesionSegError | OSError) -> Tallied:
    failed = FailedImage(task.pair.stem, describe_error(error, task.pair.image))
    return failed, tuple(tally.empty() for tally in job.tallies)


def _with_payload(task: PairTask) -> PairTask:
    try:
        return replace(task, payload=(task.pair.image.read_bytes(), task.pair.mask.read_bytes()))
    except OSError:  # the worker's message names the file
        return replace(task, payload=(b"", b""))
