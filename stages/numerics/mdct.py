r"""The modified discrete cosine transform: N real bins per hop of N samples, and back without loss.

Frame t looks at the 2N samples from tN - N/2, windowed, and is critically sampled all the same, since what its window's
two halves alias is cancelled by its neighbours (time-domain alias cancellation):

    X[t, k] = sqrt(2/N) sum_{n=0}^{2N-1} w[n] x[tN - N/2 + n] cos(pi/N (n + 1/2 + N/2) (k + 1/2)),   0 <= k < N.

With w[n]^2 + w[N-1-n]^2 = 1 on the rising half and w symmetric, the map of T N samples to T frames is orthonormal: the
inverse is the transpose, and sum X^2 = sum x^2 (Parseval). At the two ends of the signal the window has no neighbour to
overlap with and is 1 on the inner, 0 on the outer half (the start and stop windows of AAC), so T = ceil(L / N) frames
hold L samples exactly and nothing is known of what lies around them.

Written as a fold and a DCT-IV: with the quarters (a, b, c, d) of the windowed frame, X = DCT-IV(-c_r - d, a - b_r),
where _r is reversal. b and c lie in the frame's own hop, a and d in its neighbours'.

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

BLOCK = 256
"""Frames folded at once, so that the pass between fold and DCT stays in the cache of a core."""


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

    `window` is the rising half [N], N even; the result has the dtype of `x`, float32 or float64.
    """
    n = len(window)
    blocks = np.zeros((num_frames(len(x), n), n), x.dtype)
    blocks.reshape(-1)[: len(x)] = x
    out = np.empty_like(blocks)
    rise, fall = window.astype(x.dtype), window[::-1].astype(x.dtype)
    for start in range(0, len(blocks), BLOCK):
        stop = min(start + BLOCK, len(blocks))
        folded = _fold(blocks, start, stop, rise, fall)
        out[start:stop] = scipy.fft.dct(folded, type=4, norm="ortho", overwrite_x=True)
    return out


def _fold(blocks: np.ndarray, start: int, stop: int, rise: np.ndarray, fall: np.ndarray) -> np.ndarray:
    """(-c_r - d, a - b_r) of the frames start to stop."""
    h = blocks.shape[1] // 2
    own = blocks[start:stop]
    out = np.empty_like(own)
    np.multiply(own[:, : h - 1 : -1], -fall[h - 1 :: -1], out=out[:, :h])  # -c_r
    np.multiply(own[:, h - 1 :: -1], -rise[: h - 1 : -1], out=out[:, h:])  # -b_r
    after = blocks[start + 1 : stop + 1, :h]
    out[: len(after), :h] -= after * fall[h:]  # -d
    before = blocks[max(start - 1, 0) : stop - 1, h:]
    out[len(own) - len(before) :, h:] += before * rise[:h]  # a
    if start == 0:
        out[0, h:] = -own[0, h - 1 :: -1]
    if stop == len(blocks):
        out[-1, :h] = -own[-1, : h - 1 : -1]
    return out


def imdct(frames: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Frames [T, N] -> samples [T N], the inverse of `mdct`; float16 frames are computed in float32."""
    n, h = len(window), len(window) // 2
    frames = frames.astype(np.promote_types(frames.dtype, np.float32), copy=False)
    folded = np.asarray(scipy.fft.dct(frames, type=4, norm="ortho"))
    rise = window.astype(frames.dtype)
    out = np.empty((len(frames), n), frames.dtype)
    left, right = -folded[:, : h - 1 : -1], -folded[:, h - 1 :: -1]  # what b and c see of their own frame
    np.multiply(left, rise[h:], out=out[:, :h])
    np.multiply(right, rise[: h - 1 : -1], out=out[:, h:])
    out[1:, :h] -= folded[:-1, :h] * rise[h - 1 :: -1]
    out[:-1, h:] += folded[1:, h:] * rise[:h]
    out[:1, :h], out[-1:, h:] = left[:1], right[-1:]
    return out.reshape(-1)


def mdct_torch(x: "Tensor", window: "Tensor") -> "Tensor":
    """The same for tensors, differentiable: x [..., T N] -> [..., T, N]; `window` [N] on the device of x."""
    import torch

    h = len(window) // 2
    blocks = x.unflatten(-1, (-1, len(window)))
    b, c = blocks[..., :h].flip(-1), blocks[..., h:].flip(-1)
    rise, fall = _ends(window, blocks.shape[-2])
    d = torch.nn.functional.pad(blocks[..., 1:, :h] * window[:h].flip(-1), (0, 0, 0, 1))
    a = torch.nn.functional.pad(blocks[..., :-1, h:] * window[:h], (0, 0, 1, 0))
    folded = torch.cat([-c * fall.flip(-1) - d, a - b * rise.flip(-1)], dim=-1)
    return folded @ dct4_matrix(2 * h, x.dtype, x.device)


def imdct_torch(frames: "Tensor", window: "Tensor") -> "Tensor":
    """The inverse of `mdct_torch`, differentiable: [..., T, N] -> [..., T N].

    A product with the N x N matrix: at N = 320 it takes a CPU about as long as torch.stft of the same samples.
    """
    import torch

    h = len(window) // 2
    folded = frames @ dct4_matrix(2 * h, frames.dtype, frames.device)
    rise, fall = _ends(window, frames.shape[-2])
    d = torch.nn.functional.pad(folded[..., :-1, :h] * window[:h].flip(-1), (0, 0, 1, 0))
    a = torch.nn.functional.pad(folded[..., 1:, h:] * window[:h], (0, 0, 0, 1))
    b = -folded[..., h:].flip(-1) * rise - d
    c = -folded[..., :h].flip(-1) * fall + a
    return torch.cat([b, c], dim=-1).flatten(-2)


def _ends(window: "Tensor", num_frames: int) -> "tuple[Tensor, Tensor]":
    """What weighs b and c in each frame, [T, N/2] each: the window's halves near 1, and 1 at the signal's two ends."""
    h = len(window) // 2
    rise = window[h:].repeat(num_frames, 1)
    fall = window[h:].flip(-1).repeat(num_frames, 1)
    rise[:1], fall[-1:] = 1.0, 1.0
    return rise, fall


@lru_cache(maxsize=8)
def dct4_matrix(num_bins: int, dtype: "torch.dtype", device: "torch.device") -> "Tensor":
    """sqrt(2/N) cos(pi/N (n + 1/2) (k + 1/2)), symmetric and its own inverse. [N, N]."""
    import torch

    odd = torch.arange(num_bins, dtype=torch.float64) + 0.5
    matrix = torch.cos(torch.pi / num_bins * torch.outer(odd, odd)) * (2 / num_bins) ** 0.5
    return matrix.to(dtype).to(device)
