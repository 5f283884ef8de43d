"""The scripts of the how-to pages, with a cluster of this computer in place of those they are made for."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from distributed import LocalCluster
from PIL import Image

from napari_lesionseg.cli.main import main

PAGES = [Path(__file__).parents[2] / "docs" / "how-to" / name for name in ("cluster.md", "gpu.md")]
SCRIPTS = [
    script
    for page in PAGES
    for script in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
]


class LocalWorkers(LocalCluster):
    """Workers of this computer, which may be so busy that dask waits too long for their end."""

    def close(self, timeout: float | None = None) -> None:
        with suppress(TimeoutError):
            super().close(timeout)


class FakeSLURMCluster(LocalWorkers):
    """A cluster of this computer that takes what one of SLURM takes, and has workers only on demand."""

    def __init__(self, *, cores: int, processes: int, memory: str, walltime: str) -> None:
        assert re.fullmatch(r"\d+GB", memory)
        assert re.fullmatch(r"\d\d:\d\d:\d\d", walltime)
        threads = cores // processes
        super().__init__(n_workers=0, threads_per_worker=threads, dashboard_address="127.0.0.1:0")

    def scale(self, n: int = 0, *, jobs: int = 0) -> Any:
        return super().scale(min(jobs, 2) or n)  # dask itself scales to none at the end


class FakeCUDACluster(LocalWorkers):
    """A cluster of this computer with as many workers as if it had two GPUs."""

    def __init__(self) -> None:
        super().__init__(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0")


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("package", "name", "cluster"),
    [
        ("dask_jobqueue", "SLURMCluster", FakeSLURMCluster),
        ("dask_cuda", "LocalCUDACluster", FakeCUDACluster),
    ],
)
def test_a_script_of_the_pages_segments_a_folder(
    package: str, name: str, cluster: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        noise = rng.integers(0, 256, (33, 40, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "photos" / f"{number}.png")
    module = ModuleType(package)
    setattr(module, name, cluster)
    monkeypatch.setitem(sys.modules, package, module)
    monkeypatch.chdir(tmp_path)
    run, commands = subprocess.run, []

    def run_here(command: list[str], **settings: Any) -> Any:
        if command[0] != "lesionseg":  # dask asks for the processor's name
            return run(command, **settings)
        commands.append(command)
        assert not settings
        return subprocess.CompletedProcess(command, main([*command[1:], "--device", "cpu"]))

    monkeypatch.setattr(subprocess, "run", run_here)
    (script,) = (text for text in SCRIPTS if package in text)
    with pytest.raises(SystemExit) as stop:
        exec(compile(script, package, "exec"), {})  # noqa: S102  it is ours
    assert stop.value.code == 0
    assert len(commands) == 1
    assert {path.name for path in (tmp_path / "masks").glob("*.png")} == {
        f"{number}_segmentation.png" for number in range(3)
    }
