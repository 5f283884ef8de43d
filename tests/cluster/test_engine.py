"""Clusters with faults: schedulers that go away, workers without the package or room, or that come late."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distributed import LocalCluster
from PIL import Image

from napari_lesionseg import __version__
from napari_lesionseg.cluster import clients, connection, dask_engine
from napari_lesionseg.cluster.dask_engine import DaskEngine
from napari_lesionseg.cluster.engine import ClusterOptions, open_engine
from napari_lesionseg.cluster.model_plugin import ModelPlugin
from napari_lesionseg.errors import CancelledError, ClusterError, ModelNotFoundError

pytestmark = pytest.mark.timeout(600)  # every process loads torch first
READY = "Registered to"


class Processes:
    """A scheduler and workers as a user starts them."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self._folder, self.started = folder, list[subprocess.Popen[bytes]]()
        port = self.address.rpartition(":")[2]
        self.scheduler = self.start("scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")

    def start(self, *words: str, **environment: str) -> subprocess.Popen[bytes]:
        log = self._folder / f"{len(self.started)}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *words], stderr=stream, env=os.environ | environment
            )
        self.started.append(process)
        return process

    def add_worker(self, *words: str, **environment: str) -> None:
        """Start a worker, and wait until it works."""
        words = ("worker", self.address, "--no-nanny", "--nthreads", "1", "--no-dashboard", *words)
        process, log = self.start(*words, **environment), self._folder / f"{len(self.started) - 1}.log"
        deadline = time.monotonic() + 200
        while READY not in log.read_text() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert READY in log.read_text()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    (tmp_path / "cluster").mkdir()
    made = Processes(tmp_path / "cluster")
    yield made
    for process in made.started:
        process.kill()
        process.wait()


def segment(out: Path, images: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "napari_lesionseg", "segment", str(images), "--out", str(out)]
    return subprocess.Popen(
        [*command, "--device", "cpu", *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder, rng = tmp_path / "images", np.random.default_rng(0)
    folder.mkdir()
    for number in range(60):
        Image.fromarray(rng.integers(0, 256, (240, 320, 3), np.uint8)).save(folder / f"{number:02}.png")
    return folder


def test_a_scheduler_that_is_killed_is_one_sentence_and_exit_code_1(
    processes: Processes, images: Path, tmp_path: Path
) -> None:
    processes.add_worker("--local-directory", str(tmp_path))
    process = segment(tmp_path / "o", images, "--scheduler", processes.address)
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("o/*.png")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    processes.scheduler.kill()
    out, errors = process.communicate(timeout=200)
    assert process.returncode == 1
    assert not out
    assert errors.splitlines()[-1].startswith("lesionseg: The connection to the dask scheduler is lost.")
    assert all(line.startswith(("lesionseg: ", "Running on ")) for line in errors.splitlines())


def test_a_worker_without_the_package_is_one_sentence(processes: Processes, tmp_path: Path) -> None:
    (tmp_path / "napari_lesionseg.py").touch()  # hides the package
    processes.add_worker("--local-directory", str(tmp_path), PYTHONPATH=str(tmp_path))
    with (
        pytest.raises(ClusterError, match=r"worker tcp://127.* cannot load napari-lesionseg; install"),
        open_engine(ClusterOptions(scheduler=processes.address)),
    ):
        pass


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=1, threads_per_worker=3, processes=False, protocol="tcp://", dashboard_address="127.0.0.1:0"
    ) as made:
        yield made


def joined(cluster: LocalCluster) -> ClusterOptions:
    return ClusterOptions(scheduler=cluster.scheduler_address)


def write_model(folder: Path, name: str) -> Path:
    path = folder / f"{name}.safetensors"
    path.write_bytes(name.encode())
    return path


def test_a_worker_without_room_for_the_model_is_one_sentence(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    with open_engine(joined(cluster)) as engine:
        monkeypatch.setattr("napari_lesionseg.cluster.model_plugin.write_atomically", fail)
        with pytest.raises(ClusterError, match=r"copied to the worker .*: No space left on device"):
            engine.install_model(write_model(tmp_path, "a"))


def test_the_work_goes_on_without_the_worker_that_has_no_room(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full: list[Path] = []

    def write(path: Path, data: bytes) -> None:
        if not full:
            full.append(path.parent)
        if path.parent in full:
            raise OSError(28, "No space left on device", str(path))
        path.write_bytes(data)

    cluster.scale(2)
    with open_engine(joined(cluster)) as engine:
        engine.client.wait_for_workers(2)  # type: ignore[attr-defined]
        monkeypatch.setattr("napari_lesionseg.cluster.model_plugin.write_atomically", write)
        engine.install_model(write_model(tmp_path, "a"))
        assert list(engine.map(read_model, range(40))) == ["a"] * 40
        (problem,) = engine.problems
    assert re.fullmatch(r"The model cannot be copied to the worker tcp.*: No space left on device\.", problem)


def test_the_work_goes_on_without_workers_of_another_version(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.scale(2)
    cluster.wait_for_workers(2)
    other = cluster.workers[0].address
    monkeypatch.setattr(
        "napari_lesionseg.cluster.dask_engine._versions_and_threads",
        lambda dask_worker: (
            ("0.0.1" if dask_worker.address == other else __version__, torch.__version__),
            3,
        ),
    )
    with open_engine(joined(cluster)) as engine:
        (problem,) = engine.problems
        assert problem.startswith(f"The worker {other} has napari-lesionseg 0.0.1 and torch")
        engine.install_model(write_model(tmp_path, "a"))
        assert set(engine.map(place_of_model, range(40))) == {cluster.workers[1].local_directory}


def place_of_model(model: Path, number: int) -> str:
    del number
    return str(model.parent)


def test_a_model_that_is_gone_is_one_sentence(cluster: LocalCluster, tmp_path: Path) -> None:
    with (
        open_engine(joined(cluster)) as engine,
        pytest.raises(ModelNotFoundError, match=r"gone\.safetensors cannot be read: No such file"),
    ):
        engine.install_model(tmp_path / "gone.safetensors")


def test_a_model_that_was_interrupted_before_it_arrived_is_left(cluster: LocalCluster) -> None:
    with open_engine(joined(cluster)) as engine:
        assert isinstance(engine, DaskEngine)
        engine._plugin = "lesionseg none"


def read_model(model: Path, number: int) -> str:
    del number
    return model.read_text()


def test_a_worker_that_comes_late_has_the_models_of_all_clients(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    with open_engine(joined(cluster)) as first, open_engine(joined(cluster)) as second:
        first.install_model(write_model(tmp_path, "a"))
        second.install_model(write_model(tmp_path, "b"))
        cluster.scale(3)
        first.client.wait_for_workers(3)  # type: ignore[attr-defined]
        for engine, name in ((first, "a"), (second, "b")):
            assert set(engine.map(read_model, range(40))) == {name}
    kept = [name for name in cluster.scheduler.worker_plugins if name.startswith("lesionseg")]
    assert not kept  # or every model would stay in the memory of the scheduler


def test_a_model_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Worker:
        local_directory, address = str(tmp_path), "tcp://a:1"

    ModelPlugin("hash.safetensors", b"model").setup(Worker())  # type: ignore[arg-type]
    before = (tmp_path / "hash.safetensors").stat().st_ino
    ModelPlugin("hash.safetensors", b"model").setup(Worker())  # type: ignore[arg-type]
    assert (tmp_path / "hash.safetensors").stat().st_ino == before
    assert [path.name for path in tmp_path.iterdir()] == ["hash.safetensors"]


def count_running(model: Path, number: int) -> int:
    del model
    time.sleep(0.01)
    return number


def test_all_threads_of_all_workers_get_work(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_engine(joined(cluster)) as engine:
        assert isinstance(engine, DaskEngine)
        assert [engine.chunk_size(count, 32) for count in (0, 1, 30, 100_000)] == [1, 1, 2, 32]
        engine.install_model(write_model(tmp_path, "a"))
        waiting: list[int] = []
        submit: Callable[..., Any] = engine._submit
        monkeypatch.setattr(engine, "_submit", lambda *chunk: waiting.append(1) or submit(*chunk))
        results = engine.map(count_running, range(100))
        assert next(results) == 0
        assert len(waiting) == dask_engine.CHUNKS_AHEAD * 3
        assert list(results) == list(range(1, 100))


def wait_long(model: Path, number: int) -> int:
    del model
    time.sleep(600)
    return number


def test_a_suspended_worker_is_one_sentence(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes.add_worker("--local-directory", str(tmp_path))
    processes.started[-1].send_signal(signal.SIGSTOP)
    monkeypatch.setattr(connection, "LOAD_SECONDS", 1.0)
    with (
        pytest.raises(ClusterError, match="A worker of the dask cluster does not answer"),
        open_engine(ClusterOptions(scheduler=processes.address)),
    ):
        pass


def test_workers_that_are_gone_for_long_are_one_sentence(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes.add_worker("--local-directory", str(tmp_path))
    monkeypatch.setattr(dask_engine, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(dask_engine, "WORKERLESS_SECONDS", 1.0)
    with open_engine(ClusterOptions(scheduler=processes.address)) as engine:
        assert isinstance(engine, DaskEngine)
        engine.install_model(write_model(tmp_path, "a"))
        results = engine.map(wait_long, range(3))
        monkeypatch.setattr(engine.connection, "_check", processes.started[-1].kill)
        with pytest.raises(ClusterError, match="has no workers; start some"):
            next(results)


def test_a_suspended_scheduler_is_one_sentence(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes.add_worker("--local-directory", str(tmp_path))
    monkeypatch.setattr(dask_engine, "LOOK_SECONDS", 0.0)
    with open_engine(ClusterOptions(scheduler=processes.address)) as engine:
        assert isinstance(engine, DaskEngine)
        engine.install_model(write_model(tmp_path, "a"))
        results = engine.map(wait_long, range(3))
        monkeypatch.setattr(connection, "ANSWER_SECONDS", 1.0)
        suspend = lambda: processes.scheduler.send_signal(signal.SIGSTOP)  # noqa: E731
        monkeypatch.setattr(engine.connection, "_check", suspend)
        with pytest.raises(ClusterError, match="connection to the dask scheduler is lost"):
            next(results)


def test_work_that_is_waited_for_can_be_canceled(cluster: LocalCluster, tmp_path: Path) -> None:
    go_on, asked = threading.Event(), threading.Event()

    def check() -> None:
        if asked.is_set():
            raise CancelledError("Canceled.")

    def wait_here(model: Path, number: int) -> int:
        del model
        asked.set()
        go_on.wait()
        return number

    with open_engine(joined(cluster), check=check) as engine:
        engine.install_model(write_model(tmp_path, "a"))
        asked.clear()
        # Threads of this process: what dask would send as bytes stays what it is.
        WAITING["here"] = wait_here
        with pytest.raises(CancelledError):
            list(engine.map(call_waiting, range(3)))
        go_on.set()


WAITING: dict[str, Callable[[Path, int], int]] = {}


def call_waiting(model: Path, number: int) -> int:
    return WAITING["here"](model, number)


class Slow:
    """A result that takes longer to arrive than the client waits at once."""

    def __reduce__(self) -> tuple[Callable[[], str], tuple[()]]:
        return arrive_slowly, ()


def arrive_slowly() -> str:
    time.sleep(2 * connection.POLL_SECONDS)
    return "arrived"


def return_slow(model: Path, number: int) -> Slow:
    del model, number
    return Slow()


def test_results_arrive_through_a_slow_line(cluster: LocalCluster, tmp_path: Path) -> None:
    with open_engine(joined(cluster)) as engine:
        engine.install_model(write_model(tmp_path, "a"))
        assert list(engine.map(return_slow, range(1))) == ["arrived"]


@pytest.fixture(params=[b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n"])
def other_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server that is no scheduler, and is silent or says something else."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections = list[socket.socket]()

        def answer() -> None:
            with suppress(OSError):  # closed at the end
                while True:
                    connections.append(server.accept()[0])
                    connections[-1].sendall(request.param)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in connections:
            connection.close()


def test_a_server_that_is_no_scheduler_is_one_sentence(
    other_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "CONNECT_SECONDS", 2)
    with (
        pytest.raises(ClusterError, match="No dask scheduler answers at tcp"),
        open_engine(ClusterOptions(scheduler=other_server)),
    ):
        pass


def test_the_address_of_a_worker_is_one_sentence(cluster: LocalCluster) -> None:
    (worker,) = cluster.scheduler.workers
    with (
        pytest.raises(ClusterError, match="is the address of a dask Worker; use that of the scheduler"),
        open_engine(ClusterOptions(scheduler=worker)),
    ):
        pass
