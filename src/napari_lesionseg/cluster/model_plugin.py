"""The file of a model on the workers of a dask cluster; apart, because it needs dask to be imported."""

from __future__ import annotations

import uuid
from pathlib import Path

from distributed import Worker, WorkerPlugin

from napari_lesionseg.errors import NoRoomError
from napari_lesionseg.io.atomic import write_atomically


class ModelPlugin(WorkerPlugin):
    """Writes a model's file into the folder of every worker.

    Unlike dask's `UploadFile`, of which a scheduler keeps one for all clients, and which truncates a file
    that another client's work may be reading.
    """

    def __init__(self, file_name: str, data: bytes) -> None:
        self.name = f"lesionseg {uuid.uuid4().hex}"
        self._file_name, self._data = file_name, data

    def setup(self, worker: Worker) -> None:
        """Write the file, unless the worker has it."""
        path = Path(worker.local_directory) / self._file_name
        if path.is_file():  # whole, and named by its content
            return
        try:
            write_atomically(path, self._data)
        except OSError as error:
            raise NoRoomError(
                f"The model cannot be copied to the worker {worker.address}: {error.strerror}."
            ) from error
