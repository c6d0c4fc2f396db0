"""Scores and maps before and after a knock-out, rankings, and patches that a masked autoencoder fills in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from vitdemo.engine.left import working_for
from vitdemo.errors import ClientLeftError, OptionError
from vitdemo.export.inspection import ablation_json
from vitdemo.models.masking import to_image
from vitdemo.models.preprocess import preprocess
from vitdemo.options.explain import ExplainRequest
from vitdemo.options.knockout import parse_heads, parse_numbers, resolve_ranking
from vitdemo.pipeline import Pipeline
from vitdemo.pipeline.ablate import ablate
from vitdemo.pipeline.fill import filled_in
from vitdemo.pipeline.prepare import prepare
from vitdemo.registry import get_spec, reconstructing_model
from vitdemo.types import Capture, Knockout, ModelSpec, Photo, Reconstruct

Spec = Callable[[str], ModelSpec]
Maker = Callable[..., Photo]


def test_scores_and_map_are_told_before_and_after(pipeline: Pipeline, tiny_spec: Spec, photo: Maker) -> None:
    spec, one = tiny_spec("vit"), photo()
    off = Knockout(heads=((-1, 1),), mlp=(0,))
    found = ablate(pipeline, one, spec, off, ExplainRequest(target="cup"), top_k=2)
    assert found.knockout == Knockout(heads=((2, 1),), mlp=(0,))
    assert found.target == spec.labels.index("cup")
    assert [len(side.prediction.labels) for side in (found.before, found.after)] == [2, 2]
    pixels = preprocess([one], spec.processor).pixel_values
    for capture, score in zip((Capture(), Capture(knockouts=(off,))), found.scores or (), strict=True):
        (output,) = pipeline.backend.run(spec, pixels, capture)
        assert output.logits is not None
        assert score == pytest.approx(float(output.logits.softmax(dim=-1)[found.target]), abs=1e-6)
    entry = ablation_json(found)
    assert entry["score"]["change"] == pytest.approx(entry["score"]["after"] - entry["score"]["before"])
    assert entry["target"] == {"index": 5, "label": "cup"}


def test_the_next_user_of_the_photo_gets_the_whole_network(tiny_spec: Spec, photo: Maker) -> None:
    fresh, spec, one = Pipeline(), tiny_spec("vit"), photo()
    off = Knockout(attention=(1,))
    first = ablate(fresh, one, spec, off).after
    plain = fresh.explain(one, spec)
    assert plain.prediction.labels != first.prediction.labels
    assert plain.prediction.labels == Pipeline().explain(one, spec).prediction.labels
    again = fresh.explain(one, spec, knockout=off)
    assert again.prediction.from_cache
    assert again.prediction.labels == first.prediction.labels


def test_a_map_of_several_heads_leaves_out_those_that_are_off(
    pipeline: Pipeline, tiny_spec: Spec, photo: Maker
) -> None:
    spec = tiny_spec("vit")
    found = ablate(pipeline, photo(), spec, Knockout(heads=((2, 0), (2, 3)))).after
    assert found.map is not None
    np.testing.assert_allclose(found.map.values, found.rows["class"][2, 1:3].mean(axis=0))
    point = ExplainRequest(readout="patch", head="max")
    for patch in (ablate(pipeline, photo(), spec, Knockout(heads=((2, 0), (2, 3))), point).after,):
        heads = [
            pipeline.explain(photo(), spec, replace(point, head=head), knockout=Knockout(heads=((2, 0), (2, 3)))).map
            for head in (1, 2)
        ]
        assert patch.map is not None
        np.testing.assert_allclose(patch.map.values, np.max([own.values for own in heads if own], axis=0))
    silent = ablate(pipeline, photo(), spec, Knockout(attention=(2,))).after
    assert silent.map is None
    assert silent.description == "no attention: it is off in this layer"
    elsewhere = ablate(pipeline, photo(), spec, Knockout(attention=(1,))).after
    assert elsewhere.map is not None


def test_a_method_of_a_class_explains_the_same_class_before_and_after(
    pipeline: Pipeline, tiny_spec: Spec, photo: Maker
) -> None:
    spec = tiny_spec("vit")
    found = ablate(pipeline, photo(), spec, Knockout(attention=(0,), mlp=(0, 1)), ExplainRequest(method="relevance"))
    assert found.before.prediction.labels[0].index != found.after.prediction.labels[0].index
    assert found.before.map is not None
    assert found.after.map is not None
    assert found.before.map.target == found.after.map.target == found.target


def test_a_ranking_has_every_part_and_the_scores_that_each_alone_gives(
    pipeline: Pipeline, tiny_spec: Spec, photo: Maker
) -> None:
    spec, one, told = tiny_spec("deit"), photo(), []
    found = ablate(pipeline, one, spec, Knockout(), rank="heads", progress=lambda *given: told.append(given))
    assert {(effect.layer, effect.head) for effect in found.ranking} == {
        (layer, head) for layer in range(3) for head in range(4)
    }
    assert told == [(0, 12), (8, 12), (12, 12)]
    assert found.scores is not None
    assert found.scores[0] == found.scores[1]
    changes = [abs(effect.change) for effect in found.ranking]
    assert changes == sorted(changes, reverse=True)
    for effect in found.ranking[:3]:
        assert effect.head is not None
        alone = ablate(pipeline, one, spec, Knockout(heads=((effect.layer, effect.head),)))
        assert alone.scores is not None
        assert effect.score == pytest.approx(alone.scores[1], abs=1e-5)
        assert effect.change == pytest.approx(alone.scores[1] - alone.scores[0], abs=1e-5)
        assert effect.label == alone.after.prediction.labels[0].label


def test_a_ranking_goes_on_from_what_is_off_already(pipeline: Pipeline, tiny_spec: Spec, photo: Maker) -> None:
    spec, base = tiny_spec("vit"), Knockout(attention=(0, 1), mlp=(2,), patches=(3,))
    found = ablate(pipeline, photo(), spec, base, rank="blocks")
    # The last attention block must stay, since without it nothing is read.
    assert {(effect.part, effect.layer) for effect in found.ranking} == {("mlp", 0), ("mlp", 1)}
    for effect in found.ranking:
        both = ablate(pipeline, photo(), spec, base | Knockout(mlp=(effect.layer,)))
        assert both.scores is not None
        assert effect.score == pytest.approx(both.scores[1], abs=1e-5)


def test_a_ranking_ends_when_nobody_waits_or_its_progress_says_so(
    pipeline: Pipeline, tiny_spec: Spec, photo: Maker
) -> None:
    spec, calls = tiny_spec("vit"), []

    def left() -> bool:
        calls.append(1)
        return len(calls) > 2

    with working_for(left), pytest.raises(ClientLeftError):
        ablate(pipeline, photo(seed=5), spec, Knockout(), rank="heads")

    def enough(done: int, count: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ablate(pipeline, photo(), spec, Knockout(), rank="heads", progress=enough)


@pytest.mark.parametrize(
    ("kind", "off", "rank", "words"),
    [
        ("vit", Knockout(), None, "Nothing is off: name heads"),
        ("resnet", Knockout(heads=((0, 0),)), None, "convolutional network: it has no heads"),
        ("resnet", Knockout(), "heads", "no heads or blocks to rank"),
        ("dino", Knockout(), "blocks", "no classifier, so no part of it has an effect on a score"),
    ],
)
def test_what_does_not_apply_is_said_in_words(
    pipeline: Pipeline, tiny_spec: Spec, photo: Maker, kind: str, off: Knockout, rank: str | None, words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        ablate(pipeline, photo(), tiny_spec(kind), off, rank=resolve_ranking(rank))


def test_without_a_classifier_there_are_maps_and_no_scores(pipeline: Pipeline, tiny_spec: Spec, photo: Maker) -> None:
    found = ablate(pipeline, photo(), tiny_spec("dino"), Knockout(mlp=(0,)))
    assert found.scores is None
    assert found.target is None
    assert found.agreement.rank_correlation is not None
    assert ablation_json(found)["score"] is None


@pytest.mark.parametrize("text", ["3", "3:0:1", "a:b", "3:-1"])
def test_heads_that_are_not_written_as_such_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="is not LAYER:HEAD, such as 3:0"):
        parse_heads(text)


@pytest.mark.parametrize("text", ["one", "1.5", "4-", "3:0"])
def test_numbers_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="use whole numbers and ranges"):
        parse_numbers(text, "patch")
    assert parse_numbers(None, "patch") == parse_numbers(" ", "patch") == ()
    assert len(parse_numbers("0-999999999", "patch")) == 100_001


def test_an_unknown_ranking_is_refused() -> None:
    with pytest.raises(OptionError, match="Choose from: heads, blocks"):
        resolve_ranking("tokens")
    assert resolve_ranking("") is None


def test_a_masked_autoencoder_fills_in_what_a_model_of_its_crop_does_not_see(
    pipeline: Pipeline, photo: Maker, vit: ModelSpec
) -> None:
    mae, one, patches = reconstructing_model(), photo(160, 120), (0, 15, 16, 29, 195)
    assert mae.image_size == vit.image_size
    off = Knockout(patches=patches, fill="mae")
    prepared = prepare(one, vit, ExplainRequest(), off)
    pixels = preprocess([one], vit.processor).pixel_values
    found, left = filled_in(pipeline.backend, prepared, pixels, "auto")
    assert left == Knockout()
    hidden = torch.zeros(196, dtype=torch.bool)
    hidden[list(patches)] = True
    batch = preprocess([one], mae.processor)
    (output,) = pipeline.backend.run(mae, batch.pixel_values, Reconstruct(hidden.view(1, 14, 14)))
    assert output.filled is not None
    # Both models see the same crop: pixel by pixel what `reconstruct` gives.
    expected = np.asarray(to_image(output.filled, mae.processor)).astype(int)
    difference = np.abs(np.asarray(to_image(found[0], vit.processor)).astype(int) - expected)
    assert difference.max() <= 1
    mask = hidden.view(14, 14).repeat_interleave(16, 0).repeat_interleave(16, 1)
    assert torch.equal(found[0][:, ~mask], pixels[0][:, ~mask])
    result = ablate(pipeline, one, vit, off)
    assert result.seen is not None
    assert np.abs(np.asarray(result.seen).astype(int) - expected).max() <= 1
    grey = ablate(pipeline, one, vit, replace(off, fill="grey"))
    assert grey.scores != result.scores
    assert grey.seen is not None
    values = np.asarray(grey.seen)[:16, :16].reshape(-1, 3)
    assert (values == values[0]).all()


@pytest.mark.thorough
def test_an_autoencoder_fills_in_patches_of_a_finer_grid_and_refuses_those_that_it_does_not_see(
    pipeline: Pipeline, photo: Maker
) -> None:
    cnn, vit = get_spec("cnn-mini"), get_spec("vit-mini")
    found = ablate(pipeline, photo(), cnn, Knockout(patches=(0, 48), fill="mae"))
    assert found.seen is not None
    wide = photo(400, 200)
    request = ExplainRequest(resolution=448)
    prepared = prepare(wide, vit, request)
    middle = (prepared.grid[0] // 2) * prepared.grid[1] + prepared.grid[1] // 2
    with pytest.raises(OptionError, match="mae-mini does not see patch 0 of vit-mini"):
        ablate(pipeline, wide, vit, Knockout(patches=(0,), fill="mae"), request)
    assert ablate(pipeline, wide, vit, Knockout(patches=(middle,), fill="mae"), request).seen is not None
    with pytest.raises(OptionError, match="All patches of mae-mini would be hidden"):
        ablate(pipeline, photo(96, 96), vit, Knockout(patches=tuple(range(783)), fill="mae"), request)
