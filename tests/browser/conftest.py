"""One headless Chromium on one running app, for all tests of this process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from tests.browser.driver import PATIENCE, Watched, film, launched, opened
from tests.browser.static_page import ADDRESS, StaticExplorer, static_explorer
from tests.served import App
from vitdemo.pipeline import Pipeline
from vitdemo.registry import default_models
from vitdemo.settings import Settings
from vitdemo.types import Capture, Explanation, Photo
from vitdemo.ui.examples import examples

expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with launched(film(tmp_path_factory.mktemp("camera") / "film.mjpeg")) as browser:
        yield browser


@pytest.fixture(scope="session")
def shared_context(browser: Browser) -> Iterator[BrowserContext]:
    """One for all tests: its cache makes a page open in half the time."""
    with opened(browser) as context:
        yield context


@pytest.fixture
def context(shared_context: BrowserContext, app: App) -> Iterator[BrowserContext]:
    if not shared_context.pages:
        # A page of nothing that stays: as long as there is one, its process does, with the code that it compiled.
        shared_context.new_page().goto(f"{app.url}favicon.ico")
    kept = shared_context.pages[0]
    yield shared_context
    for page in shared_context.pages:
        if page != kept:
            page.close()
    shared_context.clear_permissions()


@pytest.fixture
def watched(context: BrowserContext, app: App) -> Iterator[Watched]:
    watched = Watched(context.new_page(), app).open()
    yield watched
    assert watched.complaints == []


@pytest.fixture
def phone(browser: Browser, app: App) -> Iterator[Watched]:
    """The page on a screen that is touched."""
    with opened(browser, 390, 844, has_touch=True, is_mobile=True) as context:
        watched = Watched(context.new_page(), app).open()
        yield watched
        assert watched.complaints == []


@pytest.fixture(scope="session")
def bare_context(browser: Browser) -> Iterator[BrowserContext]:
    """For pages behind which there is no server."""
    with opened(browser) as context:
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=ADDRESS)
        yield context


@pytest.fixture
def explorer(bare_context: BrowserContext) -> Iterator[StaticExplorer]:
    """The attention explorer alone, without a result yet. What it writes to its console is a fault."""
    explorer, complaints = static_explorer(bare_context), []
    explorer.page.on("pageerror", lambda error: complaints.append(str(error)))
    explorer.page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    yield explorer
    explorer.page.close()
    assert complaints == []


@pytest.fixture(scope="session")
def cup(pipeline: Pipeline) -> Photo:
    """An example that is not square, so that models see a part of it alone."""
    path = next(example.path for example in examples() if example.label == "cup")
    return replace(pipeline.open(path), name=path.name)


@pytest.fixture(scope="session")
def compared(pipeline: Pipeline, cup: Photo) -> tuple[Explanation, ...]:
    """That photo as Compare shows it."""
    return pipeline.compare(cup, default_models(Settings()), capture=Capture(queries=True)).explanations
