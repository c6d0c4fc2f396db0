"""What the Models tab is given to show, who may change it, and the downloads behind it: without a browser."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from tests.fakehub import FakeHub
from vitdemo.errors import SettingsError
from vitdemo.pipeline import Pipeline
from vitdemo.registry import FAMILIES, OFFICIAL, available_models, forget_folder, ready_models
from vitdemo.registry.hub_cache import folder
from vitdemo.settings import Settings
from vitdemo.ui import downloads as downloads_module
from vitdemo.ui.components.model_list import model_list_value
from vitdemo.ui.downloads import Downloads
from vitdemo.ui.inside import InsideTab
from vitdemo.ui.models import ModelsTab, policy_of
from vitdemo.ui.picker import ModelPicker
from vitdemo.ui.segment import SegmentTab
from vitdemo.ui.state import COMPARE, EXPLAIN, SEGMENT, PageState

LISTED, GATED = "facebook/deit-tiny-patch16-224", "facebook/dinov3-vits16-pretrain-lvd1689m"
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folder: Callable[[str], Path]) -> Iterator[FakeHub]:
    """A fake Hub with one model of the table and four others, and a cache that holds nothing."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("SPACE_ID", raising=False)
    with FakeHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        hub.add(LISTED, tiny_folder("vit"))
        hub.add(GATED, tiny_folder("dinov3"), gated=True)
        for name in ("one", "two", "three"):
            hub.add(f"tiny/{name}", tiny_folder("vit"))
        yield hub


def wait_until(true: Callable[[], object]) -> None:
    until = time.monotonic() + 15
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def state(downloads: Downloads, name: str) -> str:
    return str(downloads.states()[name]["state"])


# The list


def test_every_model_of_the_table_is_listed_under_its_family_with_what_it_is(hub: FakeHub) -> None:
    value = model_list_value({}, {}, "any")
    entries = {entry["name"]: entry for entry in value["models"]}
    assert entries.keys() >= OFFICIAL.keys()
    assert value["families"] == [family for family in FAMILIES if family not in ("MSN", "I-JEPA")]
    for spec in OFFICIAL.values():
        entry = entries[spec.name]
        assert (entry["family"], entry["license"], entry["bytes"]) == (spec.family, spec.license, spec.bytes)
        assert (entry["ready"], entry["revision"], entry["link"]) == (False, "", f"https://huggingface.co/{spec.name}")
        assert bool(entry["gated"]) == ("dinov3" in spec.name)
    assert entries["microsoft/resnet-50"]["grid"] is None
    assert entries["dino-mini"]["probe"]
    assert not entries["vit-mini"]["probe"]


def test_a_loaded_model_says_how_much_memory_it_has() -> None:
    spec = ready_models()[0]
    entries = {entry["name"]: entry for entry in model_list_value({spec.checkpoint: 1234}, {}, "any")["models"]}
    assert {name for name, entry in entries.items() if entry["memory"]} == {spec.name}
    assert entries[spec.name]["memory"] == 1234


def test_a_model_that_is_not_known_yet_stands_above_the_families_until_its_download_is_done(hub: FakeHub) -> None:
    job = {"state": "running"}
    value = model_list_value({}, {"tiny/one": job, LISTED: job}, "any")
    assert value["families"][0] == "Requests"
    assert value["models"][0] == {"name": "tiny/one", "family": "Requests", "job": job}
    assert next(entry for entry in value["models"] if entry["name"] == LISTED)["job"] == job
    done = model_list_value({}, {"tiny/one": {"state": "done"}, LISTED: {"state": "done"}}, "any")
    assert "Requests" not in done["families"]
    assert all(entry["job"] is None for entry in done["models"])


# Downloads


def test_two_who_ask_for_a_model_get_one_download(hub: FakeHub) -> None:
    hub.fault("tiny/one", WEIGHTS, bytes_per_second=200_000)
    downloads = Downloads()
    for _ in range(2):
        downloads.start("tiny/one")
    wait_until(lambda: not downloads.active)
    assert downloads.states().keys() == {"tiny/one"}
    assert hub.bytes_sent(WEIGHTS) == len(hub.repos["tiny/one"].revisions["main"][1][WEIGHTS].data)
    assert "tiny/one" in [spec.name for spec in ready_models()]


@pytest.mark.thorough
def test_two_models_come_at_once_and_the_third_waits(hub: FakeHub) -> None:
    slow = hub.fault(None, WEIGHTS, bytes_per_second=20_000)
    downloads = Downloads()
    for name in ("tiny/one", "tiny/two", "tiny/three"):
        downloads.start(name)
    wait_until(lambda: hub.bytes_sent(WEIGHTS))
    assert [state(downloads, f"tiny/{name}") for name in ("one", "two", "three")] == ["running", "running", "waiting"]
    assert not [request for request in hub.requests if "tiny/three" in request.path]
    hub.faults.remove(slow)
    downloads.cancel("tiny/one")
    wait_until(lambda: not downloads.active)
    assert [state(downloads, f"tiny/{name}") for name in ("one", "two", "three")] == ["cancelled", "done", "done"]


def test_a_download_that_waits_is_cancelled_at_once_and_asks_nothing(hub: FakeHub) -> None:
    hub.fault(None, WEIGHTS, bytes_per_second=20_000)
    downloads = Downloads()
    for name in ("tiny/one", "tiny/two", "tiny/three"):
        downloads.start(name)
    downloads.cancel("tiny/three")
    assert state(downloads, "tiny/three") == "cancelled"
    for name in ("tiny/one", "tiny/two"):
        downloads.cancel(name)
    wait_until(lambda: not downloads.active)
    assert not [request for request in hub.requests if "tiny/three" in request.path]


def test_progress_is_told_in_bytes_speed_and_seconds(hub: FakeHub) -> None:
    hub.fault("tiny/one", WEIGHTS, bytes_per_second=40_000)
    downloads = Downloads()
    downloads.start("tiny/one")
    wait_until(lambda: downloads.states()["tiny/one"]["done"])
    job = downloads.states()["tiny/one"]
    downloads.cancel("tiny/one")
    assert 0 < job["done"] < job["total"] == len(hub.repos["tiny/one"].revisions["main"][1][WEIGHTS].data)
    assert job["remaining"] == pytest.approx((job["total"] - job["done"]) / job["speed"])
    wait_until(lambda: not downloads.active)


def test_a_failure_keeps_its_words_until_it_is_dismissed_or_tried_again(hub: FakeHub) -> None:
    downloads = Downloads()
    downloads.start(GATED)
    downloads.start("tiny/nothing")
    wait_until(lambda: not downloads.active)
    assert {name: job["state"] for name, job in downloads.states().items()} == {
        GATED: "failed",
        "tiny/nothing": "failed",
    }
    assert "is gated or private. Accept the licence at https://huggingface.co/" in downloads.states()[GATED]["error"]
    assert "There is no model tiny/nothing on the Hub" in downloads.states()["tiny/nothing"]["error"]
    downloads.forget(GATED)
    hub.add("tiny/nothing", folder_of(hub, "tiny/one"))
    downloads.start("tiny/nothing")
    wait_until(lambda: not downloads.active)
    assert {name: (job["state"], job["error"]) for name, job in downloads.states().items()} == {
        "tiny/nothing": ("done", "")
    }


def folder_of(hub: FakeHub, name: str) -> Path:
    from vitdemo.registry import download

    return Path(download(name).checkpoint)


def test_what_is_under_way_cannot_be_dismissed(hub: FakeHub) -> None:
    hub.fault("tiny/one", WEIGHTS, bytes_per_second=20_000)
    downloads = Downloads()
    downloads.start("tiny/one")
    downloads.forget("tiny/one")
    assert downloads.active
    downloads.cancel("tiny/one")
    wait_until(lambda: not downloads.active)
    downloads.forget("tiny/one")
    assert downloads.states() == {}


def test_what_nobody_expected_is_logged_and_worded_and_the_next_one_starts(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(name: str, *_: object) -> None:
        raise ZeroDivisionError(name)

    monkeypatch.setattr(downloads_module, "download", broken)
    downloads = Downloads()
    with caplog.at_level(logging.ERROR):
        for name in ("tiny/one", "tiny/two", "tiny/three"):
            downloads.start(name)
        wait_until(lambda: not downloads.active)
    assert {job["error"] for job in downloads.states().values()} == {
        "Something went wrong on the server. It was logged; please try again."
    }
    assert caplog.text.count("ZeroDivisionError") >= 3


def test_the_app_ends_without_waiting_for_its_downloads(hub: FakeHub) -> None:
    hub.fault("tiny/one", WEIGHTS, stall_after=1000)
    downloads = Downloads()
    before = set(threading.enumerate())
    downloads.start("tiny/one")
    assert all(thread.daemon for thread in set(threading.enumerate()) - before)
    downloads.cancel("tiny/one")


# Who may do what


@pytest.mark.parametrize(
    ("setting", "space", "policy"),
    [
        ("", "", "any"),
        ("", "me/space", "listed"),
        ("any", "me/space", "any"),
        ("none", "", "none"),
        ("listed", "", "listed"),
    ],
)
def test_a_space_offers_the_table_only_unless_the_setting_says_otherwise(
    setting: str, space: str, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPACE_ID", space)
    assert policy_of(Settings(add_models=setting)) == policy


def test_another_value_of_the_setting_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(SettingsError, match=r"VITDEMO_ADD_MODELS='all' cannot be used: one of any, listed, none"):
        policy_of(Settings(add_models="all"))


def tab(policy: str) -> ModelsTab:
    with gr.Blocks():
        return ModelsTab(
            Pipeline(Settings(device="cpu", add_models=policy)), gr.Dropdown(multiselect=True), gr.Dropdown()
        )


def act(tab: ModelsTab, action: str, name: str) -> dict[str, Any]:
    """The list at the end of what an event of the page does, forged or not."""
    event = gr.EventData(None, {"action": action, "name": name})
    value: dict[str, Any] = list(tab.on_action(["vit-mini"], "vit-mini", event))[-1][tab.list]
    return value


def add(tab: ModelsTab, name: str) -> dict[str, Any]:
    value: dict[str, Any] = list(tab.on_add(name, ["vit-mini"], "vit-mini"))[-1][tab.list]
    return value


@pytest.mark.thorough
@pytest.mark.parametrize("policy", ["listed", "none"])
def test_a_forged_event_neither_fetches_adds_nor_removes(
    policy: str, hub: FakeHub, tiny_folder: Callable[[str], Path]
) -> None:
    closed = tab(policy)
    assert not closed.box.visible
    kept = folder_of(hub, "tiny/one")
    asked = len(hub.requests)
    for name in ("tiny/two", str(tiny_folder("vit")), f"{LISTED}@main", *([LISTED] if policy == "none" else [])):
        before = available_models()
        act(closed, "download", name)
        assert add(closed, name)["message"] == "This server does not add models."
        assert available_models() == before
    act(closed, "remove", "tiny/one")
    act(closed, "remove", "vit-mini")
    assert (kept / WEIGHTS).exists()
    assert len(hub.requests) == asked
    assert closed.downloads.states() == {}


def test_where_the_table_is_offered_its_models_are_fetched(hub: FakeHub) -> None:
    listed = tab("listed")
    act(listed, "download", LISTED)
    assert LISTED in [spec.name for spec in ready_models()]


def test_an_event_of_no_known_kind_changes_nothing(hub: FakeHub) -> None:
    anything, before = tab("any"), available_models()
    act(anything, "explode", LISTED)
    act(anything, "remove", "../../etc")
    act(anything, "cancel", "tiny/one")
    act(anything, "dismiss", "tiny/one")
    assert available_models() == before
    assert hub.requests == []


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("", "Type the name of a model."),
        ("vit-mini", "vit-mini is here already."),
        ("tiny/one@v1", "This list has one revision of a model. Others run on the command line: --model tiny/one@v1"),
    ],
)
def test_what_cannot_be_added_is_answered_in_the_list(typed: str, words: str, hub: FakeHub) -> None:
    assert add(tab("any"), f" {typed} ")["message"] == words
    assert hub.requests == []


@pytest.mark.thorough
@pytest.mark.parametrize(
    "typed", ["nonsense", "/nowhere/at/all", "~nobody/model", "a/b/c", "a" * 5000, "nul\0", "../.."]
)
def test_what_is_neither_on_the_hub_nor_a_folder_is_refused_in_words(typed: str, hub: FakeHub) -> None:
    assert "neither organisation/model on the Hub nor a folder" in add(tab("any"), typed)["message"]
    assert hub.requests == []


@pytest.mark.thorough
def test_a_folder_is_added_until_it_is_removed_and_its_files_stay(tiny_folder: Callable[[str], Path]) -> None:
    anything = tab("any")
    try:
        value = add(anything, str(tiny_folder("vit")))
        assert value["message"] == "tiny-vit is added until the app ends."
        entry = next(entry for entry in value["models"] if entry["name"] == "tiny-vit")
        assert (entry["source"], entry["ready"], entry["link"]) == ("local", True, "")
        assert "tiny-vit" not in [entry["name"] for entry in act(anything, "remove", "tiny-vit")["models"]]
        assert (tiny_folder("vit") / WEIGHTS).exists()
    finally:
        forget_folder("tiny-vit")


@pytest.mark.thorough
def test_removing_a_model_of_the_hub_frees_its_disk_and_takes_it_out_of_every_choice(hub: FakeHub) -> None:
    folder_of(hub, "tiny/one")
    anything = tab("any")
    event = gr.EventData(None, {"action": "remove", "name": "tiny/one"})
    (updates,) = anything.on_action(["tiny/one", "vit-mini"], "tiny/one", event)
    compared, explained = updates[anything.compared], updates[anything.explained]
    assert not folder("tiny/one").exists()
    assert compared["value"] == ["vit-mini"]
    assert explained["value"] == "vit-mini"
    assert "tiny/one" not in [name for _, name in explained["choices"]]


@pytest.mark.thorough
def test_a_finished_download_is_offered_and_leaves_what_was_chosen_meanwhile(hub: FakeHub) -> None:
    hub.fault("tiny/one", WEIGHTS, bytes_per_second=100_000)
    anything = tab("any")
    updates = list(anything.on_add("tiny/one", ["vit-mini"], "vit-mini"))
    assert len(updates) > 2
    lists = (anything.compared, anything.explained)
    first, last = ([one[dropdown] for dropdown in lists] for one in (updates[0], updates[-1]))
    assert all("tiny/one" not in [name for _, name in update["choices"]] for update in first)
    assert all("tiny/one" in [name for _, name in update["choices"]] for update in last)
    assert not [update for update in (*first, *last) if "value" in update]


@pytest.mark.thorough
def test_what_was_said_stays_while_downloads_go_on(hub: FakeHub) -> None:
    hub.fault("tiny/one", WEIGHTS, bytes_per_second=100_000)
    anything = tab("any")
    anything.downloads.start("tiny/one")
    messages = [updates[anything.list]["message"] for updates in anything.on_add("vit-mini", ["vit-mini"], "vit-mini")]
    assert messages[0] == "vit-mini is here already."
    assert len(messages) > 1
    assert set(messages[1:]) == {None}


def test_the_address_of_a_models_page_names_the_model(hub: FakeHub) -> None:
    anything = tab("any")
    add(anything, "https://huggingface.co/tiny/one/tree/main")
    wait_until(lambda: not anything.downloads.active)
    assert "tiny/one" in [spec.name for spec in ready_models()]


def test_a_failure_is_told_to_those_alone_who_asked(hub: FakeHub) -> None:
    downloads = Downloads()
    downloads.start("tiny/nothing", "first")
    wait_until(lambda: not downloads.active)
    assert "There is no model" in downloads.states("first")["tiny/nothing"]["error"]
    assert downloads.states("second") == {}


# The dialog beside the lists of models


def pick(models: ModelsTab, action: str, name: str, state: PageState, chosen: list[str]) -> dict[Any, Any]:
    """What the lists get at the end of what a button of the dialog starts, where others are chosen by then."""
    with gr.Blocks():
        kept = gr.State(state)
        segmented = SegmentTab(Pipeline(), "dino-mini", kept)
        picker = ModelPicker(
            models, models.compared, models.explained, segmented, InsideTab(Pipeline(), "vit-mini", kept), kept
        )
    list(picker.on_action(state, gr.EventData(None, {"action": action, "name": name})))
    return picker.on_end({picker.state: state, picker.compared: chosen})


@pytest.mark.thorough
def test_a_model_that_has_arrived_joins_the_tab_that_asked_for_it(hub: FakeHub) -> None:
    models = tab("any")
    found = pick(
        models, "download", "https://huggingface.co/tiny/one", PageState(tab=COMPARE), ["vit-mini", "beit-mini"]
    )
    assert found[models.compared]["value"] == ["vit-mini", "beit-mini", "tiny/one"]
    assert "value" not in found[models.explained]
    found = pick(models, "download", LISTED, state := PageState(tab=EXPLAIN), ["vit-mini"])
    assert found[models.explained]["value"] == LISTED
    assert "value" not in found[models.compared]
    assert (LISTED in [name for _, name in found[models.compared]["choices"]], state.wanted) == (True, {})
    found = pick(models, "download", "tiny/two", PageState(tab=SEGMENT), ["vit-mini"])
    (segmented,) = [value for value in found.values() if "chosen" in value]
    assert segmented["chosen"] == "tiny/two"
    assert "tiny/two" in [model["name"] for model in segmented["models"]]
    assert "value" not in found[models.explained] | found[models.compared]


@pytest.mark.thorough
def test_a_model_that_cannot_be_fetched_joins_nothing(hub: FakeHub) -> None:
    models = tab("listed")
    for name in ("tiny/one", GATED):
        found = pick(models, "download", name, state := PageState(), ["vit-mini"])
        assert (models.compared in found, state.wanted) == (False, {})
    assert "licence" in models.downloads.states()[GATED]["error"]


@pytest.mark.thorough
def test_a_click_on_cancel_does_not_wait_and_leaves_what_is_wanted_alone(hub: FakeHub) -> None:
    hub.fault(LISTED, WEIGHTS, bytes_per_second=20_000)
    models, state = tab("any"), PageState(wanted={LISTED: COMPARE})
    models.downloads.start(LISTED)
    wait_until(lambda: hub.bytes_sent(WEIGHTS))
    pick(models, "dismiss", "tiny/two", state, [])
    assert state.wanted == {LISTED: COMPARE}
    pick(models, "cancel", LISTED, state, [])
    wait_until(lambda: not models.downloads.active)
