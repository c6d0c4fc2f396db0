"""Deletion and insertion: the numbers, what they are measured on, and what the commands say of them."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from tests.asking import split
from vitdemo.cli import main
from vitdemo.engine import LocalBackend
from vitdemo.errors import OptionError
from vitdemo.evaluation.accuracy import read_labelled
from vitdemo.evaluation.faithfulness import faithfulness, measure
from vitdemo.export.results import faithfulness_json
from vitdemo.models.loading import Classifier, load_model
from vitdemo.models.preprocess import preprocess
from vitdemo.options.explain import ExplainRequest
from vitdemo.options.methods import METHODS
from vitdemo.pipeline import Pipeline
from vitdemo.registry import get_spec, ready_models, spec_from_folder
from vitdemo.settings import ASSETS, Settings
from vitdemo.types import Explanation, Faithfulness, ModelSpec, Photo

SETTINGS = Settings(device="cpu")
SPECIFIC = [name for name, method in METHODS.items() if method.class_specific]
CUP = str(ASSETS / "examples" / "cup.jpg")

SpecOf = Callable[[str], ModelSpec]
PhotoMaker = Callable[..., Photo]


@pytest.fixture(scope="module")
def own() -> Pipeline:
    return Pipeline(SETTINGS)


def by_hand(
    explanation: Explanation, photo: Photo, target: int, order: list[int], steps: int, **changes: Any
) -> list[float]:
    """The scores while patches are replaced, one forward a step, on the pixel tensor itself."""
    spec = explanation.prediction.spec
    model = load_model(spec, torch.device("cpu"), torch.float32)
    pixels = preprocess([photo], replace(spec.processor, **changes)).pixel_values
    colour = pixels[0].mean(dim=(1, 2))
    columns = explanation.patch_grid[1]
    side = spec.patch_size
    scores = []
    for step in range(steps + 1):
        picture = pixels.clone()
        for patch in order[: round(step * len(order) / steps)]:
            top, left = patch // columns * side, patch % columns * side
            for channel in range(3):
                picture[0, channel, top : top + side, left : left + side] = colour[channel]
        with torch.no_grad():
            logits = model(picture)
        assert logits is not None
        scores.append(float(logits.softmax(dim=-1)[0, target]))
    return scores


def best_first(explanation: Explanation) -> list[int]:
    assert explanation.map is not None
    values = explanation.map.values.ravel().tolist()
    return sorted(range(len(values)), key=lambda patch: -values[patch])


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["vit", "beit", "dinov2-head", "hybrid", "resnet"])
def test_the_curves_are_those_of_replacing_patches_one_step_after_the_other(
    own: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker, kind: str
) -> None:
    spec, picture = tiny_spec(kind), photo(80, 60)
    method = "grad-cam" if kind == "resnet" else "relevance"
    explanation = own.explain(picture, spec, ExplainRequest(method=method))
    assert explanation.map is not None
    target = explanation.map.target
    assert target is not None
    order = best_first(explanation)
    found = faithfulness(own, picture, spec, ExplainRequest(method), steps=5)
    assert (found.method, found.target) == (method, target)
    np.testing.assert_allclose(found.shares, [0, 0.2, 0.4, 0.6, 0.8, 1])
    np.testing.assert_allclose(found.deletion, by_hand(explanation, picture, target, order, 5), atol=1e-5)
    falling = by_hand(explanation, picture, target, sorted(order, key=order.index, reverse=True), 5)
    np.testing.assert_allclose(found.insertion, falling[::-1], atol=1e-5)


def test_the_curves_at_a_resolution_are_of_the_very_picture_that_the_map_was_made_of(
    own: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker
) -> None:
    # 40 x 10 patches, of which 400 as a limit would leave 39 x 10.
    spec, picture = tiny_spec("vit"), photo(1000, 262)
    explanation = own.explain(picture, spec, ExplainRequest(resolution=320))
    assert explanation.patch_grid == (10, 40)
    found = faithfulness(own, picture, spec, ExplainRequest(resolution=320), steps=3)
    expected = by_hand(explanation, picture, found.target, best_first(explanation), 3, resize=(80, 320), crop=None)
    np.testing.assert_allclose(found.deletion, expected, atol=1e-5)


def test_the_curve_starts_at_the_score_that_is_shown(own: Pipeline) -> None:
    spec = get_spec("cnn-mini")
    assert spec.temperature != 1
    photo = own.open(CUP)
    shown = own.classify([photo], spec)[0].labels[0]
    found = faithfulness(own, photo, spec, ExplainRequest("grad-cam"), steps=1)
    assert found.target == shown.index
    assert found.deletion[0] == pytest.approx(shown.score, abs=1e-5)
    assert found.insertion[-1] == pytest.approx(shown.score, abs=1e-5)


def test_a_variant_is_measured_of_the_methods_that_have_it(own: Pipeline, photo: PhotoMaker, tiny_spec: SpecOf) -> None:
    spec, photos = tiny_spec("vit"), [photo(70, 50)]
    usual = measure(own, spec, photos, ["relevance", "legrad"], 3)
    every = measure(own, spec, photos, ["relevance", "legrad"], 3, "all-layers")
    by_hand = faithfulness(own, photos[0], spec, ExplainRequest("legrad", variant="all-layers"), steps=3)
    assert every[0] == usual[0]
    assert every[1] != usual[1]
    assert every[1].deletion == pytest.approx(by_hand.deletion_auc)


def test_a_resolution_that_was_lowered_is_measured_as_lowered(
    own: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker
) -> None:
    spec, picture = tiny_spec("vit"), photo(145, 1145)
    explanation = own.explain(picture, spec, ExplainRequest(method="grad-cam", resolution=927))
    found = faithfulness(own, picture, spec, ExplainRequest("grad-cam", resolution=927), steps=1)
    rows, columns = explanation.patch_grid
    resize = (rows * spec.patch_size, columns * spec.patch_size)
    expected = by_hand(explanation, picture, found.target, best_first(explanation), 1, resize=resize, crop=None)
    np.testing.assert_allclose(found.deletion, expected, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_picture_of_no_whole_number_of_patches_is_measured_by_its_own_cells(
    own: Pipeline, photo: PhotoMaker, tmp_path: Path, kind: str
) -> None:
    spec = spec_from_folder(tiny.save(tmp_path / kind, kind))
    side = 4 * spec.patch_size + 3
    spec = replace(spec, image_size=(side, side), processor=replace(spec.processor, resize=(side, side)))
    explanation = own.explain(photo(), spec, ExplainRequest(method="grad-cam"))
    assert explanation.patch_grid == ((4, 4) if kind == "vit" else (5, 5))
    found = faithfulness(own, photo(), spec, ExplainRequest("grad-cam"), steps=4)
    expected = by_hand(explanation, photo(), found.target, best_first(explanation), 4)
    np.testing.assert_allclose(found.deletion[:-1], expected[:-1], atol=1e-5)


def test_areas_are_of_trapezoids_over_shares_from_none_to_all() -> None:
    found = Faithfulness("rollout", 0, (0, 0.5, 1), (1, 0.5, 0), (0, 1, 1), (1, 0.2, 0))
    assert (found.deletion_auc, found.insertion_auc) == pytest.approx((0.5, 0.75))
    assert found.random_auc == pytest.approx(0.35)


def test_all_curves_meet_in_the_whole_picture_and_in_the_empty_one(
    own: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker
) -> None:
    found = faithfulness(own, photo(), tiny_spec("deit"), ExplainRequest("rollout"), steps=7)
    ends = [(curve[0], curve[-1]) for curve in (found.deletion, found.insertion[::-1], found.random)]
    np.testing.assert_allclose(ends, [ends[0]] * 3, atol=1e-6)
    whole = own.classify([photo()], tiny_spec("deit"))[0].labels[0].score
    assert found.deletion[0] == pytest.approx(whole, abs=1e-5)


# A map that is the truth by construction


class Planted(Classifier):
    """The first class's score is the sum of each patch's brightness times `weights`; its maps come from the pixels alone."""

    def __init__(self, real: Classifier, weights: Tensor) -> None:
        super().__init__(real.network, real.spec)
        self.weights = nn.Parameter(weights)

    def forward(self, pixel_values: Tensor) -> Tensor:
        self.network(pixel_values)  # what is recorded of attention is the network's
        side = self.spec.patch_size
        patches = torch.nn.functional.avg_pool2d(pixel_values.mean(dim=1), side).flatten(1)
        score = (patches * self.weights).sum(dim=1, keepdim=True)
        return torch.cat([score, torch.zeros(len(score), len(self.spec.labels) - 1)], dim=1)


@pytest.fixture
def planted(tiny_spec: SpecOf, photo: PhotoMaker) -> tuple[Pipeline, ModelSpec, Photo, Tensor]:
    """Each patch adds to the score what its brightness and weight make: `gains`, which its map can tell exactly."""
    spec, picture = tiny_spec("vit"), photo(64, 64)
    pixels = preprocess([picture], spec.processor).pixel_values
    difference = torch.nn.functional.avg_pool2d(pixels.mean(dim=1), spec.patch_size).flatten() - pixels.mean()
    gains = torch.randperm(difference.numel()).float() / 2
    weights = gains / difference

    def load(*arguments: Any) -> Classifier:
        return Planted(load_model(*arguments), weights).eval()

    return Pipeline(SETTINGS, LocalBackend(SETTINGS, load)), spec, picture, gains


def with_map(pipeline: Pipeline, values: Tensor) -> Pipeline:
    """The pipeline, whose maps are all these values."""
    explain = pipeline.explain

    def answer(photo: Photo, spec: ModelSpec, request: ExplainRequest, **options: Any) -> Explanation:
        found = explain(photo, spec, request, **options)
        assert found.map is not None
        return replace(found, map=replace(found.map, values=values.view(found.patch_grid).numpy()))

    pipeline.explain = answer  # type: ignore[method-assign]
    return pipeline


@pytest.mark.thorough
def test_a_map_that_is_the_truth_has_the_best_areas_and_its_reverse_the_worst(
    planted: tuple[Pipeline, ModelSpec, Photo, Tensor],
) -> None:
    pipeline, spec, picture, gains = planted
    maps = [gains, -gains, *(gains[torch.randperm(gains.numel())] for _ in range(8))]
    explain = pipeline.explain
    found = []
    for values in maps:
        found.append(
            faithfulness(with_map(pipeline, values), picture, spec, ExplainRequest(target=0), steps=gains.numel())
        )
        pipeline.explain = explain  # type: ignore[method-assign]
    true, false, *others = found
    for other in others:
        assert true.deletion_auc < other.deletion_auc < false.deletion_auc
        assert false.insertion_auc < other.insertion_auc < true.insertion_auc
    assert all(before >= after for before, after in pairwise(true.deletion))
    assert true.deletion_auc < true.random_auc < true.insertion_auc
    # Insertion brings back what deletion of the reversed order takes last.
    np.testing.assert_allclose(true.insertion, false.deletion[::-1], atol=1e-6)
    np.testing.assert_allclose(false.insertion, true.deletion[::-1], atol=1e-6)


def test_each_patch_takes_its_own_share_of_the_score_with_it(
    planted: tuple[Pipeline, ModelSpec, Photo, Tensor],
) -> None:
    pipeline, spec, picture, gains = planted
    found = faithfulness(with_map(pipeline, gains), picture, spec, ExplainRequest(target=0), steps=gains.numel())
    odds = torch.tensor(found.deletion, dtype=torch.float64)
    scores = torch.log(odds / (1 - odds))
    falls = (scores[:-1] - scores[1:])[-6:]
    np.testing.assert_allclose(falls, sorted(gains.tolist(), reverse=True)[-6:], atol=1e-2)


# What is passed on


def test_the_random_baseline_is_that_of_its_seed(own: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker) -> None:
    first, again, other = (
        faithfulness(own, photo(), tiny_spec("vit"), ExplainRequest(), steps=4, seed=seed) for seed in (3, 3, 4)
    )
    assert first == again
    assert first.random != other.random
    assert first.deletion == other.deletion


def test_a_known_baseline_is_not_measured_again(tiny_spec: SpecOf, photo: PhotoMaker) -> None:
    counted = Pipeline(SETTINGS)
    first = faithfulness(counted, photo(), tiny_spec("vit"), ExplainRequest(), steps=4)
    before = counted.backend.forwards
    second = faithfulness(counted, photo(), tiny_spec("vit"), ExplainRequest("rollout"), steps=4, baseline=first.random)
    assert second.random == first.random
    # The map, and two curves.
    assert counted.backend.forwards == before + 3


def test_the_class_is_the_one_that_was_asked_for_and_else_the_predicted_one(
    own: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker
) -> None:
    spec = tiny_spec("vit")
    ranked = own.classify([photo()], spec, top_k=3)[0].labels
    for method in ("attention", "relevance", "similarity"):
        assert faithfulness(own, photo(), spec, ExplainRequest(method), steps=1).target == ranked[0].index
        second = faithfulness(own, photo(), spec, ExplainRequest(method, target="top:2"), steps=1)
        if method != "similarity":
            assert second.target == ranked[1].index
            assert second.deletion[0] == pytest.approx(ranked[1].score, abs=1e-5)
    assert faithfulness(own, photo(), spec, ExplainRequest(target="cup"), steps=1).target == 5


def test_layer_head_and_point_choose_the_map_that_is_measured(
    own: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker
) -> None:
    spec = tiny_spec("vit")
    for method, options in (
        ("attention", {"layer": 0, "head": 2}),
        ("similarity", {"point": (1, 1)}),
        ("rollout", {"discard": 0.6}),
    ):
        explanation = own.explain(photo(), spec, ExplainRequest(method=method, **options))  # type: ignore[arg-type]
        found = faithfulness(own, photo(), spec, ExplainRequest(method, **options), steps=4)
        expected = by_hand(explanation, photo(), found.target, best_first(explanation), 4)
        np.testing.assert_allclose(found.deletion, expected, atol=1e-5)


def test_small_batches_and_bf16_give_the_same_curves(own: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker) -> None:
    spec = tiny_spec("vit")
    whole = faithfulness(own, photo(), spec, ExplainRequest("rollout"), steps=6)
    parts = faithfulness(Pipeline(replace(SETTINGS, max_batch=2)), photo(), spec, ExplainRequest("rollout"), steps=6)
    np.testing.assert_allclose(parts.deletion, whole.deletion, atol=1e-5)
    half = faithfulness(own, photo(), spec, ExplainRequest("rollout"), steps=6, dtype="bf16")
    assert half.deletion != whole.deletion
    np.testing.assert_allclose(half.random, whole.random, atol=0.05)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("dino", {}, "no classifier, so there is no score"),
        ("resnet", {}, "no map of attention"),
        ("vit", {"steps": 0}, "from 1 to 1000, not 0"),
        ("vit", {"steps": 1001}, "from 1 to 1000"),
        ("vit", {"method": "magic"}, "Unknown method"),
        ("vit", {"target": "unicorn"}, "no class 'unicorn'"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_words(
    own: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker, kind: str, options: dict[str, Any], words: str
) -> None:
    request, others = split(options)
    with pytest.raises(OptionError, match=words):
        faithfulness(own, photo(), tiny_spec(kind), request, **others)


def test_figures_are_means_over_photos_and_intervals_hold_the_mean_difference(
    own: Pipeline, tiny_spec: SpecOf, photo: PhotoMaker
) -> None:
    spec, photos = tiny_spec("vit"), [photo(90, 60, seed) for seed in range(3)]
    single = [
        faithfulness(own, one, spec, ExplainRequest("rollout"), steps=3, seed=seed) for seed, one in enumerate(photos)
    ]
    attention, rollout = measure(own, spec, iter(photos), ["attention", "rollout"], steps=3)
    assert (rollout.method, rollout.photos, attention.random) == ("rollout", 3, rollout.random)
    assert rollout.deletion == pytest.approx(np.mean([one.deletion_auc for one in single]))
    assert rollout.random == pytest.approx(np.mean([one.random_auc for one in single]))
    low, high = rollout.deletion_interval
    assert low <= rollout.deletion - rollout.random <= high
    low, high = rollout.insertion_interval
    assert low <= rollout.insertion - rollout.random <= high


def test_no_photos_and_no_classifier_are_refused(own: Pipeline, tiny_spec: SpecOf) -> None:
    with pytest.raises(OptionError, match="no photos"):
        measure(own, tiny_spec("vit"), [], ["attention"])
    with pytest.raises(OptionError, match="no classifier"):
        measure(own, tiny_spec("dino"), [], ["attention"])


# Commands


def test_json_of_explain_has_curves_and_areas(
    capsys: pytest.CaptureFixture[str], own: Pipeline, tiny_folder: Callable[[str], Path], tiny_spec: SpecOf
) -> None:
    options = ["--model", str(tiny_folder("vit")), "--method", "relevance", "--target", "top:2", "--device", "cpu"]
    assert main(["explain", CUP, *options, "--faithfulness", "--json"]) == 0
    entry = json.loads(capsys.readouterr().out)
    found = entry["faithfulness"]
    expected = faithfulness(own, own.open(CUP), tiny_spec("vit"), ExplainRequest("relevance", target="top:2"))
    assert list(found) == list(faithfulness_json(expected))
    assert found["target"] == entry["target"]["index"] == expected.target
    assert found["deletion_auc"] == pytest.approx(expected.deletion_auc, abs=1e-4)
    assert len(found["shares"]) == len(found["random"]) == 21


def test_explain_says_the_areas(capsys: pytest.CaptureFixture[str], tiny_folder: Callable[[str], Path]) -> None:
    assert main(["explain", CUP, "--model", str(tiny_folder("vit")), "--faithfulness"]) == 0
    *_, last = capsys.readouterr().out.strip().splitlines()
    assert last.replace(",", "").split()[::2] == ["deletion", "insertion", "random"]
    assert main(["explain", CUP, "--model", str(tiny_folder("dino")), "--faithfulness"]) == 2
    assert "no classifier" in capsys.readouterr().err


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photos of two classes of the tiny networks."""
    folder = tmp_path_factory.mktemp("labelled")
    from tests.conftest import picture

    for label in ("apple", "cup"):
        (folder / label).mkdir()
        for seed in range(3):
            picture(48, 48, seed).save(folder / label / f"{seed}.png")
    return folder


@pytest.mark.thorough
def test_evaluate_measures_the_methods_that_were_asked_for(
    capsys: pytest.CaptureFixture[str], tiny_folder: Callable[[str], Path], labelled: Path
) -> None:
    command = ["evaluate", str(labelled), "--faithfulness", "--model", str(tiny_folder("vit")), "--steps", "2"]
    assert main([*command, "--method", "rollout,relevance", "--photos", "4", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [(entry["method"], entry["photos"]) for entry in entries] == [("rollout", 4), ("relevance", 4)]
    assert set(entries[0]) >= {"model", "deletion", "insertion", "random", "deletion_interval", "insertion_interval"}
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    methods = [line.split()[0] for line in lines[2:]]
    assert methods == [*(name for name in METHODS if name != "similarity"), "random"]


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("resnet", ["--method", "rollout"], "none of these methods"),
        ("vit", ["--method", "magic"], "Unknown method"),
        ("dino", [], "no classifier"),
    ],
)
def test_evaluate_refuses_what_it_cannot_measure(
    capsys: pytest.CaptureFixture[str],
    tiny_folder: Callable[[str], Path],
    labelled: Path,
    kind: str,
    options: list[str],
    words: str,
) -> None:
    command = ["evaluate", str(labelled), "--faithfulness", "--model", str(tiny_folder(kind)), "--steps", "1"]
    assert main([*command, *options]) == 2
    assert words in capsys.readouterr().err


# What the embedded models do on real photos


@pytest.fixture(scope="module")
def real(caltech: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Photo]:
    """A photo of each of 20 classes."""
    folder = tmp_path_factory.mktemp("real")
    with tarfile.open(caltech) as tar:
        firsts = {member.name.split("/")[-2]: member for member in reversed(tar.getmembers()) if member.isfile()}
        labels = [label for label in sorted(firsts) if label != "_background"]
        chosen = [firsts[label] for label in labels[:: len(labels) // 20][:20]]
        tar.extractall(folder, chosen, filter="data")
    found: Iterator[tuple[str, Photo]] = read_labelled(folder)
    return [one for _, one in found]


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["vit-mini"])
def test_maps_of_a_class_name_patches_that_matter_more_than_random_ones(
    own: Pipeline, real: list[Photo], name: str
) -> None:
    assert len(real) == 20
    assert name in [spec.name for spec in ready_models()]
    # Grad-CAM, of the last block alone, is better by less than 20 photos can tell.
    for found in measure(own, get_spec(name), real, [method for method in SPECIFIC if method != "grad-cam"], steps=4):
        # Not by chance: the whole interval is on the right side.
        assert found.deletion_interval[1] < 0, found
        # So is LeGrad, where patches are put in.
        if found.method in ("grad-rollout", "relevance"):
            assert found.insertion_interval[0] > 0, found


def test_a_tiny_model_in_a_folder_is_measured_by_its_own_files(
    tmp_path: Path, own: Pipeline, photo: PhotoMaker
) -> None:
    spec = spec_from_folder(tiny.save(tmp_path / "other", "vit", patch_size=16))
    found = faithfulness(own, photo(), spec, ExplainRequest(), steps=4)
    # Four patches: a step each.
    assert len(set(found.deletion)) == 5
