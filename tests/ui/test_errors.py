"""Values that no handler ever sees, because a component cannot take them: they are answered in words, too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest

from tests.hostile import encode, photo
from vitdemo.ui.components.photo import PhotoInput
from vitdemo.ui.errors import Page


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        with Page(analytics_enabled=False) as page:
            inputs = [PhotoInput(), gr.Number(precision=0), gr.Textbox()]
            gr.Button().click(lambda *_: "fine", inputs, gr.Textbox(), api_name="ask")
            gr.Button().click(lambda _: "fine", gr.Dropdown(["a"]), gr.Textbox(), api_name="choose")
            gr.Button().click(raising, gr.Textbox(), gr.Textbox(), api_name="raise")
            gr.Button().click(lambda text: [text], gr.Textbox(), gr.Number(precision=0), api_name="wrong")
        _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, show_error=False, server_name="127.0.0.1")
        yield url
        page.close(verbose=False)


def raising(text: str) -> str:
    raise gr.Error(text, print_exception=False)


def ask(url: str, *values: Any, endpoint: str = "ask") -> str:
    event = httpx.post(f"{url}gradio_api/call/{endpoint}", json={"data": list(values)}).json()["event_id"]
    return httpx.get(f"{url}gradio_api/call/{endpoint}/{event}", timeout=30).text


def file(path: str) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def uploaded(url: str) -> str:
    return str(httpx.post(f"{url}gradio_api/upload", files={"files": ("a.png", encode(photo(), "PNG"))}).json()[0])


def test_an_uploaded_photo_is_taken(url: str) -> None:
    assert "fine" in ask(url, file(uploaded(url)), 1, "a")


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "relative.png", "", __file__], ids=["foreign", "relative", "empty", "ours"]
)
def test_a_file_that_was_not_uploaded_is_refused_in_words(url: str, path: str) -> None:
    answer = ask(url, file(path), 1, "a")
    assert "was not uploaded to this server" in answer
    assert "Cannot move" not in answer


def test_an_upload_that_is_gone_is_asked_for_again(url: str) -> None:
    path = uploaded(url)
    Path(path).unlink()
    assert "Choose it again" in ask(url, file(path), 1, "a")


def test_a_folder_is_no_photo_and_does_not_end_the_deleting_of_others(url: str) -> None:
    folder = Path(uploaded(url)).parent.parent
    assert "Choose it again" in ask(url, file(str(folder)), 1, "a")
    from gradio.blocks import Block
    from gradio.context import Context

    blocks: list[Block] = list(Context.root_block.blocks.values()) if Context.root_block else []
    assert all(str(folder) not in block.temp_files for block in blocks)


@pytest.mark.parametrize("number", ["many", [1], {"a": 1}], ids=["text", "list", "object"])
def test_a_value_of_the_wrong_form_is_answered_in_words(url: str, number: Any) -> None:
    answer = ask(url, None, number, "a")
    assert "not of the form" in answer
    assert "null" not in answer


def test_values_that_are_left_away_at_the_end_are_those_of_the_components(url: str) -> None:
    assert "fine" in ask(url, None)
    assert "fine" in ask(url)


FORM = "<form action='https://evil.example'><img src='https://evil.example/a.png'></form>"


@pytest.mark.parametrize("endpoint", ["choose", "raise"])
def test_errors_of_gradio_hold_no_html_of_others(url: str, endpoint: str) -> None:
    answer = ask(url, FORM, endpoint=endpoint)
    assert "&lt;form action=" in answer
    assert "<" not in answer


def test_an_answer_that_a_component_cannot_show_is_worded_and_not_repeated(url: str) -> None:
    answer = ask(url, FORM, endpoint="wrong")
    assert "Something went wrong on the server" in answer
    assert "form" not in answer
