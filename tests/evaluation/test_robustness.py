"""Robustness curves equal what one photo, one strength and one forward pass at a time give."""

from __future__ import annotations

import csv
import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vitdemo
from tests.cli.command import refused, run, run_json
from tests.conftest import picture
from vitdemo.errors import OptionError
from vitdemo.evaluation.labelled_inputs import draw
from vitdemo.evaluation.perturb import perturb
from vitdemo.evaluation.robustness import following, measure, photo_curves
from vitdemo.images.class_folders import BACKGROUND
from vitdemo.images.open import open_image
from vitdemo.models.loading import load_model
from vitdemo.options.perturbations import PERTURBATIONS, Plan, plan_of
from vitdemo.pipeline import Pipeline
from vitdemo.types import Capture, ModelSpec, Photo

PLAN: Plan = {"shuffle": (1, 2, 8), "shift": (0, 3, 8), "occlusion": (0, 0.5), "low": (0, 0.2), "high": (1.5, 0.2)}
COUNTS = {"apple": 3, "easy_face": 2, "cup": 2, BACKGROUND: 2, "unheard_of": 2}

Specs = Callable[[str], ModelSpec]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of the size of the tiny models' input, so that they are neither resized nor cropped, and a broken one."""
    root = tmp_path_factory.mktemp("labelled") / "test"
    seed = 0
    for name, count in COUNTS.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            seed += 1
            hue = Image.new("RGB", (32, 32), (seed * 37 % 256, seed * 91 % 256, seed * 53 % 256))
            Image.blend(picture(32, 32, seed), hue, 0.6).save(root / name / f"{index}.png")
    (root / "apple" / "cut.png").write_bytes((root / "apple" / "0.png").read_bytes()[:200])
    return root


def _files(data: Path) -> list[tuple[str, Photo]]:
    names = [path for path in sorted(data.glob("*/*.png")) if path.stem != "cut" and path.parent.name != BACKGROUND]
    return [(path.parent.name.replace("_", " "), open_image(path)) for path in names]


def _naive(pipeline: Pipeline, spec: ModelSpec, data: Path, kind: str, strength: float) -> tuple[float, float, float]:
    """Accuracy, agreement and score, photo by photo, through what `classify` makes of the perturbed picture."""
    right, same, scores = [], [], []
    for label, photo in _files(data):
        if label not in spec.labels:
            continue
        changed = perturb(np.asarray(photo.image), kind, strength, (0, int(photo.digest[:8], 16)))
        before, after = (
            pipeline.classify([one], spec, top_k=len(spec.labels))[0].labels for one in (photo, open_image(changed))
        )
        right.append(after[0].label == label)
        same.append(after[0].label == before[0].label)
        scores.append(next(one.score for one in after if one.label == label))
    return float(np.mean(right)), float(np.mean(same)), float(np.mean(scores))


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["vit", "beit"])
def test_curves_equal_a_naive_loop(kind: str, pipeline: Pipeline, tiny_spec: Specs, data: Path) -> None:
    spec = tiny_spec(kind)
    curves = measure(pipeline, spec, draw(pipeline, data, [spec]), PLAN)
    assert [curve.kind for curve in curves] == list(PLAN)
    for curve in curves:
        assert [point.strength for point in curve.points] == list(PLAN[curve.kind])
        for point in curve.points:
            accuracy, agreement, score = _naive(pipeline, spec, data, curve.kind, point.strength)
            assert point.photos == 7
            assert (point.accuracy, point.agreement) == pytest.approx((accuracy, agreement))
            assert point.score == pytest.approx(score, abs=1e-5)
            assert point.interval[0] <= accuracy <= point.interval[1]
    assert len({point.score for curve in curves for point in curve.points}) > 5


def test_the_interval_is_wilsons(pipeline: Pipeline, tiny_spec: Specs, data: Path) -> None:
    point = measure(pipeline, tiny_spec("vit"), draw(pipeline, data, [tiny_spec("vit")]), {"shift": (0, 3)})[0].points[
        1
    ]
    share, count, z = point.value, point.photos, 1.959964
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    assert point.interval == pytest.approx((max(0, centre - half), min(1, centre + half)), abs=1e-5)


def test_a_model_that_knows_none_of_the_classes_is_measured_by_its_own_answers(
    pipeline: Pipeline, tiny_spec: Specs, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data / "unheard_of", tmp_path / "unheard_of")
    spec = tiny_spec("vit")
    (curve,) = measure(pipeline, spec, draw(pipeline, tmp_path, [spec]), {"shuffle": (1, 8)})
    assert curve.measure == "agreement"
    assert "None of these photos is of one of the 7 classes" in curve.note
    first, second = curve.points
    assert (first.accuracy, first.value, first.photos) == (None, 1.0, 2)
    assert second.value in (0, 0.5, 1)
    photos = [photo for label, photo in _files(data) if label == "unheard of"]
    tops = [pipeline.classify([photo], spec)[0].labels[0].score for photo in photos]
    assert first.score == pytest.approx(np.mean(tops), abs=1e-5)


def test_photos_are_drawn_by_name_and_seed_from_folders_and_archives(
    pipeline: Pipeline, tiny_spec: Specs, data: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "test.tar"
    with tarfile.open(archive, "w") as tar:
        # In another order than in the folder, but under the same names.
        for path in sorted(data.glob("*/*"), reverse=True):
            tar.add(path, path.relative_to(data))
    spec = tiny_spec("vit")

    def drawn(path: Path, photos: int, seed: int) -> set[str]:
        return {one.digest for one in draw(pipeline, path, [spec], photos, seed)}

    every = {photo.digest for _, photo in _files(data)}
    assert drawn(data, 50, 0) == drawn(archive, 50, 0) == every
    assert drawn(data, 4, 1) == drawn(archive, 4, 1) < every
    assert len(drawn(data, 4, 1)) == 4
    assert len({frozenset(drawn(data, 4, seed)) for seed in range(5)}) > 1


def test_a_map_that_moves_in_whole_cells_follows_and_one_that_does_not_stays() -> None:
    before = np.random.default_rng(0).normal(size=(4, 6, 5)).astype(np.float32)
    follows, stays = following(before, np.roll(before, 2, axis=1), 2)
    assert follows == pytest.approx(1)
    assert abs(stays) < 0.4
    assert following(before, before, 2)[1] == pytest.approx(1)
    assert following(before, before, 0) == pytest.approx((1, 1))
    # A ramp, moved by half a cell: linear between cells is exact.
    ramp = np.stack([np.tile(np.arange(6.0), (4, 1)), np.tile(np.arange(4.0)[:, None], (1, 6))], axis=-1)
    assert following(ramp.astype(np.float32), (ramp - [0.5, 0]).astype(np.float32), 0.5)[0] == pytest.approx(1)
    assert np.isnan(following(np.ones((2, 2, 3), np.float32), np.ones((2, 2, 3), np.float32), 1)[0])


def test_a_shift_says_how_the_feature_map_of_every_kind_of_network_moves(
    pipeline: Pipeline, tiny_spec: Specs, photo: Callable[..., Photo]
) -> None:
    for spec in (tiny_spec("vit"), tiny_spec("resnet")):
        (curve,) = photo_curves(pipeline, photo(32, 32), [spec], {"shift": (0, 8)})
        assert (curve.points[0].follows, curve.points[0].stays) == pytest.approx((1, 1))
        found = curve.points[1]
        maps: list[Any] = []
        for one in curve.pictures:
            pixels = (np.asarray(one, np.float32) / 255 - 0.5) / 0.5
            batch = torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy())
            (output,) = pipeline.backend.run(spec, batch, Capture(features=True))
            assert output.features is not None
            maps.append(output.features.values.numpy().reshape(*output.patch_grid, -1))
        assert (found.follows, found.stays) == pytest.approx(following(maps[0], maps[1], 8 / spec.patch_size), abs=1e-3)


def test_the_features_of_a_cnn_are_its_last_stage(pipeline: Pipeline, tiny_spec: Specs) -> None:
    spec = tiny_spec("resnet")
    pixels = torch.randn(2, 3, 32, 32)
    outputs = pipeline.backend.run(spec, pixels, Capture(features=True))
    plain = pipeline.backend.run(spec, pixels, Capture())
    with torch.no_grad():
        expected = load_model(spec, torch.device("cpu"), torch.float32).network.base_model(pixels).last_hidden_state
    for index, output in enumerate(outputs):
        assert output.features is not None
        assert torch.allclose(output.features.values, expected[index].flatten(1).T, atol=1e-5)
        assert torch.allclose(output.logits, plain[index].logits, atol=1e-5)  # type: ignore[arg-type]
        assert output.features.keys.shape[1] == 0


def test_one_photo_has_a_curve_per_model_with_the_pictures_that_the_model_saw(
    tiny_folder: Callable[[str], Path], pipeline: Pipeline, tiny_spec: Specs, photo: Callable[..., Photo]
) -> None:
    image = photo(32, 32, 4)
    names = [str(tiny_folder(kind)) for kind in ("vit", "resnet")]
    curves = vitdemo.robustness(image, names, "occlusion", strengths=[0.5], seed=3)
    assert [curve.model for curve in curves] == [tiny_spec(kind).name for kind in ("vit", "resnet")]
    for kind, curve in zip(("vit", "resnet"), curves, strict=True):
        assert len(curve.pictures) == len(curve.points) == 2
        assert np.array_equal(np.asarray(curve.pictures[0]), np.asarray(image.image))
        for one, point in zip(curve.pictures, curve.points, strict=True):
            labels = pipeline.classify([open_image(one)], tiny_spec(kind), top_k=7)[0].labels
            assert point.label == labels[0].label
            assert point.score == pytest.approx(next(x.score for x in labels if x.label == curve.target), abs=1e-5)
        assert curve.points[0].accuracy is None
        assert curve.points[0].label == curve.target
    (named,) = vitdemo.robustness(image, names[:1], "occlusion", strengths=[0.5], seed=3, target="cup")
    assert named.target == "cup"
    assert [point.accuracy for point in named.points] == [float(point.label == "cup") for point in named.points]


def test_what_one_photo_cannot_be_asked_is_said(
    pipeline: Pipeline, tiny_spec: Specs, photo: Callable[..., Photo]
) -> None:
    spec = tiny_spec("vit")
    for arguments, words in (
        (([tiny_spec("mae")],), "has no classifier, so there is no answer to measure"),
        (([],), "Choose at least one model"),
        (([spec], plan_of(["shuffle"], [40])), "cannot be cut into 40 x 40 cells"),
    ):
        with pytest.raises(OptionError, match=words):
            photo_curves(pipeline, photo(32, 32), *arguments)
    with pytest.raises(OptionError, match="has no class 'yak'"):
        photo_curves(pipeline, photo(32, 32), [spec], target="yak")
    with pytest.raises(OptionError, match="seed must be a whole number from 0, not -1"):
        photo_curves(pipeline, photo(32, 32), [spec], seed=-1)


def test_the_command_gives_json_a_table_and_a_figure(
    tiny_folder: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    table, figure = tmp_path / "curves.csv", tmp_path / "curves.png"
    models = ",".join(str(tiny_folder(kind)) for kind in ("vit", "resnet"))
    arguments = ["robustness", str(data), "--models", models, "--kinds", "shift,low", "--photos", "6", "--seed", "2"]
    found: dict[str, Any] = run_json(*arguments, "--csv", str(table), "--out", str(figure))
    assert (found["data"], found["photos"], found["seed"]) == ("test", 6, 2)
    assert [(curve["model"], curve["kind"]) for curve in found["curves"]] == [
        (model, kind) for model in ("tiny-vit", "tiny-resnet") for kind in ("shift", "low")
    ]
    for curve in found["curves"]:
        # Its classes have no names: it knows none of the photos'.
        assert curve["measure"] == ("agreement" if curve["model"] == "tiny-resnet" else "accuracy")
        assert ("note" in curve) == (curve["model"] == "tiny-resnet")
        assert [point["strength"] for point in curve["points"]] == list(PERTURBATIONS[curve["kind"]].strengths)
        assert all(("follows" in point) == (curve["kind"] == "shift") for point in curve["points"])
        assert curve["points"][0]["agreement"] == 1
    lines = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
    points = [point for curve in found["curves"] for point in curve["points"]]
    assert [float(line["accuracy"]) if line["accuracy"] else None for line in lines] == [
        point["accuracy"] for point in points
    ]
    assert [float(line["interval_high"]) for line in lines] == [point["interval"][1] for point in points]
    with Image.open(figure) as drawn:
        # White, grey and black, and the colours of both models.
        colours = {colour for _, colour in drawn.convert("RGB").getcolors(1 << 16) or ()}
        assert {(0xE6, 0x9F, 0x00), (0x56, 0xB4, 0xE9)} <= colours
    done = run(*arguments)
    assert "| tiny-vit | " in done.out
    assert "tiny-resnet: 6 of 6 photos" in done.error
    assert "photos" not in done.out


def test_the_command_says_what_is_wrong(tiny_folder: Callable[[str], Path], data: Path, tmp_path: Path) -> None:
    model = ["--model", str(tiny_folder("vit"))]
    for arguments, status, words in (
        ([str(data), "--model", str(tiny_folder("mae"))], 2, "has no classifier"),
        ([str(data), *model, "--kinds", "blur"], 2, "Unknown perturbation 'blur'. Choose from: shuffle"),
        ([str(data), *model, "--kinds", "low", "--strengths", "9"], 2, "from 0 to 1.5, not 9"),
        ([str(data), *model, "--kinds", "low", "--strengths", "much"], 2, "'much' is not a number"),
        ([str(data), *model, "--strengths", "1"], 2, "belong to one perturbation"),
        ([str(data), *model, "--seed", "-1"], 2, "The seed must be a whole number from 0"),
        ([str(tmp_path), *model], 1, "holds no photo in a class folder"),
        ([str(tmp_path / "nothing"), *model], 1, "is missing, damaged, or neither"),
    ):
        assert words in refused("robustness", *arguments, status=status)
