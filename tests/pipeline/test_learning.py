"""What each way to learn asks of a photo: two tokens, hidden patches, crops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.conftest import picture
from vitdemo.errors import OptionError
from vitdemo.images.open import open_image
from vitdemo.models.loading import load_model
from vitdemo.models.masking import hidden_patches
from vitdemo.models.preprocess import preprocess
from vitdemo.pipeline import Pipeline
from vitdemo.pipeline.learning import LARGE, SMALL, crops, masked, two_tokens
from vitdemo.settings import Settings
from vitdemo.types import ModelSpec, Photo

Spec = Callable[[str], ModelSpec]
Maker = Callable[..., Photo]
CPU = torch.device("cpu")


def plain(width: int, height: int) -> Photo:
    """A photo of one colour."""
    return open_image(picture(8, 8).resize((1, 1)).resize((width, height)), Settings())


def test_the_mean_of_a_deits_two_answers_is_the_models_answer(
    pipeline: Pipeline, tiny_spec: Spec, photo: Maker
) -> None:
    spec, one = tiny_spec("deit"), photo()
    found = two_tokens(pipeline, one, spec, top_k=7)
    assert [*found] == ["class", "distillation"]
    for labels in found.values():
        assert sum(label.score for label in labels) == pytest.approx(1, abs=1e-5)
    # Logits are averaged, so scores are multiplied.
    scores = [{label.index: label.score for label in labels} for labels in found.values()]
    both = np.array([(scores[0][index] * scores[1][index]) ** 0.5 for index in range(7)])
    (own,) = pipeline.classify([one], spec, top_k=7)
    expected = {label.index: label.score for label in own.labels}
    np.testing.assert_allclose(both / both.sum(), [expected[index] for index in range(7)], atol=1e-5)
    with pytest.raises(OptionError, match="has no distillation token"):
        two_tokens(pipeline, one, tiny_spec("vit"))


@pytest.mark.parametrize("kind", ["beit", "vit", "dinov2-registers"])
def test_similarity_is_known_exactly_where_patches_are_hidden(
    kind: str, pipeline: Pipeline, tiny_spec: Spec, photo: Maker
) -> None:
    spec = tiny_spec(kind)
    found = masked(pipeline, photo(), spec, ratio=0.4, seed=3)
    assert torch.equal(found.hidden, hidden_patches(spec.patch_grid, 0.4, 3))
    assert torch.equal(found.similarity.isnan(), ~found.hidden)
    known = found.similarity[found.hidden]
    assert ((known >= -1) & (known <= 1.00001)).all()
    assert known.std() > 0
    # Grey where hidden, the photo elsewhere.
    seen, side = np.asarray(found.seen), spec.patch_size
    for row, column in np.ndindex(*spec.patch_grid):
        cell = seen[row * side : (row + 1) * side, column * side : (column + 1) * side]
        assert (cell == 128).all() == bool(found.hidden[row, column])


def test_hidden_patches_of_a_plain_photo_are_told_exactly(pipeline: Pipeline, tiny_spec: Spec) -> None:
    # The mean of equal tokens is each of them: nothing differs.
    found = masked(pipeline, plain(40, 40), tiny_spec("beit"))
    known = found.similarity[found.hidden]
    torch.testing.assert_close(known, torch.ones_like(known), atol=1e-5, rtol=0)


def test_masks_follow_their_seed(pipeline: Pipeline, tiny_spec: Spec, photo: Maker) -> None:
    first, again, other = (masked(pipeline, photo(), tiny_spec("beit"), seed=seed) for seed in (1, 1, 2))
    torch.testing.assert_close(first.similarity, again.similarity, equal_nan=True)
    assert not torch.equal(first.hidden, other.hidden)
    with pytest.raises(OptionError, match="must hide at least one of 16"):
        masked(pipeline, photo(), tiny_spec("beit"), ratio=0.0)


@pytest.mark.parametrize("size", [(96, 64), (64, 96), (300, 20), (1, 50)])
def test_crops_lie_in_the_photo_and_have_the_shares_of_dinos(
    size: tuple[int, int], pipeline: Pipeline, tiny_spec: Spec, photo: Maker
) -> None:
    width, height = size
    for seed in range(5):
        found = crops(pipeline, photo(width, height), tiny_spec("dino"), small=4, seed=seed)
        assert [crop.large for crop in found] == [True] * 2 + [False] * 4
        for one in found:
            left, top, right, bottom = one.crop
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
            assert -1.00001 <= one.similarity <= 1.00001
            low, high = LARGE if one.large else SMALL
            share = (right - left) * (bottom - top) / (width * height)
            assert share <= high + 0.05
            if max(size) < 2 * min(size):  # of a narrow photo, a crop is cut where it ends
                assert share >= low - 0.15


def test_a_crop_of_all_of_the_photo_is_like_itself(pipeline: Pipeline, tiny_spec: Spec, photo: Maker) -> None:
    for one in crops(pipeline, photo(1, 1), tiny_spec("dino")):
        assert one.crop == (0, 0, 1, 1)
        assert one.similarity == pytest.approx(1, abs=1e-5)


def test_crops_follow_their_seed_and_no_other_random_numbers(pipeline: Pipeline, tiny_spec: Spec, photo: Maker) -> None:
    first = crops(pipeline, photo(), tiny_spec("dino"), seed=1)
    torch.manual_seed(5)
    again, other = (crops(pipeline, photo(), tiny_spec("dino"), seed=seed) for seed in (1, 2))
    assert [one.crop for one in first] == [one.crop for one in again] != [one.crop for one in other]
    assert [one.similarity for one in first] == [one.similarity for one in again]


def test_a_similarity_is_the_cosine_of_class_tokens_by_hand(pipeline: Pipeline, tiny_spec: Spec, photo: Maker) -> None:
    spec, one = tiny_spec("dino"), photo()
    found = crops(pipeline, one, spec, small=1)
    network = load_model(spec, CPU, torch.float32).network
    tokens = []
    for crop in found:
        part = replace(one, image=one.image.crop(crop.crop))
        pixels = preprocess([part], replace(spec.processor, resize=spec.image_size, crop=None)).pixel_values
        with torch.no_grad():
            tokens.append(network(pixels).last_hidden_state[0, 0])
    first, second, small = (token / token.norm() for token in tokens)
    expected = torch.nn.functional.cosine_similarity(small, first + second, dim=0)
    assert found[2].similarity == pytest.approx(float(expected), abs=1e-5)
