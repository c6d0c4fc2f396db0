"""The device, and figures that are kept as soon as a test has them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.gpu.results import Result, read
from scripts.gpu.rig import Rig

Keep = Callable[..., None]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def rig() -> Rig:
    """Skips where its device is not here."""
    found = Rig.of_environment()
    if not found.present:
        pytest.skip("there is no GPU here that CUDA can use")
    return found


@pytest.fixture
def cuda(rig: Rig) -> Rig:
    """Skips in a rehearsal."""
    if not rig.cuda:
        pytest.skip(f"it needs a GPU, and this is a rehearsal on {rig.device}")
    return rig


@pytest.fixture
def keep(request: pytest.FixtureRequest) -> Keep:
    """`keep(name=value)`: figures of this test, into the file of its module."""

    def write(**figures: Any) -> None:
        _note(request.node, lambda entry: entry.setdefault("figures", {}).update(figures))

    return write


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: Any = yield
    if item.get_closest_marker("gpu") and (report.when == "call" or report.outcome != "passed"):
        words = str(report.longrepr[2]) if report.skipped and isinstance(report.longrepr, tuple) else ""
        if report.failed:
            words = report.longrepr.reprcrash.message if hasattr(report.longrepr, "reprcrash") else str(report.longrepr)
        _note(item, lambda entry: entry.update(outcome=report.outcome, words=words[:600]))
    return report


def _note(item: pytest.Item, change: Callable[[dict[str, Any]], object]) -> None:
    folder = os.environ.get("VITDEMO_GPU_OUT")
    if not folder:
        return
    step = item.path.stem.removeprefix("test_")
    result = read(Path(folder), step) or Result(step)
    change(result.figures.setdefault(item.name, {}))
    result.write(Path(folder))
