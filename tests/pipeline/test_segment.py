"""From photos to masks: every family, every method, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vitdemo.errors import OptionError
from vitdemo.export.results import segmentation_json
from vitdemo.options.segment import METHODS, PatchGraph, SegmentRequest, patch_graph
from vitdemo.pipeline import Pipeline
from vitdemo.pipeline.segment import segment
from vitdemo.registry import OFFICIAL, get_spec
from vitdemo.settings import ASSETS
from vitdemo.types import ModelSpec, Photo, Segmentation

Spec = Callable[[str], ModelSpec]
Maker = Callable[..., Photo]

FAMILIES = ("dino", "dinov2", "dinov2-registers", "dinov3", "vit", "deit", "beit", "mae", "hybrid", "ijepa")


def example(pipeline: Pipeline, name: str) -> Photo:
    return pipeline.open(Path(ASSETS / "examples" / f"{name}.jpg"))


@pytest.mark.thorough
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_has_every_method_at_any_shape(
    kind: str, method: str, pipeline: Pipeline, tiny_spec: Spec, photo: Maker
) -> None:
    spec = tiny_spec(kind)
    photos = [photo(90, 60, seed=1), photo(50, 70, seed=2)]
    found = segment(pipeline, photos, spec, SegmentRequest(method=method, resolution=64))
    for one, own in zip(found, photos, strict=True):
        left, top, right, bottom = one.view.crop
        assert one.masks.shape[1:] == (bottom - top, right - left)
        assert len(one.masks) == len(one.names) == len(one.patches)
        # The shape of the photo, not a square.
        assert (one.patches.shape[1] > one.patches.shape[2]) == (own.size[1] > own.size[0])
        assert one.outliers is not None
        assert one.outliers.shape == one.patches.shape[1:]
        assert one.parameters["resolution"] == 64
    assert bool(found[1].pairs) <= (method == "similarity")
    assert not found[0].pairs


def test_what_follows_from_the_features_runs_no_model(pipeline: Pipeline, photo: Maker) -> None:
    spec, one = get_spec("dino-mini"), photo(300, 200, seed=5)
    segment(pipeline, [one], spec)
    before = pipeline.backend.forwards
    for parameters in (
        SegmentRequest(objects=3),
        SegmentRequest(tau=0.2, refine=True),
        SegmentRequest(method="attention", threshold=0.3, head="all"),
        SegmentRequest(method="parts", parts=2, clip=True),
        SegmentRequest(method="pca"),
        SegmentRequest(method="similarity", point=(5, 5)),
    ):
        segment(pipeline, [one], spec, parameters)
    assert pipeline.backend.forwards == before


def test_outlier_patches_are_told_and_clipped_on_request(pipeline: Pipeline) -> None:
    spec, photo = get_spec("dino-mini"), example(pipeline, "astronaut")
    (plain,) = segment(pipeline, [photo], spec, SegmentRequest(method="attention", threshold=0.9))
    (clipped,) = segment(pipeline, [photo], spec, SegmentRequest(method="attention", threshold=0.9, clip=True))
    assert plain.outliers is not None
    assert plain.outliers.any()
    assert clipped.outliers is not None
    np.testing.assert_array_equal(plain.outliers, clipped.outliers)
    assert plain.values is not None
    assert clipped.values is not None
    changed = plain.values != clipped.values
    np.testing.assert_array_equal(changed, plain.outliers)
    assert "can be suppressed" in " ".join(plain.notes)
    assert "mean of the neighbours" in " ".join(clipped.notes)


@pytest.mark.parametrize(("value", "tau"), [(0, None), (128, None), (255, None), (128, 0.98)])
def test_a_photo_of_one_colour_has_no_foreground(
    pipeline: Pipeline, tiny_spec: Spec, value: int, tau: float | None
) -> None:
    noise = np.random.default_rng(0).normal(0, 1.5, (200, 300, 3))
    photo = pipeline.open(np.clip(value + noise, 0, 255).astype(np.uint8))
    for spec in (get_spec("dino-mini"), get_spec("vit-mini"), tiny_spec("dinov2")):
        (found,) = segment(pipeline, [photo], spec, SegmentRequest(tau=tau))
        assert not len(found.masks), spec.name
        assert " ".join(found.notes[-2:]) == "The photo is of one colour: nothing stands out. No foreground found."


def test_more_objects_than_there_are_is_said(pipeline: Pipeline) -> None:
    (found,) = segment(pipeline, [example(pipeline, "crab")], get_spec("dino-mini"), SegmentRequest(objects=10))
    assert 1 <= len(found.masks) < 10
    assert list(found.names) == [f"object {number + 1}" for number in range(len(found.masks))]
    assert len(found.notes) >= 1
    assert not (found.masks.sum(axis=0) > 1).any()


def test_how_patches_are_compared_depends_on_where_a_model_is_from_and_not_on_its_size(tiny_spec: Spec) -> None:
    own = get_spec("dino-mini")
    assert patch_graph(own) == PatchGraph("keys and hidden states", 0.5)
    assert patch_graph(replace(own, parameters=10**9)) == patch_graph(own)
    for name in ("facebook/dino-vits16", "facebook/dino-vitb8"):
        assert patch_graph(OFFICIAL[name]) == PatchGraph("keys", 0.2)
    for name in (
        "facebook/dinov2-small",
        "facebook/dinov2-with-registers-base",
        "facebook/dinov3-vits16-pretrain-lvd1689m",
    ):
        assert patch_graph(OFFICIAL[name]) == PatchGraph("hidden states", None)
    for kind in ("dinov2", "dinov2-registers", "dinov3"):
        assert patch_graph(tiny_spec(kind)) == PatchGraph("hidden states", None)
    assert patch_graph(OFFICIAL["google/vit-base-patch16-224"]) == PatchGraph("keys and hidden states", None)


def test_what_patches_were_compared_by_is_told(pipeline: Pipeline, tiny_spec: Spec, photo: Maker) -> None:
    one, tiny = photo(90, 60, seed=1), tiny_spec("dinov2")
    (found,) = segment(pipeline, [one], tiny, SegmentRequest(resolution=64))
    (stated,) = segment(pipeline, [one], tiny, SegmentRequest(resolution=64, tau=0.3))
    (own,) = segment(pipeline, [one], get_spec("dino-mini"))
    (mass,) = segment(pipeline, [one], tiny, SegmentRequest(method="attention", resolution=64))
    tau = found.parameters["tau"]
    assert tau is None or -1 < tau < 1
    assert (segmentation_json(found)["features"], segmentation_json(found)["tau_from"]) == ("hidden states", "photo")
    assert (stated.parameters["tau"], stated.tau_from) == (0.3, "request")
    assert (own.parameters["tau"], own.tau_from, own.features) == (0.5, "model", "keys and hidden states")
    assert "features" not in segmentation_json(mass)
    assert "tau" not in mass.parameters


def test_the_object_that_has_colours_is_the_one_that_is_cut(pipeline: Pipeline) -> None:
    photo, spec = example(pipeline, "crab"), get_spec("dino-mini")
    (cut,) = segment(pipeline, [photo], spec)
    (colours,) = segment(pipeline, [photo], spec, SegmentRequest(method="pca"))
    np.testing.assert_array_equal(colours.masks, cut.masks)
    assert colours.colours is not None
    assert (colours.colours.any(axis=2) == cut.patches[0]).mean() > 0.99


def test_each_of_several_photos_has_its_own_threshold(pipeline: Pipeline, tiny_spec: Spec) -> None:
    photos = [example(pipeline, "crab"), example(pipeline, "pyramid")]
    found = segment(pipeline, photos, tiny_spec("dinov2"), SegmentRequest(method="parts", resolution=64))
    assert found[0].parameters["tau"] != found[1].parameters["tau"]


def test_all_of_the_attention_is_the_whole_photo(pipeline: Pipeline) -> None:
    for head in ("mean", "all"):
        request = SegmentRequest(method="attention", threshold=1, head=head)
        (found,) = segment(pipeline, [example(pipeline, "cup")], get_spec("dino-mini"), request)
        assert len(found.masks) == len(found.names) > 0
        assert found.masks.all()
        assert not any("No foreground" in note for note in found.notes)


def _covered(found: Segmentation, box: tuple[float, float, float, float]) -> tuple[float, float]:
    """Share of the mask inside of a box, and of the box inside of the mask; the box in shares of the crop."""
    mask = found.masks.any(axis=0)
    height, width = mask.shape
    left, top, right, bottom = box
    place = np.s_[int(top * height) : int(bottom * height), int(left * width) : int(right * width)]
    return mask[place].sum() / max(1, mask.sum()), mask[place].mean()


@pytest.mark.thorough
def test_the_sunflower_and_the_crab_are_found(pipeline: Pipeline) -> None:
    spec = get_spec("dino-mini")
    for name, box in (("sunflower", (0.1, 0.05, 0.95, 0.9)), ("crab", (0.0, 0.2, 1.0, 0.9))):
        (found,) = segment(pipeline, [example(pipeline, name)], spec, SegmentRequest(refine=True))
        inside, filled = _covered(found, box)
        assert inside > 0.9, name
        assert filled > 0.3, name


def test_a_wrong_point_is_said_before_a_model_runs(pipeline: Pipeline, tiny_spec: Spec, photo: Maker) -> None:
    before = pipeline.backend.forwards
    with pytest.raises(OptionError, match="is not on what tiny-vit sees"):
        segment(
            pipeline, [photo(90, 61, seed=9)], tiny_spec("vit"), SegmentRequest(method="similarity", point=(500, 5))
        )
    assert pipeline.backend.forwards == before
    for tau in (-2, 1, float("nan")):
        with pytest.raises(OptionError, match="at least -1 and below 1"):
            SegmentRequest(tau=tau)
