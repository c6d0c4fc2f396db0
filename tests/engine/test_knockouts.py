"""Knock-outs of a request, checked against a model and cut into batches with their images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from vitdemo.engine.knockouts import batches, resolved
from vitdemo.errors import OptionError
from vitdemo.types import Attribution, Capture, Knockout, Lens, ModelSpec

OFF = tuple(Knockout(mlp=(layer,)) for layer in range(5))


def images(count: int) -> torch.Tensor:
    """Each filled with its number."""
    return torch.arange(count, dtype=torch.float32).view(count, 1, 1, 1).expand(count, 3, 2, 2)


def test_a_single_image_goes_with_every_piece_of_its_knockouts() -> None:
    found = list(batches(images(1), Capture(knockouts=OFF), 2))
    assert [own for _, own in found] == [OFF[:2], OFF[2:4], OFF[4:]]
    assert all(torch.equal(part, images(1)) for part, _ in found)


def test_many_images_are_cut_with_the_knockout_of_each() -> None:
    found = list(batches(images(5), Capture(knockouts=OFF), 3))
    assert [part[:, 0, 0, 0].tolist() for part, _ in found] == [[0, 1, 2], [3, 4]]
    assert [own for _, own in found] == [OFF[:3], OFF[3:]]


@pytest.mark.parametrize("off", [(), OFF[:1]])
def test_one_knockout_or_none_is_for_all_images(off: tuple[Knockout, ...]) -> None:
    found = list(batches(images(5), Capture(knockouts=off), 2))
    assert [len(part) for part, _ in found] == [2, 2, 1]
    assert [one for _, own in found for one in own] == [off[0] if off else Knockout()] * 5


@pytest.mark.parametrize("count", [2, 4, 6])
def test_another_number_of_images_than_of_knockouts_is_a_fault(count: int) -> None:
    with pytest.raises(ValueError, match=f"5 knock-outs for {count} images"):
        list(batches(images(count), Capture(knockouts=OFF), 2))


def test_a_request_is_checked_on_the_grid_of_its_pixels(tiny_spec: Callable[[str], ModelSpec]) -> None:
    spec, wanted = tiny_spec("vit"), Capture(knockouts=(Knockout(heads=((-1, 0),), patches=(23,)),))
    with pytest.raises(OptionError, match="no patch 23: this picture has patches 0 to 15"):
        resolved(wanted, spec, torch.zeros(1, 3, 32, 32))
    found = resolved(wanted, spec, torch.zeros(1, 3, 32, 48))
    assert isinstance(found, Capture)
    assert found.knockouts == (Knockout(heads=((2, 0),), patches=(23,)),)
    for other in (Capture(), Attribution("relevance"), Lens(target=0)):
        assert resolved(other, spec, torch.zeros(1, 3, 32, 32)) is other
