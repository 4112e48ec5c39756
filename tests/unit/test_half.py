"""Conversions are numpy's to the bit, for every float16 there is and around every border between two of them."""

import numpy as np
import pytest

from stages.pipeline import half

EVERY = np.arange(65536, dtype=np.uint16).view(np.float16)
FINITE = EVERY[np.isfinite(EVERY)]


def bits(x):
    return x.view({2: np.uint16, 4: np.uint32}[x.dtype.itemsize])


def test_every_float16_is_widened_and_comes_back():
    wide = half.widen(FINITE)
    np.testing.assert_array_equal(bits(wide), bits(FINITE.astype(np.float32)))
    np.testing.assert_array_equal(bits(half.narrow(wide)), bits(FINITE))


def test_rounding_is_to_nearest_with_ties_to_even():
    """At the middle between each two neighbours, and one float32 to each side of it."""
    ordered = np.sort(FINITE[np.signbit(FINITE) == 0]).astype(np.float64)
    middle = ((ordered[1:] + ordered[:-1]) / 2).astype(np.float32)
    for x in (middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(np.inf))):
        for signed in (x, -x):
            np.testing.assert_array_equal(bits(half.narrow(signed)), bits(signed.astype(np.float16)))


@pytest.mark.parametrize("scale", [1e-10, 1e-7, 1e-5, 1.0, 1e4])
@pytest.mark.parametrize("shape", [(0,), (0, 3), (1,), (7, 5), (16384,), (16385,), (3, 20_000)])
def test_any_shape_and_scale(scale, shape):
    x = (scale * np.random.Generator(np.random.Philox(0)).uniform(-4, 4, shape)).astype(np.float32)
    narrow = half.narrow(x)
    assert narrow.shape == shape and narrow.dtype == np.float16
    np.testing.assert_array_equal(bits(narrow), bits(x.astype(np.float16)))
    np.testing.assert_array_equal(half.widen(narrow), narrow.astype(np.float32))


def test_zeros_and_tiny_numbers_keep_their_sign():
    x = np.array([0.0, -0.0, 1e-45, -1e-45, 2.98e-8, -2.99e-8, 65504, -65519], np.float32)
    np.testing.assert_array_equal(bits(half.narrow(x)), bits(x.astype(np.float16)))


def test_views_that_are_not_contiguous():
    x = np.arange(60, dtype=np.float32).reshape(6, 10)[::2, ::3]
    np.testing.assert_array_equal(half.narrow(x), x)
    np.testing.assert_array_equal(half.widen(x.astype(np.float16)[:, ::2]), x[:, ::2])
