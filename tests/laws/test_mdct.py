"""The MDCT is an orthonormal map: its matrix by the textbook's sum, Parseval, exact inverse at every length."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.numerics import mdct

WINDOWS = {"sine": mdct.sine_window, "kbd": mdct.kbd_window}
LENGTHS = [0, 1, 2, 15, 16, 17, 31, 32, 33, 47, 160, 161, 16 * 600 + 5]


def noise(length, seed=0):
    return np.random.Generator(np.random.Philox(seed)).standard_normal(length)


def textbook(num_frames, rising):
    """[T N, T, N] of the defining sum, with start and stop windows; no fold, no DCT."""
    n = len(rising)
    full = np.concatenate([rising, rising[::-1]])
    matrix = np.zeros((num_frames * n, num_frames, n))
    for t in range(num_frames):
        w = full.copy()
        if t == 0:
            w[:n] = np.arange(n) >= n // 2
        if t == num_frames - 1:
            w[n:] = np.arange(n) < n // 2
        for m in range(2 * n):
            place = t * n - n // 2 + m
            if w[m] and 0 <= place < num_frames * n:
                matrix[place, t] = w[m] * np.cos(np.pi / n * (m + 0.5 + n / 2) * (np.arange(n) + 0.5))
    return matrix * np.sqrt(2 / n)


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("num_frames", [1, 2, 3, 5])
@pytest.mark.parametrize("num_bins", [2, 8, 10])
def test_equals_the_textbook_sum(name, num_frames, num_bins):
    window = WINDOWS[name](num_bins)
    matrix = textbook(num_frames, window)
    x = noise(num_frames * num_bins)
    np.testing.assert_allclose(mdct.mdct(x, window), np.einsum("l,ltk->tk", x, matrix), atol=1e-12)


def test_equals_the_textbook_sum_across_blocks_of_frames(monkeypatch):
    """Folding in blocks of frames must not show at their borders."""
    monkeypatch.setattr(mdct, "BLOCK", 3)
    window = mdct.sine_window(8)
    for num_frames in (3, 4, 6, 7, 10):
        x = noise(num_frames * 8)
        expected = np.einsum("l,ltk->tk", x, textbook(num_frames, window))
        np.testing.assert_allclose(mdct.mdct(x, window), expected, atol=1e-12)


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("num_bins", [2, 16, 320])
def test_windows_are_power_complementary(name, num_bins):
    """Princen-Bradley: w[n]^2 + w[N-1-n]^2 = 1."""
    window = WINDOWS[name](num_bins)
    np.testing.assert_allclose(window**2 + window[::-1] ** 2, 1, atol=1e-12)
    assert (np.diff(window) > 0).all()


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("length", LENGTHS)
def test_perfect_reconstruction_and_parseval_at_every_length(name, length):
    window = WINDOWS[name](16)
    x = noise(length)
    frames = mdct.mdct(x, window)
    assert frames.shape == (mdct.num_frames(length, 16), 16)
    np.testing.assert_allclose(mdct.imdct(frames, window)[:length], x, atol=1e-12)
    np.testing.assert_allclose(np.sum(frames**2), np.sum(x**2), rtol=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 200), st.integers(0, 2**63 - 1), st.floats(-3, 3), st.floats(-3, 3))
def test_linear(length, seed, alpha, beta):
    window = mdct.sine_window(10)
    x, y = noise((2, length), seed)
    mixed = mdct.mdct(alpha * x + beta * y, window)
    np.testing.assert_allclose(mixed, alpha * mdct.mdct(x, window) + beta * mdct.mdct(y, window), atol=1e-11)


def test_any_frames_survive_the_way_back():
    """The map is square and orthonormal: analysis inverts synthesis as well, whatever a model predicts."""
    window = mdct.kbd_window(16)
    frames = noise((9, 16))
    np.testing.assert_allclose(mdct.mdct(mdct.imdct(frames, window), window), frames, atol=1e-12)


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 2e-6), (np.float64, 1e-13)])
def test_dtype_is_kept(dtype, tolerance):
    window = mdct.sine_window(320)
    x = noise(320 * 7 + 13).astype(dtype)
    frames = mdct.mdct(x, window)
    back = mdct.imdct(frames, window)
    assert frames.dtype == back.dtype == dtype
    np.testing.assert_allclose(back[: len(x)], x, atol=10 * tolerance)


@pytest.mark.parametrize("num_frames", [0, 1, 2, 6])
@pytest.mark.parametrize("name", WINDOWS)
def test_torch_and_numpy_agree(name, num_frames):
    window = WINDOWS[name](16)
    x = noise((2, 3, num_frames * 16))
    frames = mdct.mdct_torch(torch.from_numpy(x), torch.from_numpy(window))
    assert frames.shape == (2, 3, num_frames, 16)
    for i in range(2):
        for j in range(3):
            np.testing.assert_allclose(frames[i, j].numpy(), mdct.mdct(x[i, j], window), atol=1e-12)
    back = mdct.imdct_torch(frames, torch.from_numpy(window))
    np.testing.assert_allclose(back.numpy(), x, atol=1e-12)


def test_torch_gradient_is_the_transpose():
    """Orthonormal, so the gradient of <imdct(X), g> in X is mdct(g)."""
    window = torch.from_numpy(mdct.sine_window(16))
    frames = torch.from_numpy(noise((5, 16))).requires_grad_()
    g = torch.from_numpy(noise(80, seed=1))
    (mdct.imdct_torch(frames, window) * g).sum().backward()
    torch.testing.assert_close(frames.grad, mdct.mdct_torch(g, window), atol=1e-12, rtol=0)
