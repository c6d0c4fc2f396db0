"""What the Inside tab answers: every step of every family, knock-outs of two models, rankings, and pages that send nonsense."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest

from tests import tiny
from vitdemo.errors import VitDemoError
from vitdemo.options.perturbations import PERTURBATIONS
from vitdemo.pipeline import Pipeline
from vitdemo.pipeline.ablate import ablate
from vitdemo.registry import add_folder, embedded_models, forget_folder, get_spec
from vitdemo.types import Effect, Knockout, ModelSpec, Photo
from vitdemo.ui.components.photo import RejectedImage
from vitdemo.ui.inside import InsideTab
from vitdemo.ui.inside_bench import CHUNK
from vitdemo.ui.inside_settings import STEPS, read_settings
from vitdemo.ui.inside_views import view_of
from vitdemo.ui.links import parse_link
from vitdemo.ui.state import PageState

Maker = Callable[..., Photo]
Spec = Callable[[str], ModelSpec]
MODEL = "vit-mini"

APPLIES = {
    "patches": {"ViT", "DeiT", "BEiT", "DINO", "MAE", "hybrid", "CNN"},
    "positions": {"ViT", "DeiT", "BEiT", "DINO", "MAE", "hybrid", "CNN"},
    "attention": {"ViT", "DeiT", "BEiT", "DINO", "MAE", "hybrid"},
    "distance": {"ViT", "DeiT", "BEiT", "DINO", "MAE", "hybrid", "CNN"},
    "layers": {"ViT", "DeiT", "BEiT", "DINO", "hybrid"},
    "cost": {"ViT", "DeiT", "BEiT", "DINO", "MAE"},
    "apart": {"ViT", "DeiT", "BEiT", "DINO", "MAE", "hybrid", "CNN"},
    "cnn": {"ViT", "DeiT", "BEiT", "DINO", "hybrid", "CNN"},
    "training": {"ViT", "DeiT", "BEiT", "DINO", "MAE", "hybrid", "CNN"},
}
"""Families that a step shows; the others say why not."""


@pytest.fixture(scope="module")
def tab(pipeline: Pipeline) -> InsideTab:
    with gr.Blocks():
        return InsideTab(pipeline, MODEL, gr.State(PageState()))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelSpec]:
    """A network of two layers with two heads each, that the tab can find."""
    folder: Path = tmp_path_factory.mktemp("inside") / "tiny-small"
    yield add_folder(str(tiny.save(folder, "vit", num_hidden_layers=2, num_attention_heads=2)))
    forget_folder("tiny-small")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelSpec]:
    """One of six layers with four heads each: more than one piece of a ranking."""
    folder: Path = tmp_path_factory.mktemp("inside") / "tiny-large"
    yield add_folder(str(tiny.save(folder, "vit", num_hidden_layers=6)))
    forget_folder("tiny-large")


def asked(tab: InsideTab, photo: object, **data: Any) -> dict[str, Any]:
    return tab.answer(photo, {}, gr.EventData(None, data))  # type: ignore[arg-type]


def views(tab: InsideTab, photo: Photo, **given: Any) -> list[dict[str, Any]]:
    settings, notes = read_settings(given, MODEL)
    assert notes == []
    found = tab.views(photo, settings)
    json.dumps(found, allow_nan=False)
    return found


def numbers(values: dict[str, Any]) -> np.ndarray[Any, Any]:
    """What the page makes of bytes."""
    shares = np.frombuffer(base64.b64decode(values["data"]), np.uint8) / 255
    return np.asarray(values["low"] + shares * (values["high"] - values["low"]))


@pytest.mark.thorough
@pytest.mark.parametrize("step", STEPS)
def test_a_step_shows_every_family_or_says_why_not(step: str, tab: InsideTab, photo: Maker) -> None:
    shown = set()
    for spec in embedded_models():
        # Beside itself: what a step is compared with has its own test.
        settings, _ = read_settings({"step": step, "model": spec.name}, MODEL)
        if step in ("cnn", "apart"):
            view = views(tab, photo(), step=step, model=spec.name)[0]
        else:
            view = view_of(tab.pipeline, photo(), spec, settings)
            json.dumps(view, allow_nan=False)
        if "refused" in view:
            assert spec.name in view["refused"]
            assert "Choose" in view["refused"]
        else:
            shown.add(spec.family)
    assert shown == APPLIES[step]


@pytest.mark.parametrize("step", [step for step in STEPS if step not in ("apart", "cnn")])
@pytest.mark.parametrize(
    "kind", ["dinov2-registers", "dinov3", "ijepa", "msn", "beit-shared", "hybrid-stage2", "resnet"]
)
def test_other_checkpoints_have_a_view_or_words_too(
    step: str, kind: str, pipeline: Pipeline, tiny_spec: Spec, photo: Maker
) -> None:
    settings, _ = read_settings({"step": step, "layer": "2", "head": "99", "seed": "3"}, MODEL)
    view = view_of(pipeline, photo(), tiny_spec(kind), settings)
    assert json.dumps(view, allow_nan=False)
    assert "Choose" in view.get("refused", "Choose")


@pytest.mark.parametrize(
    ("step", "model", "words"),
    [
        ("attention", "cnn-mini", "convolutional network: it has no attention"),
        ("layers", "cnn-mini", "no blocks with tokens of one width"),
        ("layers", "mae-mini", "has no classifier that could be read off"),
        ("cnn", "mae-mini", "has no classifier, so there is no answer to measure"),
        ("cost", "cnn-mini", "has convolutions that this reckoning of a ViT does not know"),
    ],
)
def test_where_a_step_does_not_apply_it_names_the_reason(
    step: str, model: str, words: str, tab: InsideTab, photo: Maker
) -> None:
    assert words in views(tab, photo(), step=step, model=model)[0]["refused"]


EVERY_HEAD = [[layer, head] for layer in range(8) for head in range(6)]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"heads": EVERY_HEAD}, "All attention of vit-mini is off"),
        ({"attention": list(range(8))}, "Leave at least one head on."),
        ({"patches": "0-195"}, "All 196 patches are hidden"),
        ({"heads": "8:0"}, "There is no layer 8"),
        ({"mlp": "-9"}, "There is no layer -9"),
        ({"patches": "196"}, "There is no patch 196"),
        ({"model": "cnn-mini", "heads": "0:0"}, "it has no heads, attention or MLP blocks to switch off"),
        ({"model": "cnn-mini", "patches": "3", "fill": "mean"}, "it has no patch tokens"),
        ({"patches": "0-194", "fill": "mae", "model": "cnn-mini"}, "All 49 patches are hidden"),
    ],
)
def test_a_knockout_that_leaves_nothing_or_is_not_there_is_refused_in_words(
    given: dict[str, Any], words: str, tab: InsideTab, photo: Maker
) -> None:
    (view,) = views(tab, photo(), step="apart", **given)
    assert words in view["refused"]
    # The switches stay, so that one can be turned back.
    assert view["model"] == given.get("model", MODEL)
    assert "grid" in view


def test_a_model_without_classifier_is_taken_apart_by_its_maps_alone(tab: InsideTab, photo: Maker) -> None:
    (view,) = views(tab, photo(), step="apart", model="mae-mini", heads="7:0")
    assert (view["before"], view["after"], view["target"], view["scores"]) == ([], [], None, None)
    assert not np.array_equal(numbers(view["map"]), numbers(view["changed"]))


def test_the_bench_shows_the_scores_and_maps_of_ablate(tab: InsideTab, photo: Maker, vit: ModelSpec) -> None:
    off = Knockout(heads=((7, 1),), mlp=(0,), patches=(3,))
    found = ablate(tab.pipeline, photo(), vit, off)
    (view,) = views(tab, photo(), step="apart", heads="7:1", mlp="0", patches="3")
    assert view["scores"] == found.scores
    assert view["class"] == vit.labels[found.target or 0]
    assert view["seen"].startswith("data:image/png;base64,")
    assert found.after.map is not None
    step = view["changed"]["high"] / 255
    np.testing.assert_allclose(numbers(view["changed"]), found.after.map.values.ravel(), atol=step)


def test_the_same_switch_is_for_two_models_as_far_as_each_has_it(
    tab: InsideTab, photo: Maker, small: ModelSpec
) -> None:
    given = {"step": "apart", "heads": "0:1,1:3,5:0", "mlp": "1,6", "beside": small.name}
    first, second = views(tab, photo(), **given)
    both = [Knockout(heads=((0, 1), (1, 3), (5, 0)), mlp=(1, 6)), Knockout(heads=((0, 1),), mlp=(1,))]
    for view, off in zip((first, second), both, strict=True):
        assert view["scores"] == ablate(tab.pipeline, photo(), get_spec(view["model"]), off).scores
    # Of what is off, the second has nothing.
    first, second = views(tab, photo(), **(given | {"heads": "5:0", "mlp": ""}))
    assert "scores" in first
    assert "There is no layer 5: tiny-small has layers 0 to 1" in second["refused"]


def test_pieces_of_a_ranking_are_the_ranking(tab: InsideTab, photo: Maker, large: ModelSpec) -> None:
    whole = ablate(tab.pipeline, photo(), large, Knockout(mlp=(1,)), rank="heads")
    settings = {"step": "apart", "model": large.name, "mlp": [1]}
    found: list[dict[str, Any]] = []
    pieces = []
    while len(found) < 24:
        rank = {"by": "heads", "model": large.name, "target": whole.target, "start": len(found)}
        told = asked(tab, photo(), settings=settings, rank=rank)["ranked"]
        assert (told["start"], told["count"], told["model"]) == (len(found), 24, large.name)
        found += told["effects"]
        pieces.append(len(told["effects"]))
    assert pieces == [CHUNK, 8]
    ranked = sorted((Effect(**effect) for effect in found), key=lambda effect: (effect.layer, effect.head or 0))
    expected = sorted(whole.ranking, key=lambda effect: (effect.layer, effect.head or 0))
    for effect, other in zip(ranked, expected, strict=True):
        assert (effect.part, effect.layer, effect.head, effect.label) == (
            other.part,
            other.layer,
            other.head,
            other.label,
        )
        assert effect.change == pytest.approx(other.change, abs=1e-5)
    beyond = {"by": "heads", "model": large.name, "target": 0, "start": 10**9}
    assert asked(tab, photo(), settings=settings, rank=beyond)["ranked"]["effects"] == []


def test_blocks_are_ranked_beside_what_is_off(tab: InsideTab, photo: Maker, small: ModelSpec) -> None:
    settings = {"step": "apart", "model": small.name, "attention": [0]}
    told = asked(tab, photo(), settings=settings, rank={"by": "blocks", "model": small.name, "start": 0, "target": 1})
    # The last attention block must stay.
    assert [(one["part"], one["layer"]) for one in told["ranked"]["effects"]] == [("mlp", 0), ("mlp", 1)]


@pytest.mark.parametrize(
    ("rank", "words"),
    [
        ({"model": "nope"}, "Unknown model 'nope'"),
        ({"model": ["a"]}, "Unknown model"),
        ({"by": "tokens"}, "There is no ranking of 'tokens'"),
        ({"by": ["heads"]}, "There is no ranking"),
        ({"start": "abc"}, "whole number from 0 as its start"),
        ({"start": math.nan}, "whole number from 0 as its start"),
        ({"start": -1}, "whole number from 0 as its start"),
        ({"target": [[1]]}, "whole number from 0 as its target"),
        ({"target": 1e400}, "whole number from 0 as its target"),
        ({"model": "cnn-mini"}, "no heads or blocks to rank"),
        ({"model": "mae-mini"}, "no part of it has an effect on a score"),
    ],
)
def test_a_ranking_of_nonsense_is_refused_in_words(
    rank: dict[str, Any], words: str, tab: InsideTab, photo: Maker
) -> None:
    whole = {"by": "heads", "model": MODEL, "start": 0, "target": 0, **rank}
    with pytest.raises(VitDemoError, match=words):
        asked(tab, photo(), settings={"step": "apart"}, rank=whole)


def test_a_ranking_by_a_class_that_is_not_there_is_by_the_last(tab: InsideTab, photo: Maker, small: ModelSpec) -> None:
    def scores(target: int) -> list[float]:
        rank = {"by": "heads", "model": small.name, "start": 0, "target": target}
        told = asked(tab, photo(), settings={"model": small.name}, rank=rank)["ranked"]
        return [one["score"] for one in told["effects"]]

    assert scores(10**30) == scores(6) != scores(5)


HOSTILE: list[Any] = [
    "",
    "x" * 10_000,
    "<img src=x>",
    math.nan,
    math.inf,
    -math.inf,
    -1,
    10**400,
    True,
    None,
    [],
    [[[[[]]]]],
    {"a": [1]},
]


@pytest.mark.thorough
@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: str(value)[:12])
@pytest.mark.parametrize("step", ["attention", "apart"])
def test_whatever_a_page_sends_is_answered_or_refused_in_words(
    value: Any, step: str, tab: InsideTab, photo: Maker, small: ModelSpec
) -> None:
    sound = {"step": step, "model": small.name}
    sent: list[dict[str, Any]] = [{"settings": value}] if step == "apart" else []
    sent += [{"settings": {**sound, name: value}} for name in ("layer", "head", "point", "heads", "patches", "beside")]
    sent += [{"settings": sound, "shown": value}, {"settings": sound, "rank": value}]
    sent += [{"settings": sound, "rank": {"model": small.name, name: value}} for name in ("by", "start", "target")]
    for data in sent:
        try:
            found = asked(tab, photo(48, 32), **data)
        except VitDemoError:
            continue
        assert json.dumps(found, allow_nan=False)


def test_without_a_photo_the_tab_asks_for_one_and_tells_why_one_was_refused(tab: InsideTab) -> None:
    assert asked(tab, None) == {"refused": "Drop a photo, or choose an example."}
    assert asked(tab, RejectedImage("This is no image.")) == {"refused": "This is no image."}


def test_an_answer_holds_what_the_page_needs_and_the_photo_only_once(tab: InsideTab, photo: Maker) -> None:
    found = asked(tab, photo(), settings={"step": "cost", "beside": "nope"})
    assert found["notes"] == ["There is no model “nope”; comparing with none."]
    assert found["settings"]["beside"] == ""
    assert found["photo"]["src"].startswith("data:image/jpeg")
    again = asked(tab, photo(), settings={"step": "cost"}, shown=found["photo"]["id"])
    assert again["photo"]["src"] == ""
    assert again["photo"]["id"] == found["photo"]["id"]


@pytest.mark.thorough
def test_where_nothing_is_chosen_a_step_has_its_own_companions(tab: InsideTab, photo: Maker) -> None:
    def shown(step: str, model: str, **given: str) -> list[str]:
        return [view["model"] for view in views(tab, photo(48, 32), step=step, model=model, **given)]

    assert shown("distance", "vit-mini") == ["vit-mini", "cnn-mini"]
    assert shown("distance", "cnn-mini")[0] == "cnn-mini"
    assert shown("distance", "vit-mini", beside="deit-mini") == ["vit-mini", "deit-mini"]
    assert shown("distance", "vit-mini", beside="vit-mini") == ["vit-mini", "cnn-mini"]
    assert shown("training", "deit-mini") == ["deit-mini", "beit-mini", "mae-mini", "dino-mini", ""]


def test_a_point_beyond_what_a_model_sees_is_the_nearest_patch_that_it_sees(tab: InsideTab, photo: Maker) -> None:
    wide = photo(200, 100)  # the middle half of it is seen
    (edge,) = views(tab, wide, step="attention", point="1,0")
    (corner,) = views(tab, wide, step="attention", point="0.7499,0.001")
    (other,) = views(tab, wide, step="attention", point="0.5,0.5")
    assert edge["vectors"] == corner["vectors"] != other["vectors"]


def test_the_steps_of_a_head_are_those_of_softmax(tab: InsideTab, photo: Maker) -> None:
    (view,) = views(tab, photo(), step="attention", layer="2", head="1", point="0.5,0.5")
    assert (view["layer"], view["head"]) == (2, 1)
    weights, scores = numbers(view["maps"]["weights"]), numbers(view["maps"]["scores"])
    assert weights.sum() + view["outside"] == pytest.approx(1, abs=0.05)
    assert weights.argmax() == scores.argmax()
    first, second = view["best"][:2]
    assert first["weight"] / second["weight"] == pytest.approx(math.exp(first["score"] - second["score"]), rel=1e-3)


def test_a_layer_or_head_that_a_model_lacks_is_its_last(tab: InsideTab, photo: Maker, small: ModelSpec) -> None:
    first, second = views(tab, photo(), step="attention", layer="7", head="5", beside=small.name)
    assert (first["layer"], first["head"]) == (7, 5)
    assert (second["layer"], second["head"]) == (1, 1)


def test_moved_patches_change_a_vits_answer_and_moved_along_with_their_positions_they_do_not(
    tab: InsideTab, photo: Maker
) -> None:
    (view,) = views(tab, photo(), step="positions", seed="2")
    assert view["apart"] < 1e-4
    assert view["along"][0]["score"] == pytest.approx(view["plain"][0]["score"], abs=1e-4)
    assert view["moved"] != view["plain"]
    assert views(tab, photo(), step="positions", seed="3")[0]["shuffled"] != view["shuffled"]


@pytest.mark.thorough
def test_every_perturbation_has_a_curve_that_begins_at_the_photo_as_it_is(
    tab: InsideTab, photo: Maker, small: ModelSpec
) -> None:
    one = photo(48, 32)
    (plain,) = tab.pipeline.classify([one], small, top_k=1)
    for kind in PERTURBATIONS:
        (view, _) = views(tab, one, step="cnn", kind=kind, model=small.name, beside="cnn-mini")
        assert len(view["points"]) == len(view["pictures"]) > 2
        assert view["target"] == plain.labels[0].label
        assert view["points"][0]["score"] == pytest.approx(plain.labels[0].score, abs=1e-4)


def test_the_cost_of_the_model_as_it_runs_holds_its_parameters(tab: InsideTab, photo: Maker, vit: ModelSpec) -> None:
    (view,) = views(tab, photo(), step="cost")
    _, parts = view["table"]["/".join(map(str, view["own"]))]
    assert sum(part[1] for part in parts) == vit.parameters


def test_a_link_sets_the_tab_and_what_is_wrong_with_it_is_told(tab: InsideTab) -> None:
    link = parse_link({"tab": "inside", "step": "layers", "beside": "deit-mini", "kind": "nope"})
    value = tab.follow(link)[tab.view]
    assert (value["start"]["step"], value["start"]["beside"]) == ("layers", "deit-mini")
    assert value["notes"] == ["There is no perturbation “nope”; using Patch shuffle."]
    assert {one["name"] for one in value["models"]} >= {MODEL, "deit-mini"}
