"""What a page sends is not to be believed."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from vitdemo.ui.given import number_of


@pytest.mark.parametrize(
    ("given", "number"), [(3, 3), (2.5, 2.5), ("3", None), ({"path": "/etc/passwd"}, None), (None, None)]
)
def test_only_a_number_comes_back_as_it_came(given: Any, number: float | None) -> None:
    assert number_of(gr.EventData(None, {"number": given})) == number


def test_an_event_without_a_number_has_none() -> None:
    assert number_of(gr.EventData(None, {})) is None
