"""The page and its endpoints on a GPU that is lent for each call: what a visitor is given, refused and offered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import torch
from gradio_client import Client, handle_file

from tests.fakespaces import Spaces, standing_in
from vitdemo.engine.zerogpu import ZeroGPUBackend
from vitdemo.errors import NotDownloadedError
from vitdemo.evaluation.faithfulness import faithfulness
from vitdemo.options.explain import ExplainRequest
from vitdemo.options.segment import SegmentRequest
from vitdemo.pipeline import Pipeline
from vitdemo.pipeline.batch import compare_many
from vitdemo.registry import embedded_models, get_spec
from vitdemo.settings import ASSETS, Settings
from vitdemo.types import Photo
from vitdemo.ui.app import build, launch_options
from vitdemo.ui.models import policy_of
from vitdemo.ui.segment_settings import read_settings
from vitdemo.ui.segment_views import Segmenter

CUP = ASSETS / "examples" / "cup.jpg"
THREE = ["vit-mini", "beit-mini", "cnn-mini"]


@dataclass
class Space:
    """The running page."""

    spaces: Spaces
    pipeline: Pipeline
    client: Client
    config: str

    def calls(self) -> int:
        return len(self.spaces.durations)


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    with pytest.MonkeyPatch.context() as patch, standing_in(patch) as spaces:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        settings = Settings(dtype="fp32")
        pipeline = Pipeline(settings, ZeroGPUBackend(settings, embedded_models(), device=torch.device("cpu")))
        page = build(pipeline)
        assert spaces.durations == [], "the page opened with a call of the GPU, which nobody's quota pays for"
        _, url, _ = page.launch(
            **launch_options(pipeline), prevent_thread_lock=True, quiet=True, server_name="127.0.0.1"
        )
        client = Client(url, verbose=False)
        yield Space(spaces, pipeline, client, str(page.get_config_file()))
        client.close()
        page.close()


@pytest.fixture(autouse=True)
def fresh(space: Space) -> None:
    space.spaces.refuse = None
    space.spaces.durations.clear()
    space.spaces.outside.clear()
    # As if for a visitor who has chosen nothing.
    space.client.predict("GPU", api_name="/run_on")


@pytest.fixture
def on_gpu(space: Space, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """The pipeline as a visitor's handler has it."""
    monkeypatch.setattr(space.pipeline.backend, "on_cpu", lambda: False)
    return Pipeline(space.pipeline.settings, space.pipeline.backend)


@pytest.mark.thorough
def test_a_comparison_is_one_call_and_no_model_runs_outside_of_it(space: Space) -> None:
    entry, _ = space.client.predict(handle_file(CUP), models=THREE, api_name="/compare")
    assert [one["model"] for one in entry["results"]] == THREE
    assert (space.calls(), space.spaces.outside) == (1, [])


def test_labels_of_several_models_are_one_call(space: Space) -> None:
    (found,) = space.client.predict(handle_file(CUP), models=THREE, api_name="/classify")
    assert len(found["results"]) == 3
    assert (space.calls(), space.spaces.outside) == (1, [])


@pytest.mark.thorough
def test_without_quota_words_offer_the_cpu_which_then_answers(space: Space) -> None:
    text = "You have exceeded your free ZeroGPU quota (7s requested vs. 0s left). Try again in 4:00:00. "
    space.spaces.refuse = gr.Error(text, title="ZeroGPU quota exceeded", print_exception=False)

    def explain(**options: Any) -> Any:
        return space.client.predict(
            handle_file(CUP), model="dino-mini", method="relevance", api_name="/explain", **options
        )[0]

    with pytest.raises(Exception, match=r"7 s are asked for, 0 s are left.*call /run_on with CPU"):
        explain(target="cup")
    asked = space.calls()
    assert space.client.predict("CPU", api_name="/run_on") == "CPU"
    assert explain(target="cup")["device"] == "cpu"
    assert space.calls() == asked
    # Another visitor has chosen nothing.
    other = Client(space.client.src, verbose=False)
    with pytest.raises(Exception, match="0 s are left"):
        other.predict(handle_file(CUP), models=["vit-mini"], api_name="/classify")
    other.close()


def test_there_is_no_third_thing_to_run_on(space: Space) -> None:
    with pytest.raises(Exception, match=r"There is no 'TPU' to run on\. Choose GPU or CPU"):
        space.client.predict("TPU", api_name="/run_on")


def test_the_page_says_where_it_runs_and_what_there_is_not(space: Space) -> None:
    assert "Runs on: ZeroGPU." in space.config
    assert "There is no Live on this server" in space.config
    assert "live-model" not in space.config
    assert "Others cannot be fetched here" in space.config


def test_nothing_can_be_fetched_and_words_say_so(space: Space) -> None:
    assert policy_of(Settings(add_models="any")) == "none"
    with pytest.raises(NotDownloadedError, match=r"not on this Space.*Choose from: vit-mini.*VITDEMO_MODELS"):
        get_spec("facebook/dino-vits16")


@pytest.mark.thorough
def test_several_photos_are_one_call(space: Space, on_gpu: Pipeline, photo: Any) -> None:
    photos = [(str(seed), photo(90, 60, seed)) for seed in range(4)]
    rows = [one.row for one in compare_many(on_gpu, photos, [get_spec(name) for name in THREE])]
    assert [row.error for row in rows] == [""] * 4
    assert (space.calls(), space.spaces.outside) == (1, [])


def test_one_of_several_photos_that_cannot_be_opened_harms_no_other(
    space: Space, on_gpu: Pipeline, photo: Any, tmp_path: Path
) -> None:
    (tmp_path / "text.jpg").write_text("no picture", encoding="utf-8")
    photos: list[tuple[str, Path | Photo]] = [("good", photo(90, 60, 7)), ("bad", tmp_path / "text.jpg")]
    rows = [one.row for one in compare_many(on_gpu, photos, [get_spec("vit-mini")])]
    assert [bool(row.error) for row in rows] == [False, True]


def test_segmenting_by_two_models_is_one_call(space: Space, on_gpu: Pipeline, photo: Any) -> None:
    settings, _ = read_settings({"method": "foreground", "beside": "vit-mini"}, "dino-mini")
    assert isinstance(settings.request, SegmentRequest)
    assert settings.beside == "vit-mini"
    found = Segmenter(on_gpu).find(photo(120, 80, 3), [], settings)
    assert found.second is not None
    assert (space.calls(), space.spaces.outside) == (1, [])


@pytest.mark.thorough
def test_a_measured_map_is_a_call_for_the_map_and_one_for_all_its_curves(
    space: Space, on_gpu: Pipeline, photo: Any
) -> None:
    faithfulness(on_gpu, photo(90, 90, 5), get_spec("vit-mini"), ExplainRequest("legrad"), steps=4)
    assert (space.calls(), space.spaces.outside) == (2, [])
