"""Photos in memory, and reproducible views of them, in any order and number of processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.photos import CLASSES, files, in_folder, in_tar, in_zip, png
from vitdemo.errors import InputError
from vitdemo.images.class_folders import BACKGROUND
from vitdemo.images.open import open_image
from vitdemo.models.preprocess import preprocess
from vitdemo.training.augment import MEAN, STD, Augmentation, Mixing, evaluation_view, normalised, random_view
from vitdemo.training.data import STORED_SIDE, Batch, Batches, PhotoSet, load_photos
from vitdemo.types import Processor

PHOTOS = files({"blue_sky": 4, "green": 3, "red": 3, BACKGROUND: 2})
PLAIN = Augmentation(32, scale=(1, 1), ratio=(1, 1), flip=False, colour=0)
"""Of a square photo: the whole of it, as it is."""


def _content(photos: PhotoSet) -> list[tuple[str, bytes]]:
    names = [photos.classes[label] if label >= 0 else BACKGROUND for label in photos.labels]
    return sorted((name, image.tobytes()) for name, image in zip(names, photos.images, strict=True))


def _set(counts: tuple[int, ...], background: int = 0, side: int = 20) -> PhotoSet:
    """A set with so many photos of each class, no two photos alike."""
    labels = np.repeat([*range(len(counts)), -1], [*counts, background])
    images = np.random.default_rng(3).integers(0, 256, (len(labels), side, side, 3)).astype(np.uint8)
    return PhotoSet(tuple(images), labels.astype(np.int64), tuple("abcdefgh"[: len(counts)]))


# Loading


def test_a_folder_a_zip_and_a_tar_load_as_the_same_set(tmp_path: Path) -> None:
    folder = load_photos([in_folder(tmp_path / "photos", PHOTOS)])
    backwards = dict(reversed(PHOTOS.items()))
    for path in (in_zip(tmp_path / "photos.zip", PHOTOS), in_tar(tmp_path / "photos.tar", backwards)):
        loaded = load_photos([path])
        assert loaded.classes == folder.classes == CLASSES
        assert _content(loaded) == _content(folder)


def test_labels_are_indices_into_the_sorted_names_and_minus_one_for_background(tmp_path: Path) -> None:
    photos = load_photos([in_tar(tmp_path / "photos.tar", PHOTOS)])
    assert photos.labels.tolist() == [0] * 4 + [1] * 3 + [2] * 3 + [-1] * 2
    assert photos.labels.dtype == np.int64
    assert len(photos) == 12
    assert len(photos.labelled()) == 10
    assert (photos.labelled().labels >= 0).all()


def test_several_paths_are_one_set(tmp_path: Path) -> None:
    halves: list[dict[str, bytes]] = [{}, {}]
    for place, (name, data) in enumerate(PHOTOS.items()):
        halves[place % 2][name] = data
    both = load_photos([in_zip(tmp_path / "a.zip", halves[0]), in_tar(tmp_path / "b.tar", halves[1])])
    assert _content(both) == _content(load_photos([in_tar(tmp_path / "all.tar", PHOTOS)]))


def test_unreadable_files_are_skipped_and_listed_with_their_reason(tmp_path: Path) -> None:
    broken = {
        "green/notes.txt": b"not a photo",
        "red/cut.png": PHOTOS["red/000.png"][:-60],
        "red/empty.jpg": b"",
        "only_broken/0.png": b"nothing",
    }
    photos = load_photos([in_tar(tmp_path / "photos.tar", {**broken, **PHOTOS})])
    assert len(photos) == len(PHOTOS)
    assert photos.classes == CLASSES
    reasons = dict(line.split(": ", 1) for line in photos.skipped)
    assert list(reasons) == list(broken)
    assert "cut off" in reasons["red/cut.png"]
    assert all("Not a readable image" in reasons[name] for name in broken if name != "red/cut.png")


def test_a_given_order_of_classes_is_kept_and_others_are_skipped_and_listed(tmp_path: Path) -> None:
    photos = load_photos([in_tar(tmp_path / "photos.tar", PHOTOS)], ("red", "unseen", "blue sky"))
    assert photos.classes == ("red", "unseen", "blue sky")
    assert photos.labels.tolist() == [2] * 4 + [0] * 3 + [-1] * 2
    assert photos.skipped == ("class 'green' is not one of the model's",)


def test_a_large_photo_is_shrunk_to_a_shorter_side_of_256_pixels_and_a_small_one_unchanged(tmp_path: Path) -> None:
    sides = {"a/wide.png": (700, 300), "a/small.png": (200, 90), "b/tall.png": (257, 1000), "b/thin.png": (1, 500)}
    content = {name: png(Image.new("RGB", size, (10, 20, 30))) for name, size in sides.items()}
    photos = load_photos([in_tar(tmp_path / "photos.tar", content)])
    assert STORED_SIDE == 256
    assert [image.shape for image in photos.images] == [(256, 597, 3), (90, 200, 3), (996, 256, 3), (500, 1, 3)]
    assert all(image.dtype == np.uint8 and (image == [10, 20, 30]).all() for image in photos.images)


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    only = {name: data for name, data in PHOTOS.items() if name.startswith(("green", BACKGROUND))}
    with pytest.raises(InputError, match=r"At least two classes are needed, one folder per class; found: green\."):
        load_photos([in_tar(tmp_path / "photos.tar", only)])
    background = {name: data for name, data in PHOTOS.items() if name.startswith(BACKGROUND)}
    with pytest.raises(InputError, match="found: none"):
        load_photos([in_folder(tmp_path / "photos", background)])


def test_a_set_without_a_photo_is_rejected_with_the_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"No photo was found in empty\.$"):
        load_photos([tmp_path / "empty"])
    path = in_tar(tmp_path / "texts.tar", {"a/1.txt": b"one", "b/2.txt": b"two"})
    with pytest.raises(InputError, match=r"texts\.tar\. 2 files were not readable, the first: a/1\.txt: Not a read"):
        load_photos([path])


def test_folders_of_the_data_sets_names_hold_photos_of_the_everyday_classes(tmp_path: Path) -> None:
    folder = in_folder(tmp_path / "photos", files({"car_side": 3, "water_lily": 2}))
    photos = load_photos([folder], ["water lily", "car"])
    assert photos.labels.tolist() == [1, 1, 1, 0, 0]
    assert load_photos([folder]).classes == ("car side", "water lily")


def test_a_set_with_no_photo_of_the_given_classes_is_rejected(tmp_path: Path) -> None:
    path = in_tar(tmp_path / "photos.tar", PHOTOS)
    with pytest.raises(InputError, match=r"No photo in photos\.tar belongs to one of the 2 classes"):
        load_photos([path], ("cup", "chair"))


# Splitting


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
def test_a_split_is_stratified_and_loses_nothing(share: float) -> None:
    photos = _set((2, 3, 10, 41), background=7)
    first, second = photos.split(share, seed=1)
    for label, count in enumerate((2, 3, 10, 41)):
        held = int((second.labels == label).sum())
        assert int((first.labels == label).sum()) == count - held
        assert 1 <= held <= count - 1
        assert abs(held - share * count) <= 1
    assert (first.labels == -1).sum() == 7, "background photos stay in the training set"
    assert sorted(_content(first) + _content(second)) == _content(photos)
    assert first.classes == second.classes == photos.classes


def test_a_split_depends_on_its_seed() -> None:
    photos = _set((20, 20))
    assert _content(photos.split(0.3, 5)[1]) == _content(photos.split(0.3, 5)[1])
    assert _content(photos.split(0.3, 5)[1]) != _content(photos.split(0.3, 6)[1])


def test_a_class_with_one_photo_cannot_be_split_and_is_named() -> None:
    with pytest.raises(InputError, match=r"Class 'b' has one photo, which cannot be split\. Add photos"):
        _set((4, 1, 4)).split(0.1, 0)
    with pytest.raises(InputError, match=r"Class 'a' has one photo.*\(2 such classes\)"):
        _set((1, 4, 1)).split(0.1, 0)
    _set((4, 4), background=1).split(0.1, 0)


# Batches


VIEWS = (Augmentation(32), Augmentation(16, scale=(0.1, 0.4)), Augmentation(16, scale=(0.1, 0.4)))


def _batches(seed: int = 0, size: int = 6, start: int = 0, shard: tuple[int, int] = (0, 1)) -> Batches:
    batches = Batches(_set((10, 10), background=3), size, VIEWS, seed, start)
    batches.shard = shard
    return batches


def _same(first: Batch, second: Batch) -> bool:
    pairs = zip(first.views, second.views, strict=True)
    return torch.equal(first.indices, second.indices) and all(torch.equal(*pair) for pair in pairs)


def _first(batches: Batches, count: int) -> list[Batch]:
    iterator = iter(batches)
    try:
        return list(islice(iterator, count))
    finally:
        iterator.close()  # type: ignore[attr-defined]


def test_any_batch_alone_is_what_iteration_gives_at_that_step() -> None:
    given = _first(_batches(), 9)  # three epochs
    for step in (8, 0, 5, 2):
        assert _same(_batches().batch(step), given[step])


def test_iteration_starts_at_the_given_step() -> None:
    later = _first(_batches(start=4), 3)
    assert all(_same(batch, _batches().batch(4 + place)) for place, batch in enumerate(later))


def test_another_seed_gives_other_photos_and_other_views() -> None:
    assert not torch.equal(_batches(0).batch(0).indices, _batches(1).batch(0).indices)
    whole = [_batches(seed, size=23).batch(0) for seed in (0, 1)]
    views = [batch.views[0][batch.indices.argsort()] for batch in whole]
    assert not any(torch.equal(one, other) for one, other in zip(*views, strict=True))


def test_an_epoch_shows_a_photo_at_most_once_and_every_epoch_is_shuffled_anew() -> None:
    batches = _batches()
    assert batches.per_epoch == 3
    epochs = [torch.cat([batches.batch(3 * epoch + place).indices for place in range(3)]) for epoch in range(4)]
    for indices in epochs:
        assert len(indices.unique()) == len(indices) == 18
    assert len({tuple(indices.tolist()) for indices in epochs}) == 4


def test_a_photo_is_augmented_anew_in_every_epoch_and_view() -> None:
    batches = _batches(size=23)
    seen: list[Tensor] = []
    for epoch in range(2):
        batch = batches.batch(epoch)
        place = int((batch.indices == 7).nonzero())
        assert not torch.equal(batch.views[1][place], batch.views[2][place])
        seen.append(batch.views[0][place])
    assert not torch.equal(seen[0], seen[1])


def test_views_are_bytes_of_their_own_size_and_labels_are_those_of_the_photos() -> None:
    batches = _batches()
    batch = batches.batch(1)
    assert [tuple(view.shape) for view in batch.views] == [(6, 3, 32, 32), (6, 3, 16, 16), (6, 3, 16, 16)]
    assert all(view.dtype == torch.uint8 and view.is_contiguous() for view in batch.views)
    assert batch.labels.tolist() == batches.photos.labels[batch.indices.numpy()].tolist()


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_processes_share_a_batch_without_overlap_and_see_what_one_process_would(processes: int) -> None:
    for step in (0, 4):
        whole = _batches().batch(step)
        parts = [_batches(shard=(process, processes)).batch(step) for process in range(processes)]
        order = torch.cat([part.indices for part in parts])
        assert sorted(order.tolist()) == sorted(whole.indices.tolist())
        assert len(set(order.tolist())) == 6
        places = [whole.indices.tolist().index(index) for index in order.tolist()]
        for number in range(3):
            assert torch.equal(torch.cat([part.views[number] for part in parts]), whole.views[number][places])
        assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels[places])


def test_a_batch_is_no_larger_than_the_set() -> None:
    batches = Batches(_set((2, 3)), 64, [PLAIN], 0)
    assert batches.per_epoch == 1
    assert sorted(batches.batch(0).indices.tolist()) == [0, 1, 2, 3, 4]


def test_a_set_without_photos_gives_no_batches() -> None:
    with pytest.raises(InputError, match="no photo to train on"):
        Batches(_set((3, 3)).subset([]), 4, [PLAIN], 0)


def _threads() -> set[int]:
    return {thread.ident or 0 for thread in threading.enumerate() if thread.name == "vitdemo-batches"}


def _ends(before: set[int]) -> bool:
    """Whether within two seconds no more threads load batches than before."""
    until = time.monotonic() + 2
    while _threads() - before and time.monotonic() < until:
        time.sleep(0.02)
    return not _threads() - before


def test_the_thread_ends_when_a_loop_is_left() -> None:
    before = _threads()
    for batch in _batches():
        assert len(batch.labels)
        assert _threads() - before
        break
    assert _ends(before)


def test_an_error_in_the_thread_reaches_the_caller_and_ends_the_thread() -> None:
    good = _set((4, 4))
    hollow = PhotoSet((np.zeros((0, 0, 3), np.uint8), *good.images[1:]), good.labels, good.classes)
    before = _threads()
    with pytest.raises(cv2.error):
        _first(Batches(hollow, 2, [PLAIN], 0), 8)
    assert _ends(before)


# Views


def _random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _coordinates(width: int, height: int) -> np.ndarray:
    """A photo whose first two channels hold the column and the row."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([columns, rows, np.full_like(rows, 9)], axis=-1).astype(np.uint8)


def test_a_crop_lies_inside_the_photo_and_has_the_promised_share_and_shape() -> None:
    photo = _coordinates(100, 80)
    how = Augmentation(128, scale=(0.2, 0.6), flip=False, colour=0)  # enlarged: edge pixels stay what they are
    random, edges = _random(), []
    for _ in range(200):
        view = random_view(photo, how, random)
        (left, top), (right, bottom) = view[:, :, :2].min((0, 1)), view[:, :, :2].max((0, 1))
        width, height = int(right) - int(left) + 1, int(bottom) - int(top) + 1
        assert right < 100
        assert bottom < 80
        assert 0.19 < width * height / 8000 < 0.62
        assert 0.72 < width / height < 1.39
        assert (view[:, :, 2] == 9).all()
        edges.append([int(left), int(top), 99 - int(right), 79 - int(bottom)])
    # Every side of the photo is reached, and crops lie anywhere.
    assert np.min(edges, axis=0).tolist() == [0, 0, 0, 0]
    assert np.max(edges, axis=0).min() > 25


@pytest.mark.parametrize("size", [16, 96, 224])
@pytest.mark.parametrize("shape", [(48, 64), (300, 40), (1, 1), (1, 200), (200, 1), (3, 5000)])
def test_a_view_of_any_photo_is_a_square_of_bytes(shape: tuple[int, int], size: int) -> None:
    photo = np.full((*shape, 3), (30, 90, 200), np.uint8)
    how = Augmentation(size, scale=(0.05, 1), colour=0.4, grey=0.5, blur=1.0)
    for view in (random_view(photo, how, _random()), evaluation_view(photo, size)):
        assert view.shape == (size, size, 3)
        assert view.dtype == np.uint8
        assert view.flags.c_contiguous
    assert (evaluation_view(photo, size) == (30, 90, 200)).all()


def test_a_view_depends_on_its_generator_and_leaves_the_photo_alone() -> None:
    photo = _coordinates(60, 50)
    how = Augmentation(32, grey=0.3, blur=0.5)
    first, again, other = (random_view(photo, how, _random(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(photo, _coordinates(60, 50))


def test_a_view_with_everything_switched_off_is_the_photo() -> None:
    photo = _coordinates(32, 32)
    assert np.array_equal(random_view(photo, PLAIN, _random()), photo)


def test_half_of_the_views_are_flipped() -> None:
    photo = _coordinates(32, 32)
    how = Augmentation(32, scale=(1, 1), ratio=(1, 1), colour=0)
    random, flipped = _random(), 0
    for _ in range(400):
        view = random_view(photo, how, random)
        mirrored = bool(view[0, 0, 0])
        assert np.array_equal(view, photo[:, ::-1] if mirrored else photo)
        flipped += mirrored
    assert 160 < flipped < 240


def _colouring(strength: float) -> Augmentation:
    return Augmentation(32, scale=(1, 1), ratio=(1, 1), flip=False, colour=strength)


def test_brightness_and_contrast_of_a_grey_photo_change_by_up_to_the_strength() -> None:
    """Of a photo without colours, brightness scales the mean, and contrast the deviation relative to it."""
    photo = np.repeat(np.random.default_rng(1).integers(70, 130, (32, 32, 1)), 3, axis=2).astype(np.uint8)
    random = _random()
    views = [random_view(photo, _colouring(0.3), random).astype(float) for _ in range(300)]
    brightness = np.array([view.mean() for view in views]) / photo.mean()
    contrast = np.array([view.std() / view.mean() for view in views]) / (photo.std() / photo.mean())
    for change in (brightness, contrast):
        assert 0.69 < change.min() < 0.75
        assert 1.25 < change.max() < 1.31
        assert abs(change.mean() - 1) < 0.05
    assert all(np.ptp(view, axis=2).max() <= 1 for view in views), "grey stays grey, but for rounding"
    assert abs(np.corrcoef(brightness, contrast)[0, 1]) < 0.2, "drawn one without the other"


def test_saturation_moves_colours_to_and_from_their_grey() -> None:
    """The spread between channels, relative to the brightness, changes by up to contrast times saturation."""
    photo = np.full((32, 32, 3), (120, 90, 100), np.uint8)
    random = _random()
    views = [random_view(photo, _colouring(0.2), random)[0, 0].astype(float) for _ in range(300)]
    spreads = np.array([np.ptp(view) / view.mean() for view in views]) / (30 / photo.mean())
    assert 0.8 * 0.8 - 0.06 < spreads.min() < 0.8
    assert 1.2 < spreads.max() < 1.2 * 1.2 + 0.06
    assert all(view.argmax() == 0 and view.argmin() == 1 for view in views)


def test_colours_beyond_the_range_are_clipped() -> None:
    photo = np.zeros((32, 32, 3), np.uint8)
    photo[:, 16:] = 255
    random = _random()
    for _ in range(100):
        view = random_view(photo, _colouring(0.9), random)
        assert (view[:, 16:].min(axis=(0, 1)) >= view[:, :16].max(axis=(0, 1))).all()


def test_grey_views_have_equal_channels_and_the_given_share() -> None:
    photo = _coordinates(32, 32)
    random = _random()

    def grey(share: float) -> int:
        how = Augmentation(32, grey=share)
        return sum(int(np.ptp(random_view(photo, how, random), axis=2).max() == 0) for _ in range(200))

    assert grey(0) == 0
    assert grey(1) == 200
    assert 60 < grey(0.4) < 100


def test_a_blurred_view_is_smoother_and_as_bright() -> None:
    photo = np.random.default_rng(1).integers(0, 256, (224, 224, 3)).astype(np.uint8)
    how = Augmentation(224, scale=(1, 1), ratio=(1, 1), flip=False, colour=0, blur=1.0)
    random = _random()
    blurred = [random_view(photo, how, random) for _ in range(10)]
    assert sum(view.std() < 0.8 * photo.std() for view in blurred) > 5
    assert all(abs(view.mean() - photo.mean()) < 1 for view in blurred)


def test_the_evaluation_view_is_the_centre() -> None:
    wide, tall = _coordinates(96, 64), _coordinates(50, 80)
    assert np.array_equal(evaluation_view(wide, 64), wide[:, 16:80])
    assert np.array_equal(evaluation_view(tall, 50), tall[15:65])
    halved = evaluation_view(wide, 32).astype(float)
    squares = wide[:, 16:80].astype(float).reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(halved - squares).max() <= 0.5


def test_normalised_pixels_are_those_that_the_product_gives_the_model() -> None:
    photo = open_image(np.random.default_rng(2).integers(0, 256, (32, 32, 3)).astype(np.uint8))
    processor = Processor(resize=32, crop=(32, 32), resample=2, rescale=1 / 255, mean=MEAN, std=STD)
    product = preprocess([photo], processor).pixel_values
    pixels = torch.from_numpy(np.array(photo.image)).permute(2, 0, 1)[None]
    torch.testing.assert_close(normalised(pixels), product, atol=1e-5, rtol=1e-5)


# Mixing


SHADES = torch.tensor([10.0, 30.0, 70.0, 150.0, 310.0, 630.0], dtype=torch.float64)
"""One for each photo: a sum of two of them in known proportions identifies them."""


def _plain_photos() -> tuple[Tensor, Tensor]:
    return SHADES.view(6, 1, 1, 1).expand(6, 3, 24, 20).clone(), torch.eye(6, dtype=torch.float64)


def _mixtures(mixing: Mixing, count: int = 60) -> Iterator[tuple[Tensor, Tensor]]:
    random = _random()
    for _ in range(count):
        yield mixing(*_plain_photos(), random)


@pytest.mark.parametrize("mixing", [Mixing(mixup=0.8), Mixing(cutmix=1.0), Mixing(mixup=0.2, cutmix=1.0)])
def test_targets_sum_to_one_and_are_the_proportion_of_the_photos(mixing: Mixing) -> None:
    shares = []
    for pixels, targets in _mixtures(mixing):
        assert pixels.shape == (6, 3, 24, 20)
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(6, dtype=torch.float64))
        assert targets.min() >= 0
        assert int((targets > 0).sum(dim=1).max()) <= 2
        torch.testing.assert_close(pixels.mean(dim=(1, 2, 3)), targets @ SHADES)
        shares.append(float(targets.diagonal().min()))
    assert min(shares) < 0.2
    assert max(shares) > 0.8


def test_mixup_mixes_every_pixel_alike() -> None:
    for pixels, targets in _mixtures(Mixing(mixup=1.0)):
        torch.testing.assert_close(pixels, (targets @ SHADES).view(6, 1, 1, 1).expand_as(pixels))


def test_cutmix_pastes_one_rectangle_and_the_targets_are_its_exact_share() -> None:
    for pixels, targets in _mixtures(Mixing(cutmix=1.0)):
        for row in range(6):
            foreign = pixels[row] != SHADES[row]
            assert (foreign == foreign[0]).all(), "the same pixels in every channel"
            own = 1 - float(foreign[0].double().mean())
            assert float(targets[row, row]) == pytest.approx(own, abs=1e-12)
            rows, columns = foreign[0].any(dim=1), foreign[0].any(dim=0)
            assert int(foreign[0].sum()) == int(rows.sum()) * int(columns.sum()), "a rectangle"


def test_both_ways_of_mixing_are_drawn() -> None:
    kinds = {bool((pixels == pixels[:, :, :1, :1]).all()) for pixels, _ in _mixtures(Mixing(mixup=1.0, cutmix=1.0))}
    assert kinds == {True, False}


def test_without_mixing_and_with_a_single_photo_nothing_changes() -> None:
    pixels, targets = _plain_photos()
    for given, mixing in ((slice(None), Mixing()), (slice(1), Mixing(mixup=1.0, cutmix=1.0))):
        mixed, kept = mixing(pixels[given], targets[given], _random())
        assert torch.equal(mixed, pixels[given])
        assert torch.equal(kept, targets[given])


def test_mixing_leaves_its_arguments_alone_and_depends_on_its_generator() -> None:
    pixels, targets = _plain_photos()
    for mixing in (Mixing(mixup=1.0), Mixing(cutmix=1.0)):
        first, again = (mixing(pixels, targets, _random(3)) for _ in range(2))
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])
        assert torch.equal(pixels, _plain_photos()[0])
        assert torch.equal(targets, _plain_photos()[1])
