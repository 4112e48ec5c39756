r"""The modified discrete cosine transform: N real bins per hop of N samples, and back without loss.

Frame t looks at the 2N samples from tN - N/2, windowed, and is critically sampled all the same, since what its window's
two halves alias is cancelled by its neighbours (time-domain alias cancellation):

    X[t, k] = sqrt(2/N) sum_{n=0}^{2N-1} w[n] x[tN - N/2 + n] cos(pi/N (n + 1/2 + N/2) (k + 1/2)),   0 <= k < N.

With w[n]^2 + w[N-1-n]^2 = 1 on the rising half and w symmetric, the map of T N samples to T frames is orthonormal: the
inverse is the transpose, and sum X^2 = sum x^2 (Parseval). At the two ends of the signal the window has no neighbour to
overlap with and is 1 on the inner, 0 on the outer half (the start and stop windows of AAC), so T = ceil(L / N) frames
hold L samples exactly and nothing is known of what lies around them.

Computed as a lapped rotation and a DST-IV. Around each border tN of two hops, a sample j before it and its mirror image
j behind it are rotated by the angle whose sine and cosine are the window's values there; the outermost N/2 samples are
only negated. What lies in hop t is then a frame's aliased sum, mirrored, and X[t, k] = (-1)^k DST-IV(hop t)[k]. The
inverse takes the same steps back, with the opposite angle.

Princen, Johnson, Bradley, "Subband/transform coding using filter bank designs based on time domain aliasing
cancellation", ICASSP 1987; Malvar, "Signal Processing with Lapped Transforms", 1992.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import scipy.fft

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BLOCK = 512
"""Frames at once: few enough to stay in a cache from pass to pass, enough to make little of the cost of calls."""


def sine_window(num_bins: int) -> np.ndarray:
    """The rising half, sin(pi/2N (n + 1/2)). float64 [N]."""
    return np.sin(np.pi / (2 * num_bins) * (np.arange(num_bins) + 0.5))


def kbd_window(num_bins: int, alpha: float = 4.0) -> np.ndarray:
    """The rising half of the Kaiser-Bessel-derived window: less leakage far away, a wider main lobe. float64 [N]."""
    kaiser = np.cumsum(np.kaiser(num_bins + 1, np.pi * alpha))
    return np.sqrt(kaiser[:-1] / kaiser[-1])


def num_frames(num_samples: int, num_bins: int) -> int:
    """Frames that hold this many samples: ceil(L / N)."""
    return -(-num_samples // num_bins)


def mdct(x: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Samples [L] -> frames [ceil(L / N), N] of the same type; the last hop is filled up with zeros.

    `window` is the rising half [N], N even; x is float32 or float64.
    """
    n, h = len(window), len(window) // 2
    keep, cross = _rotation(window).astype(x.dtype)
    signs = _signs(n).astype(x.dtype)
    end = num_frames(len(x), n) * n
    flat = np.empty(end + h, x.dtype)
    image = np.empty((BLOCK, n), x.dtype)
    flat[:h] = -_cut(x, 0, h)
    for start in range(0, end, BLOCK * n):
        frames = flat[start : min(start + BLOCK * n, end)].reshape(-1, n)
        around = _cut(x, start + h, frames.size).reshape(-1, n)  # the borders behind the frames
        turned = flat[start + h : start + h + frames.size].reshape(-1, n)
        np.multiply(around, keep, out=turned)
        turned += np.multiply(around[:, ::-1], cross, out=image[: len(frames)])
        if start + frames.size == end:
            flat[end - h : end] = -_cut(x, end - h, h)
        np.multiply(np.asarray(scipy.fft.dst(frames, type=4, norm="ortho", overwrite_x=True)), signs, out=frames)
    return flat[:end].reshape(-1, n)


def imdct(frames: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Frames [T, N] of float32 or float64 -> samples [T N], the inverse of `mdct`."""
    n, h = len(window), len(window) // 2
    keep, cross = _rotation(window).astype(frames.dtype)
    signed = frames * _signs(n).astype(frames.dtype)
    flat = np.asarray(scipy.fft.dst(signed, type=4, norm="ortho", overwrite_x=True)).reshape(-1)
    inner = slice(h, len(flat) - h)
    around, out = flat[inner].reshape(-1, n), np.empty_like(flat)
    out[:h], out[len(flat) - h :] = -flat[:h], -flat[len(flat) - h :]
    np.multiply(around, keep, out=out[inner].reshape(-1, n))
    out[inner] -= (around[:, ::-1] * cross).reshape(-1)
    return out


def _rotation(window: np.ndarray) -> np.ndarray:
    """What the N samples around a border keep of themselves, and take of their mirror images. [2, N]."""
    h = len(window) // 2
    keep = np.concatenate([-window[: h - 1 : -1], -window[h:]])
    return np.stack([keep, np.concatenate([-window[:h], window[h - 1 :: -1]])])


def _signs(num_bins: int) -> np.ndarray:
    """(-1)^k."""
    return 1.0 - 2.0 * (np.arange(num_bins) % 2)


def _cut(x: np.ndarray, start: int, num: int) -> np.ndarray:
    """`num` samples of x from `start`, zeros beyond its end."""
    part = x[start : start + num]
    return part if len(part) == num else np.concatenate([part, np.zeros(num - len(part), x.dtype)])


def mdct_torch(x: "Tensor", window: "Tensor") -> "Tensor":
    """The same for tensors, differentiable: x [..., T N] -> [..., T, N]; `window` [N] on the device of x."""
    keep, cross = _rotation_torch(window)
    rotated = _turned(x, keep, cross)
    return rotated.unflatten(-1, (-1, len(window))) @ dst4_matrix(len(window), x.dtype, x.device)


def imdct_torch(frames: "Tensor", window: "Tensor") -> "Tensor":
    """The inverse of `mdct_torch`, differentiable: [..., T, N] -> [..., T N].

    A product with the N x N matrix: at N = 320 it takes a CPU about twice as long as `imdct`.
    """
    keep, cross = _rotation_torch(window)
    rotated = frames @ dst4_matrix(len(window), frames.dtype, frames.device).mT
    return _turned(rotated.flatten(-2), keep, -cross)


def _rotation_torch(window: "Tensor") -> "tuple[Tensor, Tensor]":
    import torch

    h = len(window) // 2
    low, high = window[:h], window[h:]
    return torch.cat([-high.flip(0), -high]), torch.cat([-low, low.flip(0)])


def _turned(x: "Tensor", keep: "Tensor", cross: "Tensor") -> "Tensor":
    """Samples [..., T N] rotated around each border of two hops, the outermost N/2 negated."""
    import torch

    n, h = len(keep), len(keep) // 2
    around = x[..., h : x.shape[-1] - h].unflatten(-1, (-1, n))
    inner = (around * keep + around.flip(-1) * cross).flatten(-2)
    return torch.cat([-x[..., :h], inner, -x[..., x.shape[-1] - h :]], dim=-1) if x.shape[-1] else x


@lru_cache(maxsize=8)
def dst4_matrix(num_bins: int, dtype: "torch.dtype", device: "torch.device") -> "Tensor":
    """(-1)^k sqrt(2/N) sin(pi/N (n + 1/2) (k + 1/2)), orthonormal. [N, N] over n, k."""
    import torch

    half = torch.arange(num_bins, dtype=torch.float64) + 0.5
    matrix = torch.sin(torch.pi / num_bins * torch.outer(half, half)) * (2 / num_bins) ** 0.5
    return (matrix * torch.from_numpy(_signs(num_bins))).to(dtype).to(device)
