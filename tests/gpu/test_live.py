"""Frames of a camera are answered on the device, in their order, by every model that the page offers first."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from scripts.gpu.rig import Rig
from scripts.gpu.serving import camera
from tests.gpu.conftest import Keep


def test_a_frame_is_answered_on_the_device_by_every_model(rig: Rig, keep: Keep) -> None:
    gr = pytest.importorskip("gradio", reason="Live is part of the page, which needs gradio")
    from vitdemo.ui.live import LiveTab

    frames = camera(3)
    for spec in rig.models():
        with gr.Blocks():
            tab = LiveTab(rig.pipeline, spec.name)
        for number, image in enumerate(frames):
            answer = tab.on_frame(spec.name, SimpleNamespace(image=image, number=number))
            assert "error" not in answer, answer
            assert answer["number"] == number
            assert answer["device"].startswith(rig.device.type)
            assert answer["dtype"] == rig.half
            assert answer["labels"]
            assert answer["notes"] == []
        keep(**{spec.name: {"served ms": answer["served"], "model ms": answer["ms"]}})
