"""Every file of an exported segmentation is read back."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.segmented import CROP, SIZE, masks, segmentation
from vitdemo.export.results import segmentation_json
from vitdemo.export.segmentation import archive, coco, files, folder_names, is_own_file, rle
from vitdemo.options.segment import METHODS
from vitdemo.rendering.masks import COLOURS, segmentation_overlay
from vitdemo.types import Pair, Photo, View

Maker = Callable[..., Photo]


@pytest.fixture
def one(photo: Maker) -> Photo:
    return replace(photo(*SIZE), name="cat.jpg")


def decode(counts: list[int], size: list[int]) -> NDArray[np.bool_]:
    """Decode run lengths as the COCO tools do: alternating zeros and ones, column-major."""
    height, width = size
    mask = np.zeros((height, width), np.bool_)
    place = 0
    for turn, count in enumerate(counts):
        for pixel in range(place, place + count):
            mask[pixel % height, pixel // height] = turn % 2 == 1
        place += count
    assert place == height * width
    return mask


def read(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize(
    ("rows", "counts"),
    [
        (["000", "000"], [6]),
        (["111", "111"], [0, 6]),
        (["010", "010"], [2, 2, 2]),
        (["100", "000"], [0, 1, 5]),
        (["000", "001"], [5, 1]),
        (["0110", "0010", "0000"], [3, 1, 2, 2, 4]),
        (["1"], [0, 1]),
        (["0"], [1]),
    ],
)
def test_known_masks_have_known_run_lengths(rows: list[str], counts: list[int]) -> None:
    mask = np.array([[letter == "1" for letter in row] for row in rows])
    assert rle(mask) == counts
    assert np.array_equal(decode(counts, [*mask.shape]), mask)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (7, 5), (31, 40)])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 1])
def test_run_lengths_decode_to_the_mask(size: tuple[int, int], share: float) -> None:
    mask = np.random.default_rng(3).random(size) < share
    counts = rle(mask)
    assert np.array_equal(decode(counts, [*size]), mask)
    assert all(count > 0 for count in counts[1:])


def test_coco_is_in_pixels_of_the_whole_photo(one: Photo) -> None:
    entry = coco(one, segmentation())
    assert json.loads(json.dumps(entry)) == entry
    assert entry["images"] == [{"id": 1, "file_name": "cat.jpg", "width": 200, "height": 150}]
    assert entry["categories"] == [{"id": 1, "name": "object 1"}, {"id": 2, "name": "object 2"}]
    left, top, right, bottom = CROP
    for annotation, mask in zip(entry["annotations"], masks(), strict=True):
        assert annotation["segmentation"]["size"] == [150, 200]
        found = decode(annotation["segmentation"]["counts"], annotation["segmentation"]["size"])
        assert np.array_equal(found[top:bottom, left:right], mask)
        assert found.sum() == mask.sum() == annotation["area"]
        rows, columns = np.nonzero(found)
        x, y, width, height = annotation["bbox"]
        assert (x, y, x + width, y + height) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert (annotation["image_id"], annotation["iscrowd"]) == (1, 1)
    assert [annotation["bbox"] for annotation in entry["annotations"]] == [[30, 20, 60, 60], [70, 60, 80, 50]]
    assert [annotation["id"] for annotation in entry["annotations"]] == [1, 2]


def test_a_mask_without_a_pixel_is_a_category_without_annotations(one: Photo) -> None:
    found = segmentation()
    found.masks[0] = False
    entry = coco(one, found)
    assert [category["id"] for category in entry["categories"]] == [1, 2]
    assert [(annotation["id"], annotation["category_id"]) for annotation in entry["annotations"]] == [(1, 2)]


def test_a_part_has_the_same_category_in_every_photo(one: Photo) -> None:
    entry = coco(one, segmentation("parts", keep=[1]))
    assert entry["categories"] == [{"id": 2, "name": "part 2"}]
    assert entry["annotations"][0]["category_id"] == 2


COMMON = {"overlay.png", "segmentation.json"}
PICTURES = {*COMMON, "labels.png", "coco.json"}


@pytest.mark.parametrize(
    ("method", "names", "without"),
    [
        ("attention", {*PICTURES, "cutout.png", "mask-01.png", "mask-02.png"}, PICTURES),
        ("foreground", {*PICTURES, "cutout.png", "mask-01.png", "mask-02.png"}, PICTURES),
        ("parts", {*PICTURES, "cutout.png", "mask-01.png", "mask-02.png"}, PICTURES),
        ("pca", {*PICTURES, "cutout.png", "mask-01.png", "components.png"}, {*PICTURES, "components.png"}),
        ("similarity", {*COMMON, "similarity.npy"}, {*COMMON, "similarity.npy"}),
    ],
)
def test_every_method_has_its_files(one: Photo, method: str, names: set[str], without: set[str]) -> None:
    found, nothing = files(one, segmentation(method)), files(one, segmentation(method, found=False))
    assert (set(found), set(nothing)) == (names, without)
    assert all(is_own_file(name) for name in found)
    for name, data in {**found, **nothing}.items():
        if name.endswith(".png"):
            assert read(data).size == (160, 120), name
        elif name.endswith(".json"):
            assert json.loads(data)


def test_a_cutout_is_the_crop_opaque_where_any_mask_is(one: Photo) -> None:
    image = read(files(one, segmentation())["cutout.png"])
    assert image.mode == "RGBA"
    pixels = np.asarray(image)
    union = masks()[0] | masks()[1]
    assert np.array_equal(pixels[:, :, 3], union * 255)
    assert np.array_equal(pixels[:, :, :3][union], np.asarray(one.image.crop(CROP))[union])


def test_the_photo_itself_stays_as_it_is(one: Photo) -> None:
    before = one.image.tobytes()
    for method in METHODS:
        files(one, segmentation(method))
    assert (one.image.mode, one.image.tobytes()) == ("RGB", before)


def test_masks_are_black_and_white(one: Photo) -> None:
    made = files(one, segmentation())
    for number, mask in enumerate(masks(), start=1):
        image = read(made[f"mask-{number:02}.png"])
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), mask * 255)


def test_the_label_map_has_a_number_a_mask_and_its_colours(one: Photo) -> None:
    image = read(files(one, segmentation())["labels.png"])
    assert image.mode == "P"
    labels = np.asarray(image)
    assert np.array_equal(labels, np.where(masks()[0], 1, np.where(masks()[1], 2, 0)))
    assert (np.unique(labels) == [0, 1, 2]).all()
    in_colour = np.asarray(image.convert("RGB"))
    assert in_colour[0, 0].tolist() == [0, 0, 0]
    assert bytes(in_colour[60, 120]) == bytes.fromhex(COLOURS[1][1:])


def test_parts_keep_their_numbers_in_all_files(one: Photo) -> None:
    made = files(one, segmentation("parts", keep=[1]))
    assert "mask-02.png" in made
    assert "mask-01.png" not in made
    assert set(np.unique(np.asarray(read(made["labels.png"])))) == {0, 2}


def test_similarity_is_kept_as_numbers(one: Photo) -> None:
    found = segmentation("similarity")
    stored = np.load(io.BytesIO(files(one, found)["similarity.npy"]))
    assert stored.dtype == np.float32
    assert np.array_equal(stored, found.values)


def test_the_overlay_and_the_json_are_those_of_elsewhere(one: Photo) -> None:
    made = files(one, segmentation("parts"))
    assert read(made["overlay.png"]).tobytes() == segmentation_overlay(one, segmentation("parts")).tobytes()
    assert json.loads(made["segmentation.json"]) == segmentation_json(segmentation("parts"))


@pytest.mark.parametrize("method", METHODS)
def test_a_photo_of_one_pixel_has_files_too(photo: Maker, method: str) -> None:
    found = segmentation(method)
    small = replace(
        found, masks=found.masks[:, 15:16, 15:16], view=View((0, 0, 1, 1)), boxes=((0, 0, 0, 0),), scores=(1.0,)
    )
    for name, data in files(photo(1, 1), small).items():
        if name.endswith(".png"):
            assert read(data).size == (1, 1)


def test_the_zip_of_one_photo_holds_its_files(one: Photo) -> None:
    data = archive([one], [segmentation()])
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        assert zipped.testzip() is None
        assert {name: zipped.read(name) for name in zipped.namelist()} == files(one, segmentation())
    assert archive([one], [segmentation()]) == data


def test_the_zip_of_several_photos_has_a_folder_each(one: Photo) -> None:
    photos = [one, one, replace(one, name="../../CAT.png"), replace(one, name="")]
    with zipfile.ZipFile(io.BytesIO(archive(photos, [segmentation("pca")] * 4))) as zipped:
        names = [PurePosixPath(name) for name in zipped.namelist()]
    assert list(dict.fromkeys(name.parts[0] for name in names)) == ["cat", "cat-2", "CAT-3", "photo"]
    assert all(len(name.parts) == 2 for name in names)
    assert len(set(names)) == len(names) == 4 * len(files(one, segmentation("pca")))


def test_pairs_are_drawn_for_every_photo_but_the_first(one: Photo) -> None:
    found = segmentation("similarity")
    other = replace(found, pairs=(Pair((30.0, 20.5), (50.0, 60.5), 0.75),))
    with zipfile.ZipFile(io.BytesIO(archive([one, one], [found, other]))) as zipped:
        drawn = [name for name in zipped.namelist() if name.endswith("pairs.png")]
        assert drawn == ["cat-2/pairs.png"]
        assert is_own_file("pairs.png")
        width, height = read(zipped.read(drawn[0])).size
    assert height == 120
    assert 2 * 160 < width < 2 * 160 + 20


def test_outliers_are_told_by_row_and_column() -> None:
    outliers = np.zeros((4, 6), np.bool_)
    assert "outliers" not in segmentation_json(replace(segmentation(), outliers=outliers))
    outliers[1, 2] = True
    assert segmentation_json(replace(segmentation(), outliers=outliers))["outliers"] == [[1, 2]]


def test_as_many_photos_as_segmentations_are_wanted(one: Photo) -> None:
    with pytest.raises(ValueError, match="shorter"):
        archive([one, one], [segmentation()])


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("cat.jpg", "cat"),
        ("my cat (1).final.jpeg", "my cat _1_.final"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot"),
        ("..", "photo"),
        (".jpg", "jpg"),
        ("/", "photo"),
        ("", "photo"),
        ("   .png", "photo"),
        ("a\0b\n\u202egnp.jpg", "a_b__gnp"),
        ("CON.png", "_CON"),
        ("com1.tar.png", "_com1.tar"),
        ("chat\u0301.jpg", "chat\u0301"),
        ("cafe\u0301.jpg", "caf\u00e9"),
        ("猫.jpg", "猫"),
        ("बिल्ली.jpg", "बिल्ली"),
        ("\udcff.jpg", "_"),
        ("C:evil.jpg", "C_evil"),
        ("x" * 300 + ".jpg", "x" * 60),
        ("https://example.com/a/cat.png?size=../../b", "cat"),
        ("https://example.com", "photo"),
        ("<script>.png", "_script_"),
    ],
)
def test_no_name_leaves_its_folder(name: str, folder: str) -> None:
    (found,) = folder_names([name])
    assert found == folder
    assert not set(found) & set('/\\:*?"<>|\0')
    assert len(os.fsencode(found)) < 255


def test_names_that_are_alike_get_numbers_that_nobody_else_has() -> None:
    names = ["a.jpg", "a-2.jpg", "A.png", "x/a.gif", "a-2.png"]
    found = folder_names(names)
    assert found == ["a", "a-2", "A-3", "a-4", "a-2-2"]
    assert len({name.casefold() for name in found}) == len(names)


@pytest.mark.parametrize("name", ["mask-.png", "mask-1.jpg", "notes.txt", "cutout.png.bak", "my-coco.json", ".."])
def test_files_of_others_are_not_ours(name: str) -> None:
    assert not is_own_file(name)


def test_json_has_areas_of_the_crop_and_boxes_of_the_photo() -> None:
    entry: dict[str, Any] = segmentation_json(segmentation())
    keys = ["model", "method", "parameters", "grid", "crop", "masks", "ms", "device", "dtype", "revision", "note"]
    assert list(entry) == keys
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry
    assert entry["parameters"]["objects"] == 1
    assert (entry["grid"], entry["crop"], entry["note"]) == ([4, 6], list(CROP), "A note.")
    assert entry["masks"][0] == {"name": "object 1", "area": 3600 / 19200, "box": [30, 20, 90, 80]}


def test_json_of_similarity_has_matches_and_the_point() -> None:
    found = replace(segmentation("similarity"), parameters={"point": (30.0, 20.5), "matches": 2})
    entry = segmentation_json(found)
    assert entry["matches"] == [{"box": [40, 25, 80, 65], "cosine": 0.9}, {"box": [50, 80, 100, 130], "cosine": 0.5}]
    assert entry["pairs"] == []
    paired = segmentation_json(replace(found, pairs=(Pair((30.0, 20.5), (50.0, 60.5), 0.75),)))
    assert paired["pairs"] == [{"first": [30.0, 20.5], "here": [50.0, 60.5], "cosine": 0.75}]
    assert json.loads(json.dumps(entry)) == entry
    assert entry["parameters"]["point"] == [30.0, 20.5]


def test_json_of_an_empty_mask_has_no_box() -> None:
    found = segmentation()
    found.masks[1] = False
    assert segmentation_json(found)["masks"][1] == {"name": "object 2", "area": 0.0, "box": None}
