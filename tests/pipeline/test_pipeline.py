"""The straight path: one decode, one preprocess, one forward, and every option of the map."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import vitdemo
from tests import tiny
from tests.asking import split
from vitdemo.attribution import patch_attention
from vitdemo.engine import LocalBackend
from vitdemo.errors import ImageError, OptionError, UnknownModelError
from vitdemo.export.results import explanation_json, prediction_json
from vitdemo.images import open as images
from vitdemo.models.loading import load_model
from vitdemo.models.preprocess import preprocess
from vitdemo.options.explain import ExplainRequest
from vitdemo.pipeline import Pipeline
from vitdemo.pipeline import pipeline as pipeline_module
from vitdemo.pipeline import prepare as prepare_module
from vitdemo.registry import default_models, get_spec
from vitdemo.settings import ASSETS, Settings
from vitdemo.types import Capture, ModelSpec, Photo, Processor

SETTINGS = Settings(device="cpu")
CUP = ASSETS / "examples" / "cup.jpg"


@pytest.fixture(scope="module")
def backend() -> LocalBackend:
    return LocalBackend(SETTINGS)


@pytest.fixture
def fresh(backend: LocalBackend) -> Pipeline:
    """A pipeline that remembers nothing yet, over models that are loaded."""
    return Pipeline(SETTINGS, backend)


@pytest.fixture
def preprocessed(monkeypatch: pytest.MonkeyPatch) -> list[Processor]:
    """The processors of all calls of `preprocess` in the pipeline, each of which is made as ever."""
    calls = []

    def counted(photos: Sequence[Photo], processor: Processor) -> Any:
        calls.append(processor)
        return preprocess(photos, processor)

    monkeypatch.setattr(pipeline_module, "preprocess", counted)
    return calls


@pytest.mark.thorough
def test_five_models_share_one_decode_and_one_preprocess(
    pipeline: Pipeline, preprocessed: list[Processor], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    decode = images.decode
    monkeypatch.setattr(images, "decode", lambda *arguments: decoded.append(1) or decode(*arguments))
    own = Pipeline(SETTINGS, pipeline.backend)
    before = pipeline.backend.forwards
    comparison = own.compare(own.open(CUP), default_models(SETTINGS))
    assert len(decoded) == 1
    assert len(preprocessed) == 1
    assert pipeline.backend.forwards == before + 5
    assert len({explanation.view for explanation in comparison.explanations}) == 1
    assert len(comparison.agreement) == 10


def test_models_of_other_processors_get_their_own_pixels(
    fresh: Pipeline, tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo], preprocessed: list[Processor]
) -> None:
    specs = [tiny_spec(kind) for kind in ("vit", "hybrid", "deit", "beit", "hybrid-stage2")]
    fresh.compare(photo(), specs)
    assert preprocessed == [specs[0].processor, specs[1].processor]


def test_the_second_ask_comes_from_the_cache_without_a_forward(
    fresh: Pipeline, tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo], preprocessed: list[Processor]
) -> None:
    spec, one = tiny_spec("deit"), photo()
    first = fresh.explain(one, spec)
    forwards = fresh.backend.forwards
    second = fresh.explain(one, spec)
    other = fresh.explain(one, spec, ExplainRequest(layer=0, head=1, readout="distillation", target="apple"), top_k=2)
    assert fresh.backend.forwards == forwards
    assert len(preprocessed) == 1
    assert [first.prediction.from_cache, second.prediction.from_cache] == [False, True]
    assert second.prediction == replace(first.prediction, from_cache=True)
    assert np.array_equal(first.map.values, second.map.values)
    assert other.prediction.from_cache
    assert len(other.prediction.labels) == 2
    assert np.array_equal(other.map.values, first.rows["distillation"][0, 1])


def test_the_cache_is_keyed_on_pixels_and_not_on_files(
    fresh: Pipeline, tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo]
) -> None:
    one = photo()
    fresh.explain(one, tiny_spec("vit"))
    again = fresh.open(np.asarray(one.image))
    assert again.digest == one.digest
    assert fresh.explain(again, tiny_spec("vit")).prediction.from_cache
    pixels = np.array(one.image)
    pixels[0, 0, 0] ^= 1
    assert not fresh.explain(fresh.open(pixels), tiny_spec("vit")).prediction.from_cache
    # The same bytes in another shape are another photo.
    turned = fresh.open(np.asarray(one.image).reshape(96, 64, 3))
    assert turned.digest != one.digest
    assert not fresh.explain(turned, tiny_spec("vit")).prediction.from_cache


@pytest.mark.parametrize("change", [{"dtype": "bf16"}, {"resolution": 24}])
def test_what_changes_the_numbers_is_part_of_the_key(
    fresh: Pipeline, tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo], change: dict[str, Any]
) -> None:
    fresh.explain(photo(), tiny_spec("vit"))
    request, others = split(change)
    assert not fresh.explain(photo(), tiny_spec("vit"), request, **others).prediction.from_cache
    assert not fresh.explain(photo(), tiny_spec("deit")).prediction.from_cache
    assert not fresh.explain(photo(), replace(tiny_spec("vit"), revision="newer")).prediction.from_cache


def _size_of_one(backend: LocalBackend, spec: ModelSpec, photo: Photo) -> int:
    pipeline = Pipeline(SETTINGS, backend)
    pipeline.explain(photo, spec)
    return pipeline._cache._used


def test_the_cache_forgets_what_was_longest_unused(
    backend: LocalBackend, tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo]
) -> None:
    size = _size_of_one(backend, tiny_spec("vit"), photo())
    small = Pipeline(replace(SETTINGS, cache_mb=2.5 * size / 1e6), backend)

    def cached(seed: int) -> bool:
        return small.explain(photo(seed=seed), tiny_spec("vit")).prediction.from_cache

    assert [cached(1), cached(2), cached(1)] == [False, False, True]
    assert not cached(3)  # 2 has to go
    assert [cached(1), cached(3)] == [True, True]
    assert not cached(2)
    assert len(small._cache._values) == 2
    assert small._cache._used <= 2.5 * size


def test_no_caller_can_change_the_answers_of_others(
    fresh: Pipeline, tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo]
) -> None:
    found = fresh.explain(photo(), tiny_spec("vit"), ExplainRequest(head=0))
    for values in (found.map.values, found.rows["class"]):
        with pytest.raises(ValueError, match="read-only"):
            values[:] = 0


def test_users_at_once_get_their_own_answers(
    fresh: Pipeline, tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo]
) -> None:
    spec = tiny_spec("beit")
    alone = [Pipeline(SETTINGS, fresh.backend).explain(photo(seed=seed), spec) for seed in range(12)]
    gate = threading.Barrier(12)

    def explain(seed: int) -> Any:
        gate.wait()
        return fresh.explain(photo(seed=seed), spec)

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(explain, range(12)))
    for one, expected in zip(found, alone, strict=True):
        np.testing.assert_allclose(one.map.values, expected.map.values, atol=1e-5)
        assert [label.index for label in one.prediction.labels] == [label.index for label in expected.prediction.labels]


@pytest.mark.parametrize("kind", [kind for kind in (*tiny.KINDS, "resnet") if kind not in tiny.HEADLESS])
def test_a_prediction_is_the_softmax_of_the_models_own_logits(
    fresh: Pipeline, tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo], kind: str
) -> None:
    spec = tiny_spec(kind)
    photos = [photo(seed=1), photo(50, 90), photo(7, 7)]
    model = load_model(spec, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        scores = model(preprocess(photos, spec.processor).pixel_values).softmax(dim=-1)
    before = fresh.backend.forwards
    predictions = fresh.classify(photos, spec, top_k=3)
    assert fresh.backend.forwards == before + 1
    assert len(predictions) == 3
    for prediction, expected in zip(predictions, scores, strict=True):
        assert [label.index for label in prediction.labels] == expected.topk(3).indices.tolist()
        assert [label.score for label in prediction.labels] == pytest.approx(expected.topk(3).values.tolist(), abs=1e-5)
        assert all(label.label == spec.labels[label.index] for label in prediction.labels)
    assert spec.labels == (tiny.LABELS if kind != "resnet" else tuple(f"LABEL_{index}" for index in range(7)))


def test_explaining_and_classifying_agree(
    fresh: Pipeline, tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo]
) -> None:
    (classified,) = fresh.classify([photo()], tiny_spec("deit"))
    explained = fresh.explain(photo(), tiny_spec("deit")).prediction
    assert [label.index for label in classified.labels] == [label.index for label in explained.labels]
    assert [label.score for label in classified.labels] == pytest.approx([label.score for label in explained.labels])


@pytest.mark.parametrize(
    ("kind", "readouts"), [("vit", ["class"]), ("deit", ["class", "distillation"]), ("beit", ["mean", "class"])]
)
@pytest.mark.parametrize("layer", [0, -1])
@pytest.mark.parametrize("head", [0, 3, "mean", "max", "min"])
def test_every_readout_layer_and_head_is_that_part_of_the_rows(
    fresh: Pipeline,
    tiny_spec: Callable[[str], ModelSpec],
    photo: Callable[..., Photo],
    kind: str,
    readouts: list[Any],
    layer: int,
    head: int | str,
) -> None:
    for readout in [None, *readouts]:
        found = fresh.explain(photo(), tiny_spec(kind), ExplainRequest(layer=layer, head=head, readout=readout))
        rows = found.rows[readout or readouts[0]][layer]
        expected = rows[head] if isinstance(head, int) else getattr(rows, head)(axis=0)
        np.testing.assert_array_equal(found.map.values, expected)
        assert (found.map.readout, found.map.head) == (readout or readouts[0], head)
        assert found.map.layer == layer % 3
        assert set(found.rows) == set(readouts)
        assert found.patch_grid == found.map.values.shape == (4, 4)


def test_prefix_tokens_are_no_part_of_the_map(
    fresh: Pipeline, tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo]
) -> None:
    for kind in ("vit", "deit"):
        spec = tiny_spec(kind)
        found = fresh.explain(photo(), spec)
        pixels = preprocess([photo()], spec.processor).pixel_values
        model = load_model(spec, torch.device("cpu"), torch.float32)
        model.network.set_attn_implementation("eager")
        with torch.no_grad():
            attention = model.network(pixels, output_attentions=True).attentions[-1]
        expected = attention[0, :, 0, spec.num_prefix_tokens :].reshape(4, 4, 4).numpy()
        np.testing.assert_allclose(found.rows["class"][-1], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "guess"}, r"Unknown method 'guess'.*attention"),
        ({"readout": "distillation"}, r"no read-out 'distillation'\. Choose from: class, patch\."),
        ({"readout": "mean"}, "Choose from: class"),
        ({"layer": 3}, "layers 0 to 2"),
        ({"layer": "last"}, "There is no layer last"),
        ({"head": 4}, "or 0 to 3"),
        ({"head": "median"}, "mean, max, min"),
        ({"target": 7}, "classes 0 to 6"),
        ({"target": "zebra"}, "no class 'zebra'"),
        ({"target": "crane"}, "3 .crane., 4 .crane, bird."),
        ({"target": "top:8"}, "top:1 to top:7"),
        ({"resolution": 7}, "at least one patch of tiny-vit: 8 pixels"),
        ({"dtype": "fp64"}, "Unknown dtype 'fp64'"),
    ],
)
def test_an_option_that_the_model_does_not_have_is_refused_with_those_that_it_has(
    fresh: Pipeline,
    tiny_spec: Callable[[str], ModelSpec],
    photo: Callable[..., Photo],
    options: dict[str, Any],
    words: str,
) -> None:
    request, others = split(options)
    with pytest.raises(OptionError, match=words):
        fresh.explain(photo(), tiny_spec("vit"), request, **others)
    if "readout" not in options:  # there, a model that has none shows its own
        with pytest.raises(OptionError, match=words):
            fresh.compare(photo(), [tiny_spec("vit")], request, **others)


@pytest.mark.parametrize(("target", "index"), [("apple", 0), (6, 6), ("3", 3), ("bird", 4)])
def test_a_target_is_recorded_and_said_to_make_no_difference(
    fresh: Pipeline, tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo], target: int | str, index: int
) -> None:
    plain = fresh.explain(photo(), tiny_spec("vit"))
    found = fresh.explain(photo(), tiny_spec("vit"), ExplainRequest(target=target))
    assert (plain.map.target, found.map.target) == (None, index)
    assert np.array_equal(plain.map.values, found.map.values)
    assert found.notes == ("Attention does not depend on the target class.",)
    assert plain.notes == ()


def test_a_target_can_be_a_rank_of_this_photo(
    fresh: Pipeline, tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo]
) -> None:
    found = fresh.explain(photo(), tiny_spec("vit"), ExplainRequest(target="top:2"))
    assert found.map.target == found.prediction.labels[1].index


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_resolution_shows_the_whole_photo_in_its_own_shape(
    fresh: Pipeline, tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo], kind: str
) -> None:
    spec = tiny_spec(kind)
    found = fresh.explain(photo(96, 64), spec, ExplainRequest(resolution=6 * spec.patch_size))
    assert found.patch_grid == found.map.values.shape == (4, 6)
    assert found.view.crop == (0, 0, 96, 64)
    assert all(rows.shape == (3, 4, 4, 6) for rows in found.rows.values())
    assert set(found.rows) == set(spec.readouts)
    assert found.notes == ()


def test_a_resolution_beyond_the_limit_is_lowered_and_noted(
    fresh: Pipeline, tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare_module, "MAX_TOKENS", 54)
    found = fresh.explain(photo(96, 64), tiny_spec("vit"), ExplainRequest(resolution=10_000))
    assert found.patch_grid == (6, 9)
    assert found.notes == ("The resolution was lowered from 10000 to 72 pixels: 54 patches are the limit.",)


def test_notes_of_the_photo_and_of_the_model_reach_the_user(
    fresh: Pipeline, tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo]
) -> None:
    one = replace(photo(), notes=("The first frame of an animation is used.",))
    spec = replace(tiny_spec("vit"), note="Labels are a linear probe's.")
    assert fresh.explain(one, spec).notes == (*one.notes, spec.note)


@pytest.fixture
def fallen_back() -> Pipeline:
    """A pipeline whose device holds nothing, so that all runs on the CPU."""

    def load(spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> Any:
        if device.type == "meta":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return load_model(spec, device, dtype)

    backend = LocalBackend(SETTINGS, load=load)
    backend.device = torch.device("meta")
    return Pipeline(SETTINGS, backend)


@pytest.mark.thorough
def test_how_it_ran_reaches_the_user_from_the_cache_too(
    fallen_back: Pipeline, tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo]
) -> None:
    note = "The memory of meta was too full: this ran on the CPU."
    spec = tiny_spec("vit")
    (prediction,) = fallen_back.classify([photo()], spec)
    assert (prediction.notes, prediction.device) == ((note,), "cpu")
    for from_cache in (False, True):
        found = fallen_back.explain(photo(), replace(spec, note="A note."))
        assert found.notes == ("A note.", note)
        assert found.prediction.notes == (note,)
        assert found.prediction.from_cache is from_cache
    assert json.loads(json.dumps(prediction_json(prediction)))["note"] == note
    assert explanation_json(found)["note"] == f"A note. {note}"


def test_a_convolutional_network_classifies_and_has_no_attention(
    fresh: Pipeline, tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo]
) -> None:
    spec = tiny_spec("resnet")
    found = fresh.explain(photo(), spec)
    assert len(found.prediction.labels) == 5
    assert (found.map, dict(found.rows)) == (None, {})
    assert "no attention" in found.description
    with pytest.raises(OptionError, match=r"no read-out 'class'.*none, it has no attention"):
        fresh.explain(photo(), spec, ExplainRequest(readout="class"))
    comparison = fresh.compare(photo(), [tiny_spec("vit"), spec])
    assert (comparison.agreement[0].rank_correlation, comparison.agreement[0].overlap) == (None, None)


def test_a_best_score_below_the_threshold_says_that_the_photo_is_of_no_class(
    fresh: Pipeline, tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo]
) -> None:
    spec = tiny_spec("vit")
    (plain,) = fresh.classify([photo()], spec)
    score = plain.labels[0].score
    verdicts = [
        fresh.classify([photo()], replace(spec, threshold=threshold))[0].uncovered
        for threshold in (0.0, score * 0.999, score * 1.001, 1.0)
    ]
    assert verdicts == [False, False, True, True]
    assert not fresh.explain(photo(), replace(tiny_spec("dino"), threshold=1.0)).prediction.uncovered


def test_labels_are_compared_only_between_models_of_one_vocabulary(
    fresh: Pipeline, tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo]
) -> None:
    vit, deit, dino = (tiny_spec(kind) for kind in ("vit", "deit", "dino"))
    other = replace(deit, name="other", labels=tuple(reversed(tiny.LABELS)))
    comparison = fresh.compare(photo(), [vit, deit, other, dino])
    pairs = {pair.models: pair for pair in comparison.agreement}
    best = [explanation.prediction.labels[0].index for explanation in comparison.explanations[:2]]
    assert pairs["tiny-vit", "tiny-deit"].same_label is (best[0] == best[1])
    assert pairs["tiny-deit", "other"].same_label is None
    assert pairs["tiny-vit", "tiny-dino"].same_label is None
    assert pairs["tiny-deit", "other"].rank_correlation == pytest.approx(1)
    assert all(-1 <= pair.rank_correlation <= 1 for pair in comparison.agreement)


def test_a_model_without_classifier_is_explained_but_has_no_target(
    fresh: Pipeline, tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo]
) -> None:
    found = fresh.explain(photo(), tiny_spec("dino"))
    assert found.prediction.labels == ()
    assert found.map.values.shape == (4, 4)
    with pytest.raises(OptionError, match="no classifier"):
        fresh.explain(photo(), tiny_spec("dino"), ExplainRequest(target=0))


def test_a_comparison_of_nothing_is_refused(fresh: Pipeline, photo: Callable[..., Photo]) -> None:
    with pytest.raises(OptionError, match="at least one model"):
        fresh.compare(photo(), [])


def test_a_photo_that_was_opened_is_not_opened_again(fresh: Pipeline, photo: Callable[..., Photo]) -> None:
    one = photo()
    assert fresh.open(one) is one
    with pytest.raises(ImageError):
        fresh.open(b"not an image")


@pytest.mark.parametrize("name", [spec.name for spec in default_models(SETTINGS)])
def test_every_embedded_model_explains_an_example(pipeline: Pipeline, name: str) -> None:
    found = pipeline.explain(pipeline.open(CUP), get_spec(name))
    assert found.map.values.shape == (14, 14)
    assert found.map.high > found.map.low >= 0
    assert len(found.prediction.labels) == 5
    assert found.description.startswith("layer 8 of 8, mean of heads, ")
    assert ("linear probe" in " ".join(found.notes)) is (name == "dino-mini")


def test_the_public_functions_do_what_the_pipeline_does(
    pipeline: Pipeline, vit: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITDEMO_DEVICE", "cpu")
    monkeypatch.setattr(vitdemo, "_pipeline", None)
    prediction = vitdemo.classify(CUP, "vit-mini", top_k=2)
    explanation = vitdemo.explain(str(CUP), "vit-mini", layer=3, head=1)
    comparison = vitdemo.compare(CUP.read_bytes(), ["vit-mini", "dino-mini"])
    expected = pipeline.explain(pipeline.open(CUP), vit, ExplainRequest(layer=3, head=1))
    assert [label.index for label in prediction.labels] == [label.index for label in expected.prediction.labels[:2]]
    np.testing.assert_allclose(explanation.map.values, expected.map.values, atol=1e-6)
    assert [found.prediction.spec.name for found in comparison.explanations] == ["vit-mini", "dino-mini"]
    assert comparison.explanations[0].prediction.from_cache
    with pytest.raises(UnknownModelError):
        vitdemo.classify(CUP, "gone")


def test_a_network_can_be_had_for_itself() -> None:
    model = vitdemo.load("vit-mini", device="cpu", dtype="bf16")
    with torch.no_grad():
        logits = model(torch.zeros(2, 3, 224, 224, dtype=torch.bfloat16))
    assert logits.shape == (2, 100)


# The attention of a patch


@pytest.mark.parametrize("kind", ["vit", "deit", "beit", "dinov2-registers", "dinov3", "hybrid"])
def test_the_attention_of_a_patch_is_its_row_of_the_whole_matrix(
    fresh: Pipeline, tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo], kind: str
) -> None:
    spec, picture = tiny_spec(kind), photo()
    model = load_model(spec, torch.device("cpu"), torch.float32)
    model.network.set_attn_implementation("eager")
    with torch.no_grad():
        pixels = preprocess([picture], spec.processor).pixel_values
        attention = model.network(pixels, output_attentions=True).attentions[1][0]
    patches = attention[:, spec.num_prefix_tokens :, spec.num_prefix_tokens :]
    left, top, right, bottom = fresh.explain(picture, spec).view.crop
    rows, columns = spec.patch_grid
    for row, column in ((0, 0), (rows - 1, 0), (rows - 1, columns - 1)):
        point = (left + (column + 0.5) * (right - left) / columns, top + (row + 0.5) * (bottom - top) / rows)
        for head in ("mean", "max", 1):
            found = fresh.explain(picture, spec, ExplainRequest(readout="patch", point=point, layer=1, head=head))
            assert found.map is not None
            assert (found.map.query, found.map.readout, found.map.layer) == ((row, column), "patch", 1)
            heads = patches[:, row * columns + column].reshape(-1, rows, columns).numpy()
            expected = heads[head] if isinstance(head, int) else getattr(heads, head)(axis=0)
            np.testing.assert_allclose(found.map.values, expected, atol=1e-6)
            assert f"patch in row {row + 1}, column {column + 1}" in found.description


def test_queries_are_kept_only_where_they_are_wanted(
    fresh: Pipeline, tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo]
) -> None:
    spec, picture = tiny_spec("vit"), photo()
    assert fresh.explain(picture, spec).queries == ()
    # What is remembered has none: the model runs once more, and never again after that.
    kept = fresh.explain(picture, spec, capture=Capture(queries=True))
    assert not kept.prediction.from_cache
    assert len(kept.queries) == spec.num_layers
    again = fresh.explain(picture, spec, capture=Capture(queries=True))
    assert again.prediction.from_cache
    assert len(again.queries) == spec.num_layers
    assert fresh.explain(picture, spec).prediction.from_cache
    assert fresh.explain(picture, spec, ExplainRequest(method="rollout"), capture=Capture(queries=True)).queries == ()
    assert fresh.explain(
        picture, spec, ExplainRequest(method="rollout"), capture=Capture(queries=True)
    ).prediction.from_cache


def test_pictures_of_one_batch_have_each_their_own_queries(
    backend: LocalBackend, tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo]
) -> None:
    for kind in ("vit", "beit"):
        spec = tiny_spec(kind)
        pixels = preprocess([photo(seed=1), photo(seed=2)], spec.processor).pixel_values
        together = backend.run(spec, pixels, Capture(queries=True))
        for index, output in enumerate(together):
            (alone,) = backend.run(spec, pixels[index : index + 1], Capture(queries=True))
            for one, other in zip(output.queries, alone.queries, strict=True):
                np.testing.assert_allclose(
                    patch_attention(one, spec.patch_grid), patch_attention(other, spec.patch_grid), atol=1e-5
                )
