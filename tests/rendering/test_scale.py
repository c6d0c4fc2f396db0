"""What colours stand for."""

from __future__ import annotations

import numpy as np
import pytest

from vitdemo.rendering.scale import CAP, ColourScale, colour_scale, worded


def test_colours_end_at_the_percentile_of_all_maps_together() -> None:
    one, other = np.arange(100, dtype=np.float32), np.arange(100, 400, dtype=np.float32).reshape(20, 15)
    found = colour_scale([one, other])
    assert (found.low, found.high) == (0, pytest.approx(np.percentile(np.arange(400), CAP)))
    assert found.capped
    assert colour_scale([one, other], linear=True) == ColourScale(0, 399, linear=True)


def test_square_roots_keep_order() -> None:
    scale = colour_scale([np.linspace(2, 6, 50, dtype=np.float32)])
    values = np.linspace(scale.low, scale.high, 20, dtype=np.float32)
    shares = scale.shares(values)
    assert (np.diff(shares) > 0).all()
    assert (shares[0], shares[-1]) == (0, 1)
    np.testing.assert_allclose(shares**2, (values - scale.low) / (scale.high - scale.low), atol=1e-5)


def test_a_few_bright_patches_on_a_flat_ground_are_not_cut_off() -> None:
    values = np.zeros(196, np.float32)
    values[:2] = (1, 3)
    found = colour_scale([values])
    assert found == ColourScale(0, 3)
    assert found.shares(values)[:3].tolist() == [pytest.approx(3**-0.5), 1, 0]


def test_a_flat_map_has_the_first_colour() -> None:
    values = np.full((3, 3), 0.2, np.float32)
    assert not colour_scale([values]).shares(values).any()


def test_legends_have_two_digits() -> None:
    assert [worded(value) for value in (0, 0.000123, 0.0271, 0.5)] == ["0%", "0.012%", "2.7%", "50%"]
    assert worded(-0.1234, shares=False) == "-0.12"
