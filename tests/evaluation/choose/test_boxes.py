"""COCO's boxes and masks, and means of how models' maps lie on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluation.choose.small import chosen, photos, pipeline
from vitdemo.attribution.localization import box_coverage, earth_movers_distance, energy_inside, top_patches_iou
from vitdemo.errors import InputError
from vitdemo.evaluation.choose import choice_csv, choice_json, opened, report_html
from vitdemo.evaluation.choose.boxes import Objects, coverage, decoded_rle, read_coco
from vitdemo.export.segmentation import rle
from vitdemo.options.explain import ExplainRequest
from vitdemo.types import ModelSpec

Spec = Callable[[str], ModelSpec]

WHOLE = (0, 0, 64, 48)


def coco(path: Path, annotations: list[dict[str, Any]], names: list[str], size: tuple[int, int] = (64, 48)) -> Path:
    images = [
        {"id": number, "file_name": name, "width": size[0], "height": size[1]} for number, name in enumerate(names)
    ]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def test_boxes_polygons_and_run_lengths_of_one_rectangle_cover_the_same(tmp_path: Path) -> None:
    box = {"image_id": 0, "bbox": [16, 12, 32, 24]}
    mask = np.zeros((48, 64), bool)
    mask[12:36, 16:48] = True
    # Corners of a polygon are pixels that it holds.
    polygon = {"image_id": 0, "bbox": [0, 0, 1, 1], "segmentation": [[16, 12, 47, 12, 47, 35, 16, 35]]}
    runs = {"image_id": 0, "segmentation": {"size": [48, 64], "counts": rle(mask)}}
    text = {"image_id": 0, "segmentation": {"size": [48, 64], "counts": _compressed(rle(mask))}}
    found = []
    for one in (box, polygon, runs, text):
        (objects,) = read_coco(coco(tmp_path / "coco.json", [one], ["a.png"])).values()
        found.append(coverage(objects, (64, 48), WHOLE, (4, 4)))
    assert found[0].tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0])


def _compressed(runs: list[int]) -> str:
    """COCO's text of run lengths, as its `rleToString` writes it."""
    text = ""
    for number, run in enumerate(runs):
        value = run - (runs[number - 2] if number > 2 else 0)
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != -1 if bits & 0x10 else value != 0
            text += chr((bits | 0x20 if more else bits) + 48)
    return text


def test_a_text_of_run_lengths_is_read_as_it_was_written() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        mask = generator.random((23, 40)) < generator.random()
        made = decoded_rle({"size": [23, 40], "counts": _compressed(rle(mask))})
        np.testing.assert_array_equal(made, mask)


def test_numbers_of_another_size_are_scaled_to_the_photo() -> None:
    objects = Objects((128, 96), ((64.0, 0.0, 128.0, 96.0),))
    assert coverage(objects, (64, 48), WHOLE, (1, 2)).tolist() == [[0, 1]]


@pytest.mark.thorough
def test_means_are_of_each_photos_map_and_heads(tiny_spec: Spec, tmp_path: Path) -> None:
    data = photos(tmp_path / "photos")
    boxes = [[8, 6, 20, 20], [30, 10, 25, 30]]
    annotations = [{"image_id": number, "bbox": box} for number, box in enumerate(boxes)]
    # By its whole name, and by the file's alone where that is not ambiguous.
    file = coco(tmp_path / "coco.json", annotations, ["red/001.png", "elsewhere/011.png"])
    specs = [tiny_spec("vit"), tiny_spec("resnet"), tiny_spec("dino")]
    found = chosen(specs, data, tmp_path, boxes=file)
    names = [photo.name for photo in found.photos]
    own = pipeline()
    for spec in specs:
        place = found.candidate(spec.name).localization
        assert place is not None
        assert place.photos == 2
        energies, overlaps, heads, apart = [], [], [], []
        for name, (left, top, width, height) in zip(("red/001.png", "green/011.png"), boxes, strict=True):
            method = "grad-cam" if spec.name == "tiny-resnet" else "attention"
            shown = own.explain(opened(found, names.index(name)), spec, ExplainRequest(method))
            covered = box_coverage([(left, top, left + width, top + height)], shown.view.crop, shown.patch_grid)
            assert shown.map is not None
            energies.append(energy_inside(shown.map.values, covered))
            overlaps.append(top_patches_iou(shown.map.values, covered))
            diagonal = np.hypot(*shown.patch_grid)
            apart.append(earth_movers_distance(shown.map.values, covered, exact=True) / diagonal)
            if spec.readouts:
                heads.append(top_patches_iou(shown.rows["class"], covered))
        assert place.energy == pytest.approx(np.nanmean(energies), abs=1e-5)
        assert place.iou == pytest.approx(np.nanmean(overlaps), abs=1e-5)
        assert place.distance == pytest.approx(np.nanmean(apart), abs=0.02)
        if spec.readouts:
            assert place.heads_distance.shape == place.heads_iou.shape
            np.testing.assert_allclose(place.heads_iou, np.nanmean(heads, axis=0), atol=1e-5)
            layer, head, _, best = place.best()[0]
            assert best == place.heads_iou[layer, head] == place.heads_iou.max()
        else:
            assert (place.method, place.best()) == ("grad-cam", [])
    assert choice_json(found)["models"][0]["localization"]["photos"] == 2
    assert "best_heads" in choice_csv(found).splitlines()[0]
    assert "Maps on the objects" in report_html(found)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "is not COCO JSON"),
        ("[", "is not COCO JSON"),
        ('{"images": [], "annotations": [{"image_id": 3, "bbox": [1, 2, 3, 4]}]}', "is not COCO JSON"),
        (
            '{"images": [{"id": 1, "file_name": "x.png"}], "annotations": [{"image_id": 1, "bbox": [1]}]}',
            "is not COCO JSON",
        ),
        (
            '{"images": [{"id": 1, "file_name": "x.png"}], "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}]}',
            r"None of the 1 annotated images is among these photos: there is no x.png",
        ),
    ],
)
def test_files_that_say_nothing_of_these_photos_are_refused(
    text: str, words: str, tiny_spec: Spec, tmp_path: Path
) -> None:
    (tmp_path / "coco.json").write_text(text)
    with pytest.raises(InputError, match=words):
        chosen([tiny_spec("vit")], photos(tmp_path / "photos", red=3, green=3), tmp_path, boxes=tmp_path / "coco.json")
    with pytest.raises(InputError, match=r"gone.json cannot be read"):
        read_coco(tmp_path / "gone.json")


def test_a_damaged_outline_is_refused_in_words() -> None:
    for outline in (
        [["x", 1]],
        {"size": [48, 64], "counts": [5]},
        {"size": [48, 64], "counts": "~~~"},
        {"counts": [1]},
    ):
        with pytest.raises(InputError, match="outline of the COCO file is damaged"):
            coverage(Objects((64, 48), (), (outline,)), (64, 48), WHOLE, (4, 4))
