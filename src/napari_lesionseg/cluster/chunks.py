"""What all chunks of images share: the model of the process, copies of files, and errors in one sentence."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from napari_lesionseg.errors import ClusterError, ImageError, LesionSegError, MaskError
from napari_lesionseg.inference.predictor import Model, load_model

Task = TypeVar("Task")
Result = TypeVar("Result")


@functools.lru_cache(maxsize=2)
def load_cached(path: Path, device: str) -> Model:
    """Load a model once per process."""
    return load_model(path, device)


def run_on_worker(
    model_file: Path,
    device: str,
    tasks: Sequence[Task],
    work: Callable[[Sequence[Task]], Iterable[Result]],
    failed: Callable[[Task, LesionSegError | OSError], Result],
) -> list[Result]:
    """Do the work of a chunk; a worker that lost its model file fails its own images, and not the run."""
    try:
        load_cached(model_file, device)
    except LesionSegError as error:
        why = error
        if not model_file.is_file():
            why = ClusterError(f"A worker has lost the model {model_file}; start again to send it once more.")
        return [failed(task, why) for task in tasks]
    return list(work(tasks))


@contextmanager
def unpacked(files: Mapping[Path, bytes]) -> Iterator[list[Path]]:
    """Write the bytes of files that are not seen here for a while; errors name the files themselves."""
    with tempfile.TemporaryDirectory(prefix="lesionseg-") as folder:
        copies = []
        try:
            for number, (path, payload) in enumerate(files.items()):
                copies.append(Path(folder) / str(number) / path.name)
                try:
                    copies[-1].parent.mkdir()
                    copies[-1].write_bytes(payload)
                except OSError as error:
                    raise ImageError(f"{path}: a worker has no room for it: {error.strerror}.") from error
            yield copies
        except (ImageError, MaskError) as error:
            message = str(error)
            for path, copy in zip(files, copies, strict=False):
                message = message.replace(str(copy), str(path))
            raise type(error)(message) from error


def describe_error(error: LesionSegError | OSError, path: Path) -> str:
    """Describe what is wrong with an image, such as a full disk, in one sentence."""
    return f"{error.filename or path}: {error.strerror}." if isinstance(error, OSError) else str(error)
