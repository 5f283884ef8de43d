"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from napari_lesionseg.inference.predictor import Model
from napari_lesionseg.training.dataset import CachedPair
from tests.fakes import draw_disc, make_model

ROOT = Path(__file__).parents[1]

# How long an example takes says more about what else the machine is doing than about the code.
settings.register_profile("lesionseg", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lesionseg")


def pytest_xvfb_disable() -> bool:
    """Start no virtual display where the viewer is not installed."""
    return bool(os.environ.get("LESIONSEG_WITHOUT_VIEWER"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real images with masks, which are research data and not part of the project."""
    folder = Path(os.environ.get("LESIONSEG_DATA", ROOT / ".." / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real images: {folder} does not exist (set LESIONSEG_DATA)")
    return folder


@pytest.fixture(autouse=True, scope="session")
def usual_signals() -> None:
    """Take signals, as processes that are started do, though tests may run under nohup or with `&`."""
    usual = {"SIGINT": signal.default_int_handler, "SIGHUP": signal.SIG_DFL}
    for number, handler in ((getattr(signal, name, None), handler) for name, handler in usual.items()):
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True, scope="session")
def usual_buffers() -> None:
    """Let programs buffer their output, as usual: without a buffer, some failures do not show."""
    os.environ.pop("PYTHONUNBUFFERED", None)


@pytest.fixture(autouse=True)
def no_fold_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fine-tune in one process: starting more takes longer than training a tiny network."""
    monkeypatch.setattr("napari_lesionseg.finetuning.fold_processes.available_cores", lambda: 1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


@pytest.fixture
def disc() -> Callable[..., CachedPair]:
    """Draw the disc of a number."""
    return draw_disc


@pytest.fixture
def discs() -> list[CachedPair]:
    return [draw_disc(number) for number in range(5)]


@pytest.fixture
def tiny_model() -> Model:
    return make_model()


@pytest.fixture
def new_model() -> Callable[..., Model]:
    """Make a tiny model; the same seed gives the same weights."""
    return make_model
