"""Results as JSON and NPZ have the documented keys, types and shapes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny
from tests.asking import split
from vitdemo.export.results import comparison_json, explanation_json, model_json, prediction_json, save_npz
from vitdemo.pipeline import Pipeline
from vitdemo.registry import available_models, ready_models
from vitdemo.settings import Settings
from vitdemo.types import Explanation, ModelSpec, Photo

MODEL_KEYS = {
    "name",
    "family",
    "source",
    "parameters",
    "image_size",
    "patch_size",
    "classes",
    "bytes",
    "offline",
    "prefix_tokens",
    "methods",
    "license",
    "revision",
    "link",
    "gated",
}
PREDICTION_KEYS = {"model", "family", "labels", "ms", "device", "dtype"}
EXPLANATION_KEYS = {
    *("model", "method", "layer", "head", "readout", "target", "grid", "crop", "min", "max"),
    *("description", "results", "ms", "device", "dtype", "revision"),
}


@pytest.fixture(scope="module")
def runs() -> Pipeline:
    return Pipeline(Settings(device="cpu"))


@pytest.fixture
def explained(
    runs: Pipeline, tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo]
) -> Callable[..., Explanation]:
    """`explained(kind, **options)`: a real explanation by a tiny model."""

    def explained(kind: str = "vit", **options: Any) -> Explanation:
        request, others = split(options)
        return runs.explain(photo(96, 64), tiny_spec(kind), request, **others)

    return explained


def _read_back(value: Any) -> Any:
    """A round trip through strict JSON."""
    return json.loads(json.dumps(value, allow_nan=False))


def test_every_model_is_listed_with_the_keys_of_the_contract() -> None:
    for spec in ready_models():
        entry = model_json(spec)
        assert set(entry) == MODEL_KEYS
        assert _read_back(entry) == entry
        assert entry["offline"] is (entry["source"] == "embedded")
        assert (entry["image_size"], entry["patch_size"]) == ([224, 224], 32 if spec.family == "CNN" else 16)
        assert entry["classes"] == (0 if spec.family == "MAE" else 100)


def test_a_model_of_the_hub_is_listed_with_its_page_its_license_and_whether_it_is_here() -> None:
    hub = [spec for spec in available_models() if spec.source == "hub"]
    assert len(hub) >= 20
    for spec in hub:
        entry = model_json(spec)
        assert set(entry) == MODEL_KEYS
        assert _read_back(entry) == entry
        assert entry["link"] == f"https://huggingface.co/{spec.name}"
        assert entry["offline"] is False
        assert entry["license"] not in ("", "unknown")
        assert entry["methods"] == list(spec.methods)
    named = {entry["name"]: entry for entry in map(model_json, hub)}
    vit = named["google/vit-base-patch16-224"]
    assert (vit["classes"], vit["prefix_tokens"], vit["gated"]) == (1000, 1, False)
    assert any(entry["gated"] is True for entry in named.values())


@pytest.mark.parametrize(
    ("kind", "prefix"), [("vit", 1), ("deit", 2), ("dinov2-registers", 5), ("dinov3", 5), ("ijepa", 0), ("resnet", 0)]
)
def test_a_model_of_a_folder_has_no_page(tiny_spec: Callable[[str], ModelSpec], kind: str, prefix: int) -> None:
    entry = model_json(tiny_spec(kind))
    assert (entry["source"], entry["link"], entry["offline"]) == ("local", "", True)
    assert (entry["prefix_tokens"], entry["revision"], entry["gated"]) == (prefix, "tiny", False)


def test_a_prediction_has_the_keys_of_the_contract(explained: Callable[..., Explanation]) -> None:
    entry = prediction_json(explained().prediction)
    assert set(entry) == PREDICTION_KEYS
    assert _read_back(entry) == entry
    assert len(entry["labels"]) == 5
    assert all(set(label) == {"label", "score"} for label in entry["labels"])
    scores = [label["score"] for label in entry["labels"]]
    assert scores == sorted(scores, reverse=True)
    assert 0 < sum(scores) <= 1
    assert (entry["model"], entry["family"], entry["device"], entry["dtype"]) == ("tiny-vit", "ViT", "cpu", "fp32")


def test_scores_are_softmax_probabilities_of_all_classes(explained: Callable[..., Explanation]) -> None:
    entry = prediction_json(explained(top_k=100).prediction)
    assert len(entry["labels"]) == len(tiny.LABELS)
    assert sum(label["score"] for label in entry["labels"]) == pytest.approx(1)


def test_a_model_without_a_classifier_has_no_labels_and_says_so(explained: Callable[..., Explanation]) -> None:
    entry = prediction_json(explained("dino").prediction)
    assert set(entry) == {*PREDICTION_KEYS, "note"}
    assert entry["labels"] == []
    assert entry["note"] == "no classifier: self-supervised"


def test_a_score_below_the_threshold_is_noted(explained: Callable[..., Explanation]) -> None:
    prediction = explained().prediction
    strict = replace(prediction, spec=replace(prediction.spec, threshold=1.1, note="A note."))
    assert prediction_json(strict)["note"] == "A note.; probably not one of this model's 7 classes"


def test_how_a_forward_ran_is_noted_between_what_is_known_of_the_model_and_of_the_photo(
    explained: Callable[..., Explanation],
) -> None:
    prediction = replace(explained().prediction, notes=("It ran on the CPU.",))
    assert prediction_json(prediction)["note"] == "It ran on the CPU."
    strict = replace(prediction, spec=replace(prediction.spec, threshold=1.1, note="A note."))
    assert prediction_json(strict)["note"] == "A note.; It ran on the CPU.; probably not one of this model's 7 classes"


def test_an_explanation_has_the_keys_of_the_contract(explained: Callable[..., Explanation]) -> None:
    found = explained(layer=1, head=2)
    entry = explanation_json(found)
    assert set(entry) == EXPLANATION_KEYS
    assert _read_back(entry) == entry
    assert (entry["method"], entry["layer"], entry["head"], entry["readout"]) == ("attention", 1, 2, "class")
    assert entry["target"] is None
    assert (entry["grid"], entry["crop"]) == ([4, 4], [0, 0, 96, 64])
    assert entry["min"] == found.map.values.min()
    assert entry["max"] == found.map.values.max()
    assert entry["description"].startswith("layer 2 of 3, head 3 of 4, class token: ")
    assert entry["results"] == [prediction_json(found.prediction)]
    assert entry["revision"] == "tiny"
    assert entry["ms"] > 0


def test_a_target_is_given_with_its_index_and_its_label(explained: Callable[..., Explanation]) -> None:
    entry = explanation_json(explained(target="easy_face"))
    assert entry["target"] == {"index": 1, "label": "easy face"}
    assert entry["note"] == "Attention does not depend on the target class."
    assert set(entry) == {*EXPLANATION_KEYS, "note"}


def test_an_explanation_without_a_map_has_the_same_keys(explained: Callable[..., Explanation]) -> None:
    found = replace(explained(), map=None, rows={}, description="")
    entry = explanation_json(found)
    assert set(entry) == EXPLANATION_KEYS
    for key in ("method", "layer", "head", "readout", "target", "min", "max"):
        assert entry[key] is None
    assert _read_back(entry) == entry


def test_a_comparison_has_a_result_a_model_and_an_agreement_a_pair(
    runs: Pipeline, tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo], vit: ModelSpec
) -> None:
    specs = [tiny_spec("vit"), tiny_spec("deit"), tiny_spec("dino"), vit]
    entry = comparison_json(runs.compare(photo(96, 64), specs))
    assert set(entry) == {"results", "agreement"}
    assert _read_back(entry) == entry
    assert [result["model"] for result in entry["results"]] == [spec.name for spec in specs]
    assert all(set(result) >= EXPLANATION_KEYS for result in entry["results"])
    words = {tuple(pair["models"]): pair["prediction"] for pair in entry["agreement"]}
    assert len(words) == 6
    assert words[("tiny-vit", "tiny-deit")] in ("same label", "different labels")
    assert words[("tiny-vit", "vit-mini")] == "different vocabularies"
    assert words[("tiny-vit", "tiny-dino")] == words[("tiny-dino", "vit-mini")] == "no classifier"
    for pair in entry["agreement"]:
        assert set(pair) == {"models", "prediction", "rank_correlation", "iou"}
        assert -1 <= pair["rank_correlation"] <= 1
        assert 0 <= pair["iou"] <= 1


def test_equal_and_different_labels_are_told_apart(
    runs: Pipeline, tiny_spec: Callable[[str], ModelSpec], photo: Callable[..., Photo]
) -> None:
    comparison = runs.compare(photo(96, 64), [tiny_spec("vit"), replace(tiny_spec("vit"), name="twin")])
    (pair,) = comparison.agreement
    assert comparison_json(comparison)["agreement"][0]["prediction"] == "same label"
    assert (pair.rank_correlation, pair.overlap) == (pytest.approx(1), 1)
    apart = replace(comparison, agreement=(replace(pair, same_label=False, rank_correlation=None, overlap=0.25),))
    (entry,) = comparison_json(apart)["agreement"]
    assert entry == {
        "models": ["tiny-vit", "twin"],
        "prediction": "different labels",
        "rank_correlation": None,
        "iou": 0.25,
    }


def test_the_npz_has_raw_numbers_of_the_contracts_types_and_shapes(
    explained: Callable[..., Explanation], tmp_path: Path
) -> None:
    found = explained("deit", layer=0, head="max", readout="distillation")
    path = tmp_path / "numbers"  # no suffix is added to a name that the user chose
    save_npz(path, found, {"image": "kühl.jpg", "layer": 0})
    with np.load(path, allow_pickle=False) as arrays:
        assert set(arrays) == {"map", "rows", "crop", "meta"}
        assert arrays["map"].dtype == arrays["rows"].dtype == np.float32
        assert arrays["map"].shape == (4, 4)
        assert arrays["rows"].shape == (3, 4, 4, 4)
        assert np.array_equal(arrays["map"], found.map.values)
        assert np.array_equal(arrays["rows"], found.rows["class"]), "of the class token, whatever is shown"
        assert arrays["crop"].dtype.kind == "i"
        assert arrays["crop"].tolist() == [0, 0, 96, 64]
        assert json.loads(str(arrays["meta"])) == {"image": "kühl.jpg", "layer": 0}
    # The columns of the patches only: what the prefix tokens have is missing from 1, and is not made up for.
    assert (found.rows["class"].sum(axis=(2, 3)) < 1).all()


def test_the_npz_of_a_model_without_attention_has_no_map_and_no_rows(
    explained: Callable[..., Explanation], tmp_path: Path
) -> None:
    save_npz(tmp_path / "numbers.npz", replace(explained(), map=None, rows={}), {})
    with np.load(tmp_path / "numbers.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"crop", "meta"}


def test_the_npz_of_a_mean_pooled_model_has_the_rows_of_its_class_token(
    explained: Callable[..., Explanation], tmp_path: Path
) -> None:
    found = explained("beit")
    found = replace(found, rows=dict(sorted(found.rows.items(), reverse=True)))
    assert found.map.readout == "mean"
    save_npz(tmp_path / "numbers.npz", found, {})
    with np.load(tmp_path / "numbers.npz", allow_pickle=False) as arrays:
        np.testing.assert_allclose(arrays["map"], found.rows["mean"][-1].mean(axis=0))
        assert np.array_equal(arrays["rows"], found.rows["class"])
