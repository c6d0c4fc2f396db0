"""A link opens the tab, the photo and the settings that it opened when its answer was stored."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from playwright.sync_api import BrowserContext, Page

from tests.served import App
from tests.snapshots.stored import check

pytestmark = pytest.mark.browser

# The order and the defaults are not those that the page writes: an address that has settled differs from the one that was opened.
LINKS = {
    "compare": "target=&image=kangaroo&models=vit-mini,dino-mini&tab=compare&method=rollout",
    "explain": "head=1&layer=2&readout=distillation&model=deit-mini&image=cup&method=attention&tab=explain",
    "segment": "tab=segment&image=crab&parts=3&method=parts&model=vit-mini&beside=dino-mini&resolution=224&refine=0"
    "&clip=1&within=0&opacity=0.4&matches=7",
    # Several controls at once: the page reports each of them on its own, and none may undo another.
    "compare-class": "target=kangaroo&image=kangaroo&tab=compare&method=relevance",
    "explain-resolution": "resolution=320&model=deit-mini&image=cup&tab=explain",
    "segment-tau": "tau=0.3&tab=segment&image=cup&model=vit-mini",
    "inside": "tab=inside&image=cup&step=apart&patches=3-5&heads=7:0&beside=deit-mini&fill=mean",
    "live": "tab=live&image=panda",
    "models": "tab=models&image=rocket",
}

STATE = """() => {
    const visible = (one) => one.checkVisibility({ visibilityProperty: true }) && one.type !== "file";
    const words = (label) => [...label.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE || node.tagName === "SPAN")
        .map((node) => node.textContent.trim()).filter(Boolean).join(" ");
    const named = (one) => one.getAttribute("aria-label") || (one.labels?.length ? words(one.labels[0]) : "") || one.name;
    const controls = [...document.querySelectorAll("input, select, textarea")].filter(visible)
        .map((one) => [named(one), /checkbox|radio/.test(one.type) ? one.checked : one.value]);
    const photo = document.querySelector("#photo img");
    return {
        tab: document.querySelector("[role=tab][aria-selected=true]")?.textContent.trim(),
        photo: photo && decodeURIComponent(photo.src).split("/").pop(),
        controls,
        chosen: [...document.querySelectorAll(".token")].filter(visible).map((one) => one.textContent.trim()),
        query: location.search,
    };
}"""


@pytest.mark.thorough
@pytest.mark.parametrize("tab", LINKS)
def test_a_link_opens_what_it_opened(tab: str, context: BrowserContext, app: App) -> None:
    page = context.new_page()
    page.goto(f"{app.url}?{LINKS[tab]}")
    page.wait_for_function("window.vitdemoOpened")
    # Live and Models show no result that an address could tell of.
    if tab not in ("live", "models"):
        page.wait_for_function("(opened) => location.search !== opened", arg=f"?{LINKS[tab]}")
    page.evaluate("window.settled()")
    for fold in page.locator("#segmented .vd-display > summary").all():
        fold.click()
    check(f"links/{tab}.json", state(page))


def state(page: Page) -> dict[str, Any]:
    """What is selected, and what the address says of it."""
    found: dict[str, Any] = page.evaluate(STATE)
    return {**found, "query": [list(pair) for pair in parse_qsl(urlsplit(found["query"]).query)]}
