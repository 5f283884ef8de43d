"""Segmenting many files: in this process, on several, interrupted and resumed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import dask
import numpy as np
import psutil
import pytest
import torch
from distributed import LocalCluster
from PIL import Image

from napari_lesionseg.cluster.clients import THREAD_VARIABLES
from napari_lesionseg.cluster.engine import (
    IN_PROCESS,
    ClusterOptions,
    Engine,
    describe_plan,
    open_engine,
)
from napari_lesionseg.cluster.segment import LOG, SegmentLog, segment_files
from napari_lesionseg.cluster.segment_chunk import (
    FileResult,
    FileTask,
    SegmentJob,
    segment_chunk,
    segment_chunk_on_worker,
)
from napari_lesionseg.config import PostprocessConfig
from napari_lesionseg.errors import ClusterError, LesionSegError
from napari_lesionseg.io.atomic import sha256_file, write_atomically
from napari_lesionseg.models.card import ModelCard
from napari_lesionseg.models.checkpoint import save_checkpoint
from napari_lesionseg.models.registry import build_network

SETTINGS = {"width": 2, "depth": 1}
COUNT = 70


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    card = ModelCard(name="tiny", arch="unet", arch_settings=SETTINGS, working_size=32)
    save_checkpoint(path, build_network("unet", **SETTINGS), card)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        noise = rng.integers(0, 256, (33, 40, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"image {number:03}.png")
    (folder / "image 005.png").write_bytes(b"not an image")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Engine]:
    with open_engine(ClusterOptions(workers=2)) as engine:
        yield engine


def job_of(model_file: Path, **changes: float) -> SegmentJob:
    settings = PostprocessConfig(**changes)  # type: ignore[arg-type]
    return SegmentJob(sha256_file(model_file), settings.model_dump_json(), "cpu")


def run(
    engine: Engine,
    model_file: Path,
    images: list[Path],
    out: Path,
    *,
    resume: bool = False,
    batch_size: int | None = None,
    **changes: float,
) -> list[FileResult]:
    out.mkdir(exist_ok=True)
    engine.install_model(model_file)
    job = job_of(model_file, **changes)
    return list(segment_files(engine, job, images, out, resume=resume, batch_size=batch_size))


def run_here(model_file: Path, images: list[Path], out: Path, **options: float) -> list[FileResult]:
    with open_engine(IN_PROCESS) as engine:
        return run(engine, model_file, images, out, **options)  # type: ignore[arg-type]


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.png")}


def test_workers_write_the_same_bytes_and_report_the_same_errors(
    two_workers: Engine, model_file: Path, images: list[Path], tmp_path: Path
) -> None:
    here = run_here(model_file, images, tmp_path / "here")
    there = run(two_workers, model_file, images, tmp_path / "there")
    assert describe_plan(two_workers, None).endswith(" each; they read the files themselves.")
    assert hashes(tmp_path / "here") == hashes(tmp_path / "there")
    assert len(hashes(tmp_path / "here")) == COUNT - 1
    assert [(result.source, result.error) for result in here] == [(r.source, r.error) for r in there]
    assert [result.source.name for result in here if result.error] == ["image 005.png"]


@pytest.mark.parametrize("batch_size", [3, 8])
def test_batches_write_the_same_bytes_and_report_the_same_errors(
    two_workers: Engine, model_file: Path, images: list[Path], tmp_path: Path, batch_size: int
) -> None:
    wide = tmp_path / "wide.png"
    Image.new("RGB", (80, 33), "tan").save(wide)
    mixed = [*images[:4], wide, *images[4:20]]
    here = run_here(model_file, mixed, tmp_path / "here")
    for name, engine in (("alone", IN_PROCESS), ("workers", two_workers)):
        with open_engine(engine) if engine is IN_PROCESS else nullcontext(engine) as chosen:
            there = run(chosen, model_file, mixed, tmp_path / name, batch_size=batch_size)
        assert hashes(tmp_path / "here") == hashes(tmp_path / name)
        assert there == here


def test_workers_that_do_not_see_the_files_get_their_bytes(
    two_workers: Engine,
    model_file: Path,
    images: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_here(model_file, images, tmp_path / "here")
    monkeypatch.setattr(two_workers, "sees", lambda path: False)
    plans: list[str] = []
    (tmp_path / "there").mkdir()
    two_workers.install_model(model_file)
    job = job_of(model_file)
    there = list(segment_files(two_workers, job, images, tmp_path / "there", announce=plans.append))
    unseen = tmp_path / "there" / LOG
    assert plans == [
        f"Running on {two_workers.description}; the files are sent to them, because they do not see {unseen}."
    ]
    assert hashes(tmp_path / "here") == hashes(tmp_path / "there")
    run(two_workers, model_file, images[:9], tmp_path / "batches", batch_size=4)
    assert hashes(tmp_path / "batches").items() <= hashes(tmp_path / "here").items()
    (failed,) = (result for result in there if result.error)
    assert str(images[5]) in failed.error


def test_resume_makes_what_is_missing_damaged_or_of_other_settings(
    model_file: Path, images: list[Path], tmp_path: Path
) -> None:
    images = images[10:16]
    run_here(model_file, images, tmp_path / "o")
    (tmp_path / "o" / "image 011_segmentation.png").unlink()
    (tmp_path / "o" / "image 012_segmentation.png").write_bytes(b"torn")
    again = run_here(model_file, images, tmp_path / "o", resume=True)
    assert [r.source.name for r in again if not r.skipped] == ["image 011.png", "image 012.png"]
    assert all(r.skipped for r in run_here(model_file, images, tmp_path / "o", resume=True))
    other = run_here(model_file, images, tmp_path / "o", resume=True, min_area=3)
    assert not any(r.skipped for r in other)


def test_resume_notices_an_image_that_changed(model_file: Path, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    Image.new("RGB", (40, 33), "tan").save(image)
    run_here(model_file, [image], tmp_path / "o")
    Image.new("RGB", (40, 33), "white").save(image)
    assert not run_here(model_file, [image], tmp_path / "o", resume=True)[0].skipped


def test_a_torn_line_of_the_log_is_ignored(model_file: Path, images: list[Path], tmp_path: Path) -> None:
    run_here(model_file, images[:2], tmp_path / "o")
    log = tmp_path / "o" / LOG
    log.write_bytes(log.read_bytes() + b'{"mask": "image 00')
    run_here(model_file, images[2:4], tmp_path / "o")
    assert len(SegmentLog(log).read(job_of(model_file))) == 4
    assert all(r.skipped for r in run_here(model_file, images[:4], tmp_path / "o", resume=True))


def test_every_mask_is_written_once_though_a_worker_is_killed(
    model_file: Path, images: list[Path], tmp_path: Path
) -> None:
    with open_engine(ClusterOptions(workers=2)) as engine:
        engine.install_model(model_file)
        (tmp_path / "o").mkdir()
        results = segment_files(engine, job_of(model_file), images, tmp_path / "o")
        first = next(results)
        os.kill(next(iter(engine.client.run(os.getpid).values())), signal.SIGKILL)  # type: ignore[attr-defined]
        rest = list(results)
    run_here(model_file, images, tmp_path / "here")
    assert [result.source for result in (first, *rest)] == images
    assert hashes(tmp_path / "o") == hashes(tmp_path / "here")
    masks = [json.loads(line)["mask"] for line in (tmp_path / "o" / LOG).read_text().splitlines()]
    assert sorted(masks) == sorted(hashes(tmp_path / "o"))


def test_a_killed_run_is_resumed_with_the_rest_and_nothing_else(
    model_file: Path, images: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "o"
    command = [sys.executable, "-m", "napari_lesionseg", "segment", str(images[0].parent), "--out", str(out)]
    command += ["--model", str(model_file), "--device", "cpu"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(hashes(out)) < 10 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()
    written = len(hashes(out))
    assert len(SegmentLog(out / LOG).read(job_of(model_file))) - written in (0, 1)  # the log is written first
    again = run_here(model_file, images, out, resume=True)
    assert sum(result.skipped for result in again) == written
    run_here(model_file, images, tmp_path / "here")
    assert hashes(out) == hashes(tmp_path / "here")


def test_an_address_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_lesionseg.cluster.clients.CONNECT_SECONDS", 1)
    options = ClusterOptions(scheduler="tcp://127.0.0.1:9")
    with pytest.raises(ClusterError, match="answers at tcp"), open_engine(options):
        pass


def test_workers_that_end_too_slowly_are_no_error(
    model_file: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = LocalCluster.close

    def close_slowly(cluster: LocalCluster, timeout: float | None = None) -> None:
        close(cluster, timeout)
        raise TimeoutError

    monkeypatch.setattr(LocalCluster, "close", close_slowly)
    with open_engine(ClusterOptions(workers=1)) as engine:
        assert len(run(engine, model_file, images[:2], tmp_path / "o")) == 2


def test_without_distributed_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_lesionseg.cluster.engine.find_spec", lambda name: None)
    with (
        pytest.raises(ClusterError, match=r"napari-lesionseg\[cluster\]"),
        open_engine(ClusterOptions(workers=1)),
    ):
        pass


def test_workers_of_another_version_are_named(monkeypatch: pytest.MonkeyPatch, two_workers: Engine) -> None:
    monkeypatch.setattr("napari_lesionseg.cluster.dask_engine.__version__", "0")
    address = two_workers.client.scheduler.address  # type: ignore[attr-defined]
    with (
        pytest.raises(ClusterError, match="install the same versions"),
        open_engine(ClusterOptions(scheduler=address)),
    ):
        pass


def test_a_running_cluster_is_joined(
    two_workers: Engine, model_file: Path, images: list[Path], tmp_path: Path
) -> None:
    scheduler = tmp_path / "scheduler.json"
    two_workers.client.write_scheduler_file(str(scheduler))  # type: ignore[attr-defined]
    with open_engine(ClusterOptions(scheduler_file=scheduler)) as engine:
        assert engine.description == "dask cluster of 2 workers, 2 threads"
        assert len(run(engine, model_file, images[:3], tmp_path / "o")) == 3


def threads_of_chunk(model: Path, chunk: object) -> int:
    del model, chunk
    return torch.get_num_threads()


@pytest.mark.parametrize("asked", [None, 2])
def test_the_threads_of_processes_are_as_described(
    model_file: Path, asked: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's own setting counts more than the part of the cores."""
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        if asked is not None:
            monkeypatch.setenv(name, str(asked))
    threads = asked or 1
    with open_engine(ClusterOptions(workers=1), threads=1) as engine:
        assert engine.description == f"1 process, {threads} thread{'s' if threads > 1 else ''}"
        engine.install_model(model_file)
        assert set(engine.map(threads_of_chunk, range(4))) == {threads}


@pytest.mark.parametrize("nthreads", [1, 2])
def test_the_threads_of_a_worker_share_its_cores(model_file: Path, nthreads: int) -> None:
    """A worker has as many cores as it says; its tasks run at the same time."""
    environment = {"distributed.nanny.pre-spawn-environ": dict.fromkeys(THREAD_VARIABLES, 2)}
    with (
        dask.config.set(environment),
        LocalCluster(n_workers=1, threads_per_worker=nthreads, dashboard_address="127.0.0.1:0") as cluster,
        open_engine(ClusterOptions(scheduler=cluster.scheduler_address)) as engine,
    ):
        engine.install_model(model_file)
        usual = engine.client.submit(torch.get_num_threads, pure=False).result()  # type: ignore[attr-defined]
        count = usual if nthreads == 1 else nthreads
        assert engine.description == f"dask cluster of 1 worker, {count} thread{'s' if count > 1 else ''}"
        expected = usual if nthreads == 1 else 1
        assert set(engine.map(threads_of_chunk, range(4))) == {expected}


def test_a_scheduler_that_goes_away_is_one_sentence(
    model_file: Path, images: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "o").mkdir()
    with open_engine(ClusterOptions(workers=1)) as engine:
        engine.install_model(model_file)
        results = segment_files(engine, job_of(model_file), images * 30, tmp_path / "o")
        next(results)
        engine.client.cluster.close()  # type: ignore[attr-defined]
        with pytest.raises(ClusterError, match="connection to the dask scheduler is lost"):
            list(results)


def fail_to_write(path: Path, payload: bytes) -> None:
    if "012" in path.name:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))
    write_atomically(path, payload)


def test_a_full_disk_of_a_worker_is_one_sentence_for_its_image_and_the_rest_goes_on(
    model_file: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_lesionseg.io.images.write_atomically", fail_to_write)
    tasks = [FileTask(image, tmp_path) for image in images[11:14]]
    results = list(segment_chunk(replace(job_of(model_file), overlay=True), model_file, tasks))
    assert [result.error != "" for result in results] == [False, True, False]
    assert "No space left on device" in results[1].error


def test_a_full_disk_is_one_sentence_for_its_image_and_the_rest_goes_on(
    model_file: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("napari_lesionseg.cluster.segment.write_atomically", fail_to_write)
    results = run_here(model_file, images[11:14], tmp_path / "o")
    assert [result.error != "" for result in results] == [False, True, False]
    assert results[1].error.endswith("012_segmentation.png cannot be written: No space left on device.")


def test_a_log_that_cannot_be_written_is_one_sentence_for_its_image(
    model_file: Path, images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SegmentLog, "_append", fail)
    (result,) = run_here(model_file, images[:1], tmp_path / "o")
    assert result.error.endswith("_segmentation.png cannot be written: No space left on device.")
    assert LOG in result.error
    assert hashes(tmp_path / "o") == {}  # it would be taken for one that somebody drew
    with pytest.raises(LesionSegError, match="none cannot be written"):
        SegmentLog(tmp_path / "none" / LOG).make()


def draw(path: Path) -> bytes:
    Image.new("L", (40, 33), 255).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("workers", [False, True])
def test_a_mask_that_was_drawn_after_an_interrupted_run_is_kept(
    two_workers: Engine, model_file: Path, images: list[Path], tmp_path: Path, resume: bool, workers: bool
) -> None:
    """The run had not reached its image; those that it had are its own."""
    out = tmp_path / "o"
    out.mkdir()
    with nullcontext(two_workers) if workers else open_engine(IN_PROCESS) as engine:
        engine.install_model(model_file)
        interrupted = segment_files(engine, job_of(model_file), images, out)
        next(interrupted)
        interrupted.close()
        drawn = out / "image 069_segmentation.png"
        before = draw(drawn)
        again = run(engine, model_file, images, out, resume=resume, min_area=3)
    failed = {result.source.name: result.error for result in again if result.error}
    assert list(failed) == ["image 005.png", "image 069.png"]
    assert f"{drawn} was drawn or changed by somebody" in failed["image 069.png"]
    assert drawn.read_bytes() == before


def test_two_runs_into_one_folder_share_the_work(
    model_file: Path, images: list[Path], tmp_path: Path
) -> None:
    with open_engine(IN_PROCESS) as engine:
        engine.install_model(model_file)
        late = segment_files(engine, job_of(model_file), images[:3], tmp_path)
        results = [next(late)]
        results += segment_files(engine, job_of(model_file), images[:3], tmp_path)
        results += late
    assert [result.error for result in results] == [""] * 6


def test_a_mask_that_is_drawn_during_the_run_is_kept(
    model_file: Path, images: list[Path], tmp_path: Path
) -> None:
    with open_engine(IN_PROCESS) as engine:
        engine.install_model(model_file)
        results = segment_files(engine, job_of(model_file), images[:4], tmp_path)
        next(results)
        before = draw(tmp_path / "image 003_segmentation.png")
        *_, last = results
    assert "was drawn or changed by somebody" in last.error
    assert (tmp_path / "image 003_segmentation.png").read_bytes() == before


def test_a_model_file_that_vanishes_is_one_sentence_each(images: list[Path], tmp_path: Path) -> None:
    gone = tmp_path / "gone.safetensors"
    results = segment_chunk_on_worker(
        SegmentJob("", PostprocessConfig().model_dump_json(), "cpu"),
        gone,
        [FileTask(image, tmp_path) for image in images[:2]],
    )
    said = f"A worker has lost the model {gone}; start again to send it once more."
    assert [result.error for result in results] == [said, said]


def has_outlines(process: int, out: Path) -> bool:
    return bool(hashes(out))


def has_begun_to_start_workers(process: int, out: Path) -> bool:
    started = psutil.Process(process).children(recursive=True)
    return any("spawn_main" in " ".join(child.cmdline()) for child in started)


@pytest.mark.parametrize("moment", [has_outlines, has_begun_to_start_workers])
def test_ctrl_c_ends_the_workers_in_silence(
    model_file: Path, images: list[Path], tmp_path: Path, moment: Callable[[int, Path], bool]
) -> None:
    command = [sys.executable, "-m", "napari_lesionseg", "segment", str(images[0].parent), "--out"]
    command += [str(tmp_path / "o"), "--model", str(model_file), "--device", "cpu", "--workers", "2"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 200
        while (
            not moment(process.pid, tmp_path / "o") and process.poll() is None and time.monotonic() < deadline
        ):
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the client and to all workers
        _, errors = process.communicate(timeout=90)
    assert process.returncode == 130
    lines = [line for line in errors.splitlines() if "image 005" not in line and "processes" not in line]
    assert lines == ["lesionseg: Stopped."]
