"""Methods through the pipeline: what applies, what is refused, high resolutions, threads, the cache, and what is written."""

from __future__ import annotations

import itertools
import json
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr

from tests import tiny
from tests.asking import split
from vitdemo.engine import LocalBackend
from vitdemo.errors import OptionError
from vitdemo.export.results import explanation_json, save_npz
from vitdemo.models import attention_tap as capture
from vitdemo.models.loading import Classifier, load_model
from vitdemo.options.explain import ExplainRequest
from vitdemo.options.methods import METHODS
from vitdemo.pipeline import Pipeline
from vitdemo.pipeline.prepare import MAX_GRADIENT_TOKENS, MAX_TOKENS
from vitdemo.registry import spec_from_folder
from vitdemo.settings import ASSETS, Settings
from vitdemo.types import Explanation, ModelSpec, Photo
from vitdemo.ui.components.explorer import explorer_value

SETTINGS = Settings(device="cpu")
KINDS = (*tiny.KINDS, "resnet")
NON_ATTENTION = tuple(name for name in METHODS if name != "attention")
SPECIFIC = tuple(name for name, method in METHODS.items() if method.class_specific)
UNSPECIFIC = tuple(name for name in METHODS if name not in SPECIFIC)
EXAMPLES = ASSETS / "examples"

SpecOf = Callable[[str], ModelSpec]
PhotoMaker = Callable[..., Photo]


@pytest.fixture(scope="module")
def models() -> list[Classifier]:
    """Every model that `backend` has loaded."""
    return []


@pytest.fixture(scope="module")
def backend(models: list[Classifier]) -> LocalBackend:
    def load(*arguments: Any) -> Classifier:
        models.append(load_model(*arguments))
        return models[-1]

    return LocalBackend(SETTINGS, load)


@pytest.fixture
def fresh(backend: LocalBackend) -> Pipeline:
    """A pipeline that remembers nothing yet, over models that are loaded."""
    return Pipeline(SETTINGS, backend)


def _values(explanation: Explanation) -> np.ndarray[Any, Any]:
    assert explanation.map is not None
    return explanation.map.values


# What applies


@pytest.mark.parametrize("kind", KINDS)
def test_the_methods_of_a_model_are_exactly_those_that_make_a_map(
    fresh: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker, kind: str
) -> None:
    spec = tiny_spec(kind)
    made = []
    for method in METHODS:
        try:
            found = fresh.explain(photo(), spec, ExplainRequest(method=method))
        except OptionError:
            continue
        if found.map is None:
            continue
        made.append(method)
        assert found.map.method == method
        assert found.map.values.shape == found.patch_grid == spec.patch_grid
        assert np.isfinite(found.map.values).all()
        assert np.ptp(found.map.values) > 0
        own = (found.map.layer, found.map.head, found.map.readout)
        assert own == ((spec.num_layers - 1, "mean", spec.readouts[0]) if method == "attention" else (None,) * 3)
        assert (found.map.target is not None) is METHODS[method].class_specific
    assert tuple(made) == spec.methods


@pytest.mark.parametrize("method", SPECIFIC)
def test_a_method_that_explains_a_class_is_refused_where_there_is_none(
    fresh: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker, method: str
) -> None:
    for kind in tiny.HEADLESS:
        with pytest.raises(OptionError) as error:
            fresh.explain(photo(), tiny_spec(kind), ExplainRequest(method=method))
        assert str(error.value) == (
            f"{METHODS[method].title} does not apply to tiny-{kind}: it explains a class, and this model has no "
            "classifier. Methods that do: attention, rollout, similarity."
        )


@pytest.mark.parametrize("method", ["rollout", "grad-rollout", "relevance", "legrad"])
def test_a_method_that_needs_attention_is_refused_where_there_is_none(
    fresh: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker, method: str
) -> None:
    with pytest.raises(OptionError) as error:
        fresh.explain(photo(), tiny_spec("resnet"), ExplainRequest(method=method))
    assert str(error.value) == (
        f"{METHODS[method].title} does not apply to tiny-resnet: it needs attention, and a convolutional network has none. "
        "Methods that do: grad-cam, similarity."
    )


def test_attention_of_a_resnet_is_a_prediction_without_a_map(
    fresh: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker
) -> None:
    found = fresh.explain(photo(), tiny_spec("resnet"))
    assert found.map is None
    assert len(found.prediction.labels) == 5
    assert found.description == "no attention: a convolutional network"
    assert found.prediction.labels == fresh.classify([photo()], tiny_spec("resnet"))[0].labels


@pytest.mark.parametrize("method", ["lrp", "", "Rollout", "grad_cam"])
def test_an_unknown_method_is_refused_with_all_that_there_are(
    fresh: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker, method: str
) -> None:
    with pytest.raises(OptionError) as error:
        fresh.explain(photo(), tiny_spec("vit"), ExplainRequest(method=method))
    assert str(error.value) == f"Unknown method {method!r}. Choose from: {', '.join(METHODS)}."


@pytest.mark.parametrize("discard", [-0.1, 1, 1.5, math.nan, math.inf])
def test_rollout_refuses_to_discard_less_than_nothing_or_everything(
    fresh: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker, discard: float
) -> None:
    with pytest.raises(OptionError, match="at least 0 and below 1"):
        fresh.explain(photo(), tiny_spec("vit"), ExplainRequest(method="rollout", discard=discard))


@pytest.mark.parametrize("head", [0, "0", "median", ""])
def test_rollout_refuses_a_single_head(fresh: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker, head: int | str) -> None:
    with pytest.raises(OptionError, match="head must be one of mean, max, min"):
        fresh.explain(photo(), tiny_spec("vit"), ExplainRequest(method="rollout", head=head))


def test_fusion_and_discard_change_rollout(fresh: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker) -> None:
    options: list[dict[str, Any]] = [{}, {"head": "max"}, {"head": "min"}, {"discard": 0.5}, {"discard": 0.9}]
    maps = [
        _values(fresh.explain(photo(), tiny_spec("vit"), ExplainRequest(method="rollout", **one))) for one in options
    ]
    for index, found in enumerate(maps):
        for other in maps[:index]:
            assert not np.allclose(found, other, rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_class_that_there_is_not_is_refused(
    fresh: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker, method: str
) -> None:
    for target, message in ((7, "classes 0 to 6"), ("top:8", "top:1 to top:7"), ("sun", "Near: sunflower")):
        with pytest.raises(OptionError, match=message):
            fresh.explain(photo(), tiny_spec("vit"), ExplainRequest(method=method, target=target))


def test_a_layer_that_there_is_not_is_refused(fresh: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker) -> None:
    with pytest.raises(OptionError, match="layers 0 to 2"):
        fresh.explain(photo(), tiny_spec("vit"), ExplainRequest(layer=3))
    with pytest.raises(OptionError, match="no read-out 'mean'"):
        fresh.explain(photo(), tiny_spec("vit"), ExplainRequest(method="rollout", readout="mean"))


# Points


@pytest.mark.parametrize("kind", ["vit", "resnet", "hybrid", "dinov3"])
@pytest.mark.parametrize(("point", "patch"), [((0, 0), (0, 0)), ((95.9, 63.9), (3, 3)), ((30, 17), (1, 1))])
def test_similarity_compares_with_the_patch_at_the_point(
    fresh: Pipeline,
    tiny_spec: SpecOf,
    photo: PhotoMaker,
    kind: str,
    point: tuple[float, float],
    patch: tuple[int, int],
) -> None:
    values = _values(fresh.explain(photo(96, 64), tiny_spec(kind), ExplainRequest(method="similarity", point=point)))
    assert values[patch] == pytest.approx(1, abs=1e-5)
    assert np.unravel_index(values.argmax(), values.shape) == patch
    assert values.min() >= -1.00001


def test_without_a_point_the_middle_is_compared_with(fresh: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker) -> None:
    values = _values(fresh.explain(photo(96, 64), tiny_spec("vit"), ExplainRequest(method="similarity")))
    assert np.unravel_index(values.argmax(), values.shape) == (2, 2)


def test_points_are_places_of_the_photo_and_not_of_the_crop(
    fresh: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker
) -> None:
    spec = tiny_spec("vit")
    spec = replace(spec, processor=replace(spec.processor, resize=32, crop=(32, 32)))
    # Of 96 x 64 pixels, 64 x 64 in the middle are seen.
    for x, column in ((16, 0), (31.9, 0), (32, 1), (79.9, 3)):
        values = _values(fresh.explain(photo(96, 64), spec, ExplainRequest(method="similarity", point=(x, 20))))
        assert np.unravel_index(values.argmax(), values.shape) == (1, column)
    for x in (0, 15.9, 80, 95):
        with pytest.raises(OptionError, match="x from 16 to 79, y from 0 to 63"):
            fresh.explain(photo(96, 64), spec, ExplainRequest(method="similarity", point=(x, 20)))


@pytest.mark.parametrize("point", [(-1, 0), (0, -0.1), (96, 0), (0, 64), (math.nan, 1), (math.inf, 1)])
def test_a_point_beside_the_photo_is_refused_with_the_range(
    fresh: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker, point: tuple[float, float]
) -> None:
    with pytest.raises(OptionError, match="x from 0 to 95, y from 0 to 63"):
        fresh.explain(photo(96, 64), tiny_spec("vit"), ExplainRequest(method="similarity", point=point))


# Targets


@pytest.mark.thorough
@pytest.mark.parametrize("method", SPECIFIC)
@pytest.mark.parametrize("kind", ["vit", "deit", "beit", "hybrid"])
def test_a_class_by_label_index_rank_or_default_has_one_map(
    fresh: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker, method: str, kind: str
) -> None:
    spec = tiny_spec(kind)
    labels = fresh.classify([photo()], spec, top_k=7)[0].labels
    for rank, label in ((1, labels[0]), (3, labels[2])):
        targets: list[int | str | None] = [label.index, str(label.index), f"top:{rank}"]
        targets += [None] if rank == 1 else []
        targets += [label.label] if label.label != "crane" else []
        maps = [fresh.explain(photo(), spec, ExplainRequest(method=method, target=target)).map for target in targets]
        assert {found.target for found in maps if found} == {label.index}
        for found in maps:
            np.testing.assert_array_equal(found.values, maps[0].values)


@pytest.mark.parametrize("method", METHODS)
def test_two_classes_have_two_maps_where_a_class_is_explained_and_one_elsewhere(
    fresh: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker, method: str
) -> None:
    spec = tiny_spec("vit")
    maps = [
        _values(fresh.explain(photo(), spec, ExplainRequest(method=method, target=target)))
        for target in ("apple", "cup")
    ]
    assert np.allclose(*maps, rtol=1e-4) is not METHODS[method].class_specific


def test_attention_says_that_it_does_not_depend_on_the_class(
    fresh: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker
) -> None:
    found = fresh.explain(photo(), tiny_spec("vit"), ExplainRequest(target="cup"))
    assert "Attention does not depend on the target class." in found.notes


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.class_specific])
def test_a_map_without_anything_says_why_and_what_to_try(
    fresh: Pipeline, photo: PhotoMaker, tmp_path: Path, method: str
) -> None:
    # A class that the classifier has no weights for: no gradient reaches a patch.
    folder = tiny.save(tmp_path / "blind", "vit")
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"][2] = 0
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    spec = spec_from_folder(folder)
    found = fresh.explain(photo(), spec, ExplainRequest(method, target=2))
    assert found.map is not None
    if method == "grad-rollout":
        # Only the residual connection is left, of which nothing reaches a patch.
        assert found.map.high == 0
    said = explanation_json(found)["note"]
    assert f"Nothing counts for {spec.labels[2]}: " in said
    assert "Try another class, " in said
    panel = explorer_value("id", photo(), [found], {}, {})["panels"][0]
    assert panel["method"]["flat"] in said
    assert panel["method"]["flat"] not in panel["notes"]
    other = fresh.explain(photo(), spec, ExplainRequest(method, target=3))
    assert other.map is not None
    assert ("Nothing counts for" in " ".join(other.notes)) == (other.map.high == 0)


# Resolutions


SHAPES = [((96, 64), 9, (6, 9)), ((50, 100), 12, (12, 6)), ((400, 20), 6, (1, 6))]
"""Size of a photo, its resolution in patches, and the patch grid that it gets."""


@pytest.mark.parametrize("kind", ["vit", "deit", "beit", "beit-shared", "dinov3", "ijepa", "hybrid", "resnet"])
def test_a_map_has_the_grid_of_the_photos_own_shape(
    fresh: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker, kind: str
) -> None:
    spec = tiny_spec(kind)
    for method, (size, resolution, cells) in itertools.product(spec.methods, SHAPES):
        request = ExplainRequest(method=method, resolution=resolution * spec.patch_size)
        found = fresh.explain(photo(*size), spec, request)
        assert found.patch_grid == _values(found).shape == cells, method
        assert np.isfinite(_values(found)).all()
        # Where no patch of so few raises the score, Grad-CAM is 0 everywhere.
        assert np.ptp(_values(found)) > 0 or method == "grad-cam"
        assert found.view.crop == (0, 0, *size)
        assert not any("lowered" in note for note in found.notes)


@pytest.mark.thorough
@pytest.mark.parametrize("method", METHODS)
def test_a_resolution_of_too_many_patches_is_lowered_and_the_map_says_so(
    fresh: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker, method: str
) -> None:
    spec = tiny_spec("vit")
    limit = MAX_GRADIENT_TOKENS if method in SPECIFIC else MAX_TOKENS
    found = fresh.explain(photo(100, 25), spec, ExplainRequest(method=method, resolution=8000))
    rows, columns = _values(found).shape
    assert limit * 0.9 <= rows * columns <= limit
    assert columns / rows == pytest.approx(4, abs=0.1)
    note = f"The resolution was lowered from 8000 to {columns * 8} pixels: {limit} patches are the limit."
    assert note in found.notes
    assert np.isfinite(_values(found)).all()


@pytest.mark.parametrize("method", ["relevance", "rollout"])
def test_a_resolution_within_the_limit_is_kept(
    fresh: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker, method: str
) -> None:
    found = fresh.explain(photo(64, 64), tiny_spec("vit"), ExplainRequest(method=method, resolution=256))
    assert _values(found).shape == (32, 32)
    assert not any("resolution" in note or "pixels" in note for note in found.notes)


def test_a_point_is_found_at_a_higher_resolution(fresh: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker) -> None:
    for point, patch in (((0, 0), (0, 0)), ((50, 30), (3, 6)), ((95, 63), (7, 11))):
        found = fresh.explain(
            photo(96, 64), tiny_spec("beit"), ExplainRequest(method="similarity", resolution=96, point=point)
        )
        assert np.unravel_index(_values(found).argmax(), (8, 12)) == patch


# What stays


def _assert_nothing_left(models: list[Classifier]) -> None:
    assert models
    for model in models:
        for module in model.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
            assert not module._backward_hooks
            assert not module.training
        for weights in model.parameters():
            assert weights.grad is None
            assert not weights.requires_grad
    assert torch.is_grad_enabled()
    assert capture._ACTIVE.get() is None


@pytest.mark.parametrize("method", NON_ATTENTION)
def test_nothing_stays_on_a_model_of_a_map_that_succeeds_or_fails(
    fresh: Pipeline,
    tiny_spec: SpecOf,
    photo: PhotoMaker,
    models: list[Classifier],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    spec = tiny_spec("msn")
    expected = fresh.explain(photo(), spec, ExplainRequest(method=method))
    _assert_nothing_left(models)
    (model,) = [model for model in models if model.spec == spec]
    network: Any = model.network

    def fails(*_: Any) -> None:
        raise RuntimeError("half way")

    with monkeypatch.context() as patch:
        patch.setattr(network.vit.layers[1].mlp, "forward", fails)
        with pytest.raises(RuntimeError, match="half way"):
            fresh.explain(photo(seed=1), spec, ExplainRequest(method=method))
    _assert_nothing_left(models)
    again = Pipeline(SETTINGS, fresh.backend).explain(photo(), spec, ExplainRequest(method=method))
    np.testing.assert_array_equal(_values(again), _values(expected))


@pytest.mark.thorough
def test_threads_at_once_get_what_they_get_alone(backend: LocalBackend, tiny_spec: SpecOf, photo: PhotoMaker) -> None:
    asked: list[tuple[Photo, ModelSpec, dict[str, Any]]] = [
        (photo(seed=seed), tiny_spec(kind), {"method": method, **({"target": target} if method in SPECIFIC else {})})
        for seed, target in ((1, "apple"), (2, 5))
        for kind in ("vit", "beit")
        for method in METHODS
    ]
    alone = [Pipeline(SETTINGS, backend).explain(one, spec, ExplainRequest(**options)) for one, spec, options in asked]
    shared = Pipeline(SETTINGS, backend)
    gate = threading.Barrier(len(asked))

    def explain(index: int) -> Explanation:
        one, spec, options = asked[index]
        gate.wait()
        return shared.explain(one, spec, ExplainRequest(**options))

    with ThreadPoolExecutor(len(asked)) as pool:
        together = list(pool.map(explain, range(len(asked))))
    for found, expected, (_, _, options) in zip(together, alone, asked, strict=True):
        largest = np.abs(_values(expected)).max()
        np.testing.assert_allclose(_values(found), _values(expected), atol=1e-5 * largest, err_msg=str(options))
        assert found.map.target == expected.map.target
        assert found.description == expected.description


# The cache


@pytest.mark.parametrize("method", METHODS)
def test_the_second_ask_comes_from_the_cache_and_is_the_same(
    fresh: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker, method: str
) -> None:
    spec = tiny_spec("vit")
    first = fresh.explain(photo(), spec, ExplainRequest(method=method))
    forwards = fresh.backend.forwards
    second = fresh.explain(photo(), spec, ExplainRequest(method=method))
    assert fresh.backend.forwards == forwards
    assert [one.prediction.from_cache for one in (first, second)] == [False, True]
    np.testing.assert_array_equal(_values(first), _values(second))
    assert (second.description, second.notes, second.map.target) == (
        first.description,
        first.notes,
        first.map.target,
    )


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("relevance", [{"target": 1}, {"target": 2}, {"target": "top:2"}, {"resolution": 40}, {"dtype": "bf16"}]),
        ("rollout", [{}, {"head": "max"}, {"discard": 0.2}]),
        ("similarity", [{"point": (1, 1)}, {"point": (90, 60)}]),
    ],
)
def test_what_changes_a_map_has_an_entry_of_its_own(
    fresh: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker, method: str, options: list[dict[str, Any]]
) -> None:
    spec = tiny_spec("vit")
    asked = [split({"method": method, **one}) for one in options]
    found = [fresh.explain(photo(), spec, request, **others) for request, others in asked]
    assert not any(one.prediction.from_cache for one in found)
    again = [fresh.explain(photo(), spec, request, **others) for request, others in asked]
    for one, other in zip(found, again, strict=True):
        assert other.prediction.from_cache
        np.testing.assert_array_equal(_values(one), _values(other))


def test_methods_do_not_share_an_entry(fresh: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker) -> None:
    found = [fresh.explain(photo(), tiny_spec("vit"), ExplainRequest(method=method)) for method in METHODS]
    assert not any(one.prediction.from_cache for one in found)
    for index, one in enumerate(found):
        for other in found[:index]:
            assert not np.allclose(_values(one), _values(other), rtol=1e-3)


@pytest.mark.parametrize("method", NON_ATTENTION)
def test_a_map_cannot_be_written_to(fresh: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker, method: str) -> None:
    for _ in range(2):
        values = _values(fresh.explain(photo(), tiny_spec("vit"), ExplainRequest(method=method)))
        with pytest.raises(ValueError, match="read-only"):
            values[0, 0] = 1
        assert values.dtype == np.float32


# What is said and written


@pytest.mark.parametrize("method", NON_ATTENTION)
def test_json_and_files_of_a_map_that_joins_all_layers(
    fresh: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker, tmp_path: Path, method: str
) -> None:
    target = "sunflower" if method in SPECIFIC else None
    found = fresh.explain(photo(), tiny_spec("vit"), ExplainRequest(method=method, target=target))
    words = METHODS[method].title + (" for sunflower" if target else "")
    assert found.description.startswith(f"{words}: ")
    assert ("cosine" if method == "similarity" else "% of it on ") in found.description
    said = json.loads(json.dumps(explanation_json(found)))
    assert said["method"] == method
    assert [said[key] for key in ("layer", "head", "readout")] == [None, None, None]
    assert said["target"] == ({"index": 6, "label": "sunflower"} if target else None)
    assert said["grid"] == [4, 4]
    assert (said["min"], said["max"]) == (float(_values(found).min()), float(_values(found).max()))
    assert said["description"] == found.description
    assert "note" not in said
    save_npz(tmp_path / "map.npz", found, said)
    with np.load(tmp_path / "map.npz") as file:
        assert set(file.files) == {"map", "crop", "meta"}
        np.testing.assert_array_equal(file["map"], _values(found))
        assert json.loads(str(file["meta"])) == said


def test_maps_of_any_two_methods_are_compared(fresh: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker) -> None:
    specs = [tiny_spec(kind) for kind in ("vit", "beit", "resnet")]
    found = fresh.compare(photo(), specs, ExplainRequest(method="grad-cam", target=5))
    assert [one.map.target for one in found.explanations] == [5, 5, 5]
    assert all(-1 <= pair.rank_correlation <= 1 for pair in found.agreement)


# Half precision

BF16 = {"grad-cam": 0.97}
"""Mean rank correlation with the maps of float32, where it is below 0.99: where Grad-CAM is 0, ranks are those of rounding."""


def _agreement_of_bf16(pipeline: Pipeline, spec: ModelSpec, method: str, names: list[str]) -> float:
    found = []
    for name in names:
        one = pipeline.open(EXAMPLES / f"{name}.jpg")
        target = pipeline.classify([one], spec, dtype="fp32")[0].labels[0].index if method in SPECIFIC else None
        maps = [
            _values(pipeline.explain(one, spec, ExplainRequest(method=method, target=target), dtype=dtype)).ravel()
            for dtype in ("fp32", "bf16")
        ]
        found.append(spearmanr(*maps).statistic)
    return float(np.mean(found))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "method",
    [
        # One that needs no gradients, and one that does; each takes seconds.
        pytest.param(name, marks=[] if name in ("attention", "relevance") else pytest.mark.thorough)
        for name in METHODS
    ],
)
def test_maps_of_bf16_rank_patches_as_those_of_float32(pipeline: Pipeline, vit: ModelSpec, method: str) -> None:
    assert _agreement_of_bf16(pipeline, vit, method, ["crab", "cup", "panda"]) >= BF16.get(method, 0.99)
