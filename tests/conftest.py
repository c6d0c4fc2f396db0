"""What several test modules share.

The process that hands out the tests imports this file and nothing else of the project: torch, transformers and gradio are
imported by the fixtures that need them.
"""

from __future__ import annotations

import gc
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from vitdemo.images.open import open_image
from vitdemo.registry import get_spec, spec_from_folder
from vitdemo.settings import ROOT, Settings, get_settings
from vitdemo.types import ModelSpec, Photo

if TYPE_CHECKING:
    from tests.served import App
    from vitdemo.pipeline import Pipeline

# Small networks, and a test process for each core. OpenMP reads this as torch is loaded, in the processes that tests start as
# well; how threads wait is said in tests/__init__.py.
os.environ["OMP_NUM_THREADS"] = "1"

PhotoMaker = Callable[..., Photo]

SERVED = (
    "tests/browser/",
    "tests/docs/",
    "tests/ui/test_api.py",
    "tests/ui/test_mcp.py",
    "tests/ui/test_doors.py",
    "tests/export/test_snippets.py",
)
"""Tests of the running app: one process has them all, so that gradio is started once, and Chromium."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files are handed out whole; those of the running app together, and first, since they take longest."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "served" if nodeid.startswith(SERVED) else nodeid.partition("::")[0]

    return Scheduler(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[Any]:
    """A third of the time to import torch, transformers and gradio goes into looking for garbage; what they made stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(SERVED))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random numbers in every test, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def pipeline() -> Pipeline:
    """One pipeline with default limits on the CPU: models are loaded once. Not for tests that count forwards."""
    from vitdemo.pipeline import Pipeline

    return Pipeline(Settings(device="cpu"))


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The running app, one for all tests of this process."""
    from tests.served import serving

    with serving(tmp_path_factory.mktemp("gradio")) as served:
        yield served


@pytest.fixture(scope="session")
def vit() -> ModelSpec:
    """An embedded model."""
    return get_spec("vit-mini")


@pytest.fixture(scope="session")
def photo() -> PhotoMaker:
    """`photo(width, height, seed)`: smooth colours with noise, no two sizes or seeds alike."""

    def make(width: int = 96, height: int = 64, seed: int = 0) -> Photo:
        return open_image(picture(width, height, seed), Settings())

    return make


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    random_numbers = np.random.default_rng([width, height, seed])
    x, y = np.meshgrid(np.linspace(0, 200, width), np.linspace(0, 200, height))
    noise = random_numbers.integers(0, 56, (height, width, 3))
    pixels = np.stack([x, y, 200 - (x + y) / 2], axis=-1) + noise
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`tiny_folder(kind)`: a checkpoint folder of a tiny random network, to be read only."""
    from tests import tiny

    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tiny.save(tmp_path_factory.mktemp("tiny") / f"tiny-{kind}", kind)
        return made[kind]

    return folder


@pytest.fixture(scope="session")
def tiny_spec(tiny_folder: Callable[[str], Path]) -> Callable[[str], ModelSpec]:
    """`tiny_spec(kind)`: the model of `tiny_folder(kind)`."""
    return lambda kind: spec_from_folder(tiny_folder(kind))


@pytest.fixture(scope="session")
def caltech() -> Path:
    """The archive of labelled photos on which the embedded models are measured; a test that asks for it is skipped without."""
    folder = get_settings().data or ROOT.parent / "shared" / "datasets"
    archive = folder / "caltech101-160-test.tar"
    if not archive.is_file():
        pytest.skip(f"the labelled photos {archive.name} are not here: set VITDEMO_DATA to their folder")
    return archive


@pytest.fixture(autouse=True, scope="session")
def empty_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of the Hub that holds nothing, whatever models this machine has, and none of features of photos."""
    folder = tmp_path_factory.mktemp("huggingface")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(folder))
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
            patch.delenv(name, raising=False)
        yield folder
