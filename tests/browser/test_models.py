"""What a person does in the Models tab, and with models that are not embedded, in a real browser. The Hub is a fake one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.acts import COUNT, contrast, open_tab, too_wide, wait_for_new_result
from tests.browser.driver import Watched, opened
from tests.fakehub import FakeHub
from tests.served import App, serving
from vitdemo.registry import OFFICIAL, download, forget_folder, get_spec, hub_cache

pytestmark = pytest.mark.browser

LISTED, GATED, ABSENT = (
    "facebook/deit-tiny-patch16-224",
    "facebook/dinov3-vits16-pretrain-lvd1689m",
    "google/vit-base-patch16-224",
)
MAE, CNN, DINO = "facebook/vit-mae-base", "microsoft/resnet-50", "facebook/dino-vits16"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def hub(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    swin = tmp_path_factory.mktemp("swin")
    (swin / "config.json").write_text(
        json.dumps({"model_type": "swin", "architectures": ["SwinForImageClassification"]})
    )
    (swin / "preprocessor_config.json").write_text("{}")
    (swin / WEIGHTS).write_bytes(bytes(1000))
    with FakeHub() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.endpoint)
        kinds = {LISTED: "vit", MAE: "mae", CNN: "resnet", DINO: "dino", "tiny/one": "vit", "tiny/two": "deit"}
        for name, kind in kinds.items():
            hub.add(name, tiny_folder(kind))
        hub.add(GATED, tiny_folder("dinov3"), gated=True)
        hub.add("tiny/swin", swin)
        yield hub


@pytest.fixture(scope="module")
def app(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The app, whose Hub is the fake one."""
    with serving(tmp_path_factory.mktemp("gradio")) as served:
        yield served


@pytest.fixture(autouse=True)
def own_cache(hub: FakeHub, app: App, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test begins with nothing downloaded, and a Hub without faults."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    hub.faults.clear()
    hub.requests.clear()


@pytest.fixture
def models(watched: Watched) -> Iterator[Page]:
    """The page with the Models tab open; what it asks for is on its own host."""
    open_tab(watched.page, "Models")
    yield watched.page
    assert all(url.startswith(watched.app.url) for url in watched.requests)


def row(page: Page, name: str) -> Locator:
    return page.locator(f'#model-list li[data-name="{name}"]')


def state(page: Page, name: str) -> Locator:
    return row(page, name).locator(".vd-state")


def press(page: Page, action: str, name: str) -> None:
    row(page, name).get_by_role("button", name=action).click()


def add(page: Page, name: str) -> None:
    page.locator("#add-model textarea, #add-model input").fill(name)
    page.locator("#add-model textarea, #add-model input").press("Enter")


def offered(page: Page, dropdown: str) -> list[str]:
    """The models that a list of another tab offers."""
    page.locator(f"#{dropdown} input").click()
    names = page.get_by_role("option").all_inner_texts()
    page.keyboard.press("Escape")
    return [found[1] for name in names if (found := re.search(r"\((.*)\)", name))]


def choose(page: Page, dropdown: str, name: str) -> None:
    page.locator("#heading h1").click()  # an input that has the focus does not open its list again
    page.locator(f"#{dropdown} input").click()
    page.get_by_role("option").filter(has_text=f"({name})").click()


@pytest.mark.thorough
def test_the_list_has_every_model_of_the_table_under_its_family_with_what_it_is(models: Page) -> None:
    for spec in OFFICIAL.values():
        section = models.locator(f'#model-list section[aria-label="{spec.family}"] li[data-name="{spec.name}"]')
        link = section.get_by_role("link", name=spec.name)
        assert link.get_attribute("href") == f"https://huggingface.co/{spec.name}"
        facts = section.locator(".vd-what").inner_text()
        megabytes = f"{spec.bytes / 1e6:.0f} MB" if spec.bytes < 1e9 else f"{spec.bytes / 1e9:.2f} GB"
        assert facts.endswith(f"{megabytes} · {spec.license}")
        assert section.get_by_role("button").all_inner_texts() == ["Download"]
    expect(state(models, GATED)).to_contain_text("Accept the licence")
    expect(state(models, LISTED)).to_have_text("not downloaded")
    expect(row(models, CNN)).to_contain_text("no patches")
    expect(row(models, "vit-mini")).to_contain_text("ships with vitdemo")
    expect(row(models, "dino-mini")).to_contain_text("(linear probe)")
    assert row(models, "vit-mini").get_by_role("button").all_inner_texts() in ([], ["Unload"])


@pytest.mark.thorough
def test_a_download_is_stopped_resumed_and_then_runs_in_both_other_tabs(models: Page, hub: FakeHub) -> None:
    slow = hub.fault(LISTED, WEIGHTS, bytes_per_second=15_000)
    press(models, "Download", LISTED)
    expect(state(models, LISTED)).to_contain_text(re.compile(r"^\d\.\d MB of 0\.\d MB, 0\.0 MB/s, \d+ s left$"))
    bar = row(models, LISTED).get_by_role("progressbar")
    expect(bar).to_have_attribute("max", str(len(hub.repos[LISTED].revisions["main"][1][WEIGHTS].data)))
    assert 0 < float(bar.get_attribute("value") or 0) < float(bar.get_attribute("max") or 0)

    press(models, "Cancel", LISTED)
    expect(state(models, LISTED)).to_have_text("stopped; what has come is kept")
    (kept,) = (hub_cache.folder(LISTED) / "blobs").glob("*.incomplete")
    assert (come := kept.stat().st_size) > 0
    hub.faults.remove(slow)
    press(models, "Try again", LISTED)
    expect(state(models, LISTED)).to_contain_text(f"on this machine, revision {hub.commit(LISTED)[:12]}")
    assert f"bytes={come}-" in [request.range for request in hub.requests]

    open_tab(models, "Compare")
    wait_for_new_result(models, lambda: choose(models, "models", LISTED))
    expect(models.locator("#compared .vd-panel")).to_have_count(COUNT + 1)
    assert LISTED.split("/")[1] in models.locator("#compared h2").last.inner_text()
    open_tab(models, "Explain")
    wait_for_new_result(models, lambda: choose(models, "model", LISTED), "explained")
    expect(models.locator("#explained h2")).to_contain_text(LISTED)

    # Let go: first the memory, then the disk, and with it every choice of it.
    open_tab(models, "Models")
    expect(state(models, LISTED)).to_contain_text("loaded")
    press(models, "Unload", LISTED)
    expect(state(models, LISTED)).not_to_contain_text("loaded")
    press(models, "Remove", LISTED)
    expect(state(models, LISTED)).to_have_text("not downloaded")
    assert not hub_cache.folder(LISTED).exists()
    open_tab(models, "Explain")
    expect(models.locator("#model input")).to_have_value("ViT (vit-mini)")
    assert LISTED not in offered(models, "model")
    open_tab(models, "Compare")
    expect(models.locator("#models .token")).to_have_count(COUNT)
    assert LISTED not in offered(models, "models")


@pytest.mark.thorough
def test_what_cannot_be_fetched_says_why_in_its_place_until_it_is_dismissed(models: Page) -> None:
    press(models, "Download", GATED)
    expect(state(models, GATED)).to_contain_text("is gated or private. Accept the licence at https://huggingface.co/")
    press(models, "Download", ABSENT)
    expect(state(models, ABSENT)).to_contain_text(f"There is no model {ABSENT} on the Hub, or it is private")
    add(models, "tiny/swin")
    expect(state(models, "tiny/swin")).to_contain_text("it attends within windows")
    assert row(models, "tiny/swin").get_by_role("button").all_inner_texts() == ["Try again", "Dismiss"]
    for name in (GATED, ABSENT, "tiny/swin"):
        press(models, "Dismiss", name)
    expect(state(models, GATED)).to_contain_text("Accept the licence")
    expect(state(models, ABSENT)).to_have_text("not downloaded")
    expect(row(models, "tiny/swin")).to_have_count(0)
    expect(models.get_by_text("Requests")).to_have_count(0)


@pytest.mark.thorough
def test_a_model_of_the_hub_and_a_folder_are_added_by_name(models: Page, tiny_folder: Callable[[str], Path]) -> None:
    try:
        add(models, "tiny/one")
        expect(state(models, "tiny/one")).to_contain_text("on this machine")
        add(models, str(tiny_folder("beit")))
        expect(models.locator("#model-list .vd-message")).to_have_text("tiny-beit is added until the app ends.")
        expect(state(models, "tiny-beit")).to_contain_text("a local folder")
        message = models.locator("#model-list .vd-message")
        add(models, "<b>no such</b>")
        expect(message).to_contain_text("'<b>no such</b>' is neither organisation/model on the Hub nor")
        assert models.locator(".toast-body").count() == 0
        add(models, "https://huggingface.co/tiny/two/tree/main")
        expect(state(models, "tiny/two")).to_contain_text("on this machine")
        expect(message).to_have_text("")
        open_tab(models, "Explain")
        assert {"tiny/one", "tiny-beit"} <= set(offered(models, "model"))
        open_tab(models, "Models")
        press(models, "Remove", "tiny-beit")
        expect(row(models, "tiny-beit")).to_have_count(0)
    finally:
        forget_folder("tiny-beit")


@pytest.mark.thorough
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_what_failed_for_one_visitor_is_readable_and_on_no_other_page(
    browser: Browser, app: App, hub: FakeHub, scheme: str
) -> None:
    with opened(browser, color_scheme=scheme) as context, opened(browser) as elsewhere:
        watched, other = (Watched(one.new_page(), app).open() for one in (context, elsewhere))
        for page in (watched.page, other.page):
            open_tab(page, "Models")
        press(watched.page, "Download", ABSENT)
        expect(state(watched.page, ABSENT)).to_contain_text("There is no model")
        assert contrast(state(watched.page, ABSENT)) >= 4.5
        open_tab(other.page, "Live")
        open_tab(other.page, "Models")
        other.settle()
        expect(state(other.page, ABSENT)).to_have_text("not downloaded")
        press(watched.page, "Dismiss", ABSENT)
        expect(state(watched.page, ABSENT)).to_have_text("not downloaded")


@pytest.mark.thorough
def test_a_running_download_is_seen_after_a_reload_and_on_another_page(
    models: Page, watched: Watched, hub: FakeHub
) -> None:
    hub.fault("tiny/one", WEIGHTS, bytes_per_second=2_000)
    add(models, "tiny/one")
    expect(row(models, "tiny/one").get_by_role("progressbar")).to_be_visible()
    # Neither is waited for until it is settled: it asks as long as the download runs. What a reload cuts off is no fault.
    models.reload()
    watched.complaints.clear()
    other = models.context.new_page()
    other.goto(watched.app.url)
    for page in (models, other):
        page.wait_for_function("window.vitdemoOpened")
        open_tab(page, "Models")
        expect(row(page, "tiny/one").get_by_role("progressbar")).to_be_visible()
    press(other, "Cancel", "tiny/one")
    for page in (models, other):
        expect(state(page, "tiny/one")).to_contain_text("stopped")
    press(models, "Dismiss", "tiny/one")
    expect(row(models, "tiny/one")).to_have_count(0)


@pytest.mark.thorough
def test_a_choice_made_while_a_model_is_fetched_outlasts_its_arrival(models: Page, hub: FakeHub) -> None:
    slow = hub.fault("tiny/one", WEIGHTS, bytes_per_second=12_000)
    add(models, "tiny/one")
    expect(row(models, "tiny/one").get_by_role("progressbar")).to_be_visible()
    open_tab(models, "Compare")
    wait_for_new_result(models, lambda: models.locator("#models .token-remove").first.click())
    hub.faults.remove(slow)
    hub.down()
    hub.up()
    expect(models.locator("#models .token")).to_have_count(COUNT - 1)
    open_tab(models, "Models")
    expect(state(models, "tiny/one")).to_contain_text("on this machine")
    open_tab(models, "Compare")
    assert "tiny/one" in offered(models, "models")
    expect(models.locator("#models .token")).to_have_count(COUNT - 1)


@pytest.mark.thorough
def test_the_list_is_worked_with_the_keyboard_and_keeps_the_focus(models: Page, hub: FakeHub) -> None:
    hub.fault(LISTED, WEIGHTS, bytes_per_second=12_000)
    row(models, LISTED).get_by_role("link").focus()
    models.keyboard.press("Tab")
    assert focused(models) == f"Download {LISTED}"
    models.keyboard.press("Enter")
    bar = row(models, LISTED).get_by_role("progressbar")
    expect(bar).to_be_visible()
    assert focused(models) == f"Cancel {LISTED}"
    # A mouse button that goes down before the list is told something new, and up after it, is a click all the same.
    cancel = row(models, LISTED).get_by_role("button").element_handle()
    models.keyboard.press("Shift+Tab")
    before = bar.get_attribute("value")
    expect(bar).not_to_have_attribute("value", before or "")
    assert models.evaluate("document.activeElement.textContent") == LISTED
    assert cancel
    assert cancel.evaluate("(button) => button.isConnected")
    models.keyboard.press("Tab")
    models.keyboard.press("Space")
    expect(state(models, LISTED)).to_contain_text("stopped")
    assert focused(models) == f"Try again {LISTED}"
    models.keyboard.press("Tab")
    models.keyboard.press("Enter")
    expect(state(models, LISTED)).to_have_text("not downloaded")
    assert focused(models) == f"Download {LISTED}"


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.getAttribute('aria-label')"))


@pytest.mark.thorough
def test_on_a_phone_nothing_of_the_list_is_wider_than_the_page(browser: Browser, app: App, hub: FakeHub) -> None:
    download(MAE)
    hub.fault(LISTED, WEIGHTS, bytes_per_second=12_000)
    with opened(browser, 390, 844, has_touch=True) as context:
        watched = Watched(context.new_page(), app).open()
        page = watched.page
        open_tab(page, "Models")
        press(page, "Download", GATED)
        press(page, "Download", LISTED)
        expect(row(page, LISTED).get_by_role("progressbar")).to_be_visible()
        expect(state(page, GATED)).to_contain_text("gated or private")
        assert too_wide(page, "#model-list *, #add-model *") == []
        press(page, "Cancel", LISTED)
        press(page, "Dismiss", GATED)
        open_tab(page, "Explain")
        choose(page, "model", MAE)
        expect(page.locator("#rebuilt img")).to_have_count(3)
        assert too_wide(page, "#masked *") == []
        assert watched.complaints == []


def rebuilt(page: Page) -> list[str]:
    found: list[str] = page.locator("#rebuilt img").evaluate_all("(all) => all.map((one) => one.src)")
    return found


@pytest.mark.thorough
def test_a_masked_autoencoder_fills_in_what_is_hidden_from_it(watched: Watched) -> None:
    download(MAE)
    page = watched.page
    watched.reload()
    open_tab(page, "Explain")
    expect(page.locator("#masked")).to_be_hidden()
    wait_for_new_result(page, lambda: choose(page, "model", MAE), "explained")
    expect(page.locator("#rebuilt img")).to_have_count(3)
    expect(page.locator("#rebuilt figcaption").nth(1)).to_have_text("Visible: 4 of 16 patches")
    expect(page.locator("#explained .vd-none")).to_have_text("No classifier: self-supervised")
    first = rebuilt(page)
    assert len(set(first)) == 3

    page.get_by_role("button", name="New random mask").click()
    expect(page.locator("#rebuilt img").nth(1)).not_to_have_attribute("src", first[1])
    assert rebuilt(page)[0] == first[0]
    slider = page.locator("#masked input[type=range]")
    slider.focus()
    slider.press("Home")
    slider.dispatch_event("pointerup")
    expect(page.locator("#rebuilt figcaption").nth(1)).to_have_text("Visible: 14 of 16 patches")

    wait_for_new_result(page, lambda: choose(page, "model", "vit-mini"), "explained")
    expect(page.locator("#masked")).to_be_hidden()


@pytest.mark.thorough
def test_eight_models_stand_in_rows_of_at_most_six_whatever_they_lack(watched: Watched) -> None:
    page = watched.page
    for name in (CNN, DINO, MAE):
        download(name)
    watched.reload()
    for name in (CNN, DINO, MAE):
        wait_for_new_result(page, lambda name=name: choose(page, "models", name))  # type: ignore[misc]
    panels = page.locator("#compared .vd-panel")
    expect(panels).to_have_count(8)
    tops = page.locator("#compared .vd-picture").evaluate_all(
        "(all) => all.map((one) => one.getBoundingClientRect().top)"
    )
    assert [tops.count(top) for top in dict.fromkeys(tops)] == [4, 4]

    def panel(name: str) -> Locator:
        return page.locator(f'#compared .vd-panel[aria-label="{name}"]')

    expect(panel(CNN).locator(".vd-text")).to_have_text("no attention: a convolutional network")
    assert panel(CNN).locator(".vd-labels li").count() == 3
    for name in (DINO, MAE):
        expect(panel(name).locator(".vd-none")).to_have_text("No classifier: self-supervised")
        assert panel(name).locator(".vd-labels").count() == 0
        expect(panel(name).locator(".vd-text")).to_contain_text("of attention on")
    expect(panel("dino-mini").locator(".vd-facts")).to_contain_text("the labels are a linear probe's")
    assert get_spec(DINO).num_classes == 0


@pytest.mark.thorough
def test_where_models_may_not_be_added_there_is_no_box_and_no_button(
    browser: Browser, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VITDEMO_ADD_MODELS", "none")
    monkeypatch.setenv("VITDEMO_MODELS", "vit-mini")
    with serving(tmp_path) as closed, opened(browser) as context:
        watched = Watched(context.new_page(), closed).open()
        open_tab(watched.page, "Models")
        expect(row(watched.page, LISTED)).to_be_visible()
        assert watched.page.locator("#add-model").count() == 0
        assert set(watched.page.locator("#model-list button").all_inner_texts()) <= {"Unload"}
        assert watched.complaints == []
    assert hub.requests == []


@pytest.mark.thorough
def test_a_model_is_fetched_from_where_models_are_chosen_and_joins_them(watched: Watched, hub: FakeHub) -> None:
    page, slow = watched.page, hub.fault(LISTED, WEIGHTS, bytes_per_second=15_000)
    more = page.locator(".vd-more:visible")
    more.click()
    dialog = page.get_by_role("dialog", name="Get more models")
    dialog.get_by_role("searchbox").fill("deit-tiny-patch")
    assert dialog.locator("li").count() == 1
    dialog.get_by_role("button", name=LISTED).first.click()  # "Download", or "Try again" after another test
    expect(dialog.get_by_role("progressbar")).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(more).to_have_text(re.compile(r"\d+%…"))
    hub.faults.remove(slow)
    expect(page.locator(f'#compared .vd-panel[aria-label="{LISTED}"]')).to_be_visible(timeout=30_000)
    expect(more).to_have_text("+ More")


def test_a_name_that_is_in_no_list_is_offered_and_what_fails_is_said_in_the_dialog(
    watched: Watched, hub: FakeHub
) -> None:
    page = watched.page
    page.get_by_role("button", name="Get full-size models").first.click()
    dialog = page.get_by_role("dialog", name="Get more models")
    dialog.get_by_role("searchbox").fill("no such model")
    expect(dialog).to_contain_text("No model has this name.")
    dialog.get_by_role("searchbox").fill("tiny/nobody")
    dialog.get_by_role("button", name="Download tiny/nobody").click()
    expect(dialog.locator(".vd-failed")).to_contain_text("tiny/nobody")
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()
