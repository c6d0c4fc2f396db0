"""Composites: the object lies where the mask says, the same every time, and overlaps are right by count."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from vitdemo.cli import main
from vitdemo.errors import InputError, OptionError
from vitdemo.evaluation.segmentation_benchmark import (
    AREAS,
    LIST,
    MAX_SPAN,
    SHARES,
    Mask,
    Overlap,
    Pair,
    Pixels,
    centre_box,
    composites,
    cut_out,
    halves,
    listed,
    mean_iou,
    paste,
    whole_photo,
)
from vitdemo.images.open import open_image
from vitdemo.options.segment import SegmentRequest
from vitdemo.pipeline import Pipeline
from vitdemo.registry import get_spec
from vitdemo.types import ModelSpec

LISTED = listed()


@pytest.fixture(scope="module")
def three(caltech: Path) -> list[Pair]:
    return composites(caltech, listed()[:3])


@pytest.fixture(scope="module")
def small(caltech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of 1 of the listed objects, and all scenes."""
    wanted = {halves(listed())[1][0], *json.loads(LIST.read_text())["scenes"]}
    path = tmp_path_factory.mktemp("composites") / "small.tar"
    with tarfile.open(caltech) as source, tarfile.open(path, "w") as target:
        for member in source:
            if member.name in wanted:
                target.addfile(member, source.extractfile(member))
    return path


def plain(height: int = 60, width: int = 80, colour: int = 250) -> tuple[Pixels, Mask]:
    """A red box on a plain ground, and where it is."""
    picture = np.full((height, width, 3), colour, np.uint8)
    mask = np.zeros((height, width), np.bool_)
    mask[20:40, 30:60] = True
    picture[mask] = (200, 10, 10)
    return picture, mask


def test_the_object_on_a_plain_ground_is_cut_out_exactly() -> None:
    picture, mask = plain()
    assert np.array_equal(cut_out(picture), mask)


def test_holes_belong_to_the_object_and_specks_do_not() -> None:
    picture, mask = plain()
    picture[28:31, 40:44] = 250
    picture[5:9, 5:9] = 0
    assert np.array_equal(cut_out(picture), mask)


def test_noise_within_the_tolerance_is_background() -> None:
    picture, mask = plain(colour=230)
    noise = np.random.default_rng(0).integers(-8, 9, picture.shape)
    picture[~mask] = (picture + noise).astype(np.uint8)[~mask]
    assert np.array_equal(cut_out(picture), mask)


def test_an_object_may_touch_the_border() -> None:
    picture, _ = plain()
    picture[20:40, 55:] = (200, 10, 10)
    found = cut_out(picture)
    assert found is not None
    assert found[:, -1].sum() == 20


@pytest.mark.parametrize("rows", [slice(29, 32), slice(5, 55)], ids=["too small", "too large"])
def test_an_implausible_area_is_rejected(rows: slice) -> None:
    picture = np.full((60, 80, 3), 250, np.uint8)
    picture[rows, 5:75] = 0
    assert not AREAS[0] <= (picture == 0).mean() <= AREAS[1]
    assert cut_out(picture) is None


def test_a_photo_of_one_colour_has_no_object() -> None:
    assert cut_out(np.full((40, 40, 3), 9, np.uint8)) is None


@pytest.mark.parametrize("seed", range(8))
def test_the_mask_is_where_the_object_was_pasted(seed: int) -> None:
    picture, mask = plain()
    scene = np.full((160, 240, 3), (0, 0, 200), np.uint8)
    pasted, alpha = paste(picture, mask, scene, np.random.default_rng(seed))
    assert pasted.shape == scene.shape
    inside = alpha >= 0.5
    red = pasted[..., 0].astype(int) > pasted[..., 2]
    assert np.array_equal(red, inside)
    assert np.array_equal(pasted[alpha == 0], scene[alpha == 0])
    assert (pasted[alpha > 0.999] == (200, 10, 10)).all()
    assert ((alpha > 0) & (alpha < 1)).any(), "the edge fades"
    # Nothing of the white ground around it.
    assert pasted[..., 1].max() <= 10
    # Its box spans what was asked for, less the pixel that is taken off all around.
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    box = (np.ptp(rows) + 3) * (np.ptp(columns) + 3)
    assert SHARES[0] - 0.02 <= (box / inside.size) ** 0.5 <= SHARES[1] + 0.02


def test_a_long_object_fits_into_the_scene() -> None:
    picture = np.full((20, 200, 3), 250, np.uint8)
    mask = np.zeros((20, 200), np.bool_)
    mask[8:14, 10:190] = True
    for seed in range(8):
        _, alpha = paste(picture, mask, np.zeros((160, 160, 3), np.uint8), np.random.default_rng(seed))
        assert np.ptp(np.flatnonzero(alpha.any(axis=0))) < 160 * MAX_SPAN + 1


@pytest.mark.thorough
def test_composites_are_reproducible_and_independent_of_the_rest_of_the_list(caltech: Path, three: list[Pair]) -> None:
    (alone,) = composites(caltech, listed()[2:3])
    assert alone[0].digest == three[2][0].digest
    assert np.array_equal(alone[1], three[2][1])
    (other,) = composites(caltech, listed()[2:3], seed=1)
    assert other[0].digest != alone[0].digest


def test_every_listed_photo_makes_a_composite_that_shows_its_object(caltech: Path) -> None:
    pairs = composites(caltech, listed())
    assert len(pairs) == len(set(listed())) == 61
    for name, (photo, mask) in zip(listed(), pairs, strict=True):
        assert mask.shape == photo.size[::-1], name
        assert 0.01 < mask.mean() < SHARES[1] ** 2, name


def test_the_halves_share_nothing_and_do_not_depend_on_the_rest_of_the_list() -> None:
    chosen_on, for_report = halves(listed())
    assert sorted([*chosen_on, *for_report]) == sorted(listed())
    assert min(len(chosen_on), len(for_report)) > 20
    assert halves(for_report) == ([], for_report)


def test_the_figures_of_an_overlap_are_exact() -> None:
    found = Overlap("some", (0.0, 0.5, 0.75, 1.0))
    assert (found.mean, found.hits) == (0.5625, 0.5)
    low, high = found.interval
    assert 0 <= low < 0.5625 < high <= 1
    assert Overlap("one", (0.25,)).interval == (0.25, 0.25)


def test_composites_of_one_object_count_as_one_draw() -> None:
    found = Overlap("some", (0.0, 1.0, 0.25, 0.75), ("cup", "cup", "lamp", "lamp"))
    assert found.interval == (0.5, 0.5), "both objects have that mean"


def pair(mask: Mask) -> Pair:
    return open_image(np.zeros((*mask.shape, 3), np.uint8)), mask


def test_the_centre_box_has_the_mean_area_and_the_photo_s_shape() -> None:
    middle, corner = np.zeros((40, 80), np.bool_), np.zeros((40, 80), np.bool_)
    middle[10:30, 20:60] = True
    corner[:20, :40] = True
    found = centre_box([pair(middle), pair(corner)])
    assert found.values == (1.0, 200 / 1400)
    assert whole_photo([pair(middle)]).values == (0.25,)


def test_an_empty_benchmark_is_rejected(pipeline: Pipeline, vit: ModelSpec) -> None:
    for measure in (centre_box, whole_photo, lambda pairs: mean_iou(pipeline, vit, pairs)):
        with pytest.raises(OptionError, match="no composites"):
            measure([])


def test_finding_nothing_is_an_overlap_of_zero(pipeline: Pipeline, vit: ModelSpec) -> None:
    mask = np.zeros((64, 64), np.bool_)
    mask[:32] = True
    found = mean_iou(pipeline, vit, [pair(mask)], SegmentRequest(tau=-1, resolution=224))
    assert found.values == (0.0,)


def test_models_are_measured_on_the_composites(pipeline: Pipeline, three: list[Pair]) -> None:
    spec = get_spec("dino-mini")
    found = mean_iou(pipeline, spec, three, SegmentRequest(resolution=224))
    assert found.name == "dino-mini"
    assert len(found.values) == 3
    assert found == mean_iou(pipeline, spec, three, SegmentRequest(resolution=224))
    assert 0 <= min(found.values) <= max(found.values) <= 1


def test_an_archive_without_the_listed_photos_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "cup").mkdir()
    (tmp_path / "cup" / "one.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"lacks \d+ of the \d+ listed photos, such as test/.*archive"):
        composites(tmp_path, listed())


@pytest.mark.thorough
def test_the_command_gives_figures_and_baselines(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vitdemo.evaluation.segmentation_benchmark.listed", lambda: halves(LISTED)[1][:1])
    arguments = ["evaluate", str(small), "--segmentation", "--model", "dino-mini"]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["composites"] == 3
    assert [(one["name"], one["refine"]) for one in report["figures"]] == [
        ("whole photo", None),
        ("centre box", None),
        ("dino-mini", False),
        ("dino-mini", True),
    ]
    for one in report["figures"]:
        low, high = one["interval"]
        assert 0 <= low <= one["mean_iou"] <= high <= 1
    assert main(arguments) == 0
    words = capsys.readouterr().out
    assert "3 composites" in words
    assert "centre box" in words
    assert "dino-mini, refined" in words


def test_the_command_reports_missing_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cup").mkdir()
    (tmp_path / "cup" / "one.jpg").write_bytes(b"")
    assert main(["evaluate", str(tmp_path), "--segmentation", "--model", "dino-mini"]) != 0
    assert "listed photos" in capsys.readouterr().err
