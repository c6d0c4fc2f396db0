"""A new photo runs the models of the open tab alone; the other tabs catch up when they are opened."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.acts import COUNT, best_labels, expected_labels, open_tab, wait_for_new_result
from tests.browser.driver import Watched
from vitdemo.ui.examples import examples

pytestmark = pytest.mark.browser


@pytest.mark.thorough
@pytest.mark.parametrize("tab", ["Models", "Live"])
def test_a_photo_that_is_chosen_where_none_is_shown_runs_no_model_until_a_tab_needs_it(
    watched: Watched, tab: str
) -> None:
    page, app = watched.page, watched.app
    open_tab(page, tab)
    watched.settle()
    before = app.forwards
    source = page.locator("#photo img").first.get_attribute("src") or ""
    # The panel is not shown there; a photo that is dropped or pasted takes the same way.
    page.locator("#examples button").nth(2).evaluate("(one) => one.click()")
    expect(page.locator("#photo img").first).not_to_have_attribute("src", source)
    watched.settle()
    assert app.forwards == before
    wait_for_new_result(page, lambda: open_tab(page, "Compare"))
    assert app.forwards - before in (0, COUNT)  # none if the photo was compared before
    assert best_labels(page) == expected_labels(app, examples()[2].path)
    # Explain is stale as well, and its model has seen the photo.
    after = app.forwards
    open_tab(page, "Explain")
    expect(page.locator("#explained .vd-best .vd-label")).to_have_text(best_labels(page)[0])
    watched.settle()
    assert app.forwards == after
    # Opened again, nothing is new.
    requests = len(watched.requests)
    open_tab(page, "Compare")
    watched.settle()
    assert app.forwards == after
    assert len(watched.requests) - requests <= 4
