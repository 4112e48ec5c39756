"""Images as grids of square patches, and the lapped transform of both axes, as orthonormal maps of pixels.

    X = A x B^T,   A [H', H'], B [W', W'] orthonormal;   code[i W'/N + j] = X[iN : (i+1)N, jN : (j+1)N], row by row,

H' = ceil(H / N) N: an image is filled up with zeros to whole patches. With A = B = I that is a reshape (space to depth,
pixel unshuffle); with A and B the MDCT of numerics/mdct.py along columns and along rows, patch (i, j) holds the N x N
frequencies of a window around it that overlaps its neighbours by half. Either way sum code^2 = sum x^2 (Parseval).

Shi et al., "Real-time single image and video super-resolution using an efficient sub-pixel convolutional neural
network", 2016, https://arxiv.org/abs/1609.05158; Malvar, "Signal Processing with Lapped Transforms", 1992.
"""

from typing import TYPE_CHECKING

import numpy as np

from stages.numerics import mdct

if TYPE_CHECKING:
    from torch import Tensor


def grid(height: int, width: int, patch: int) -> tuple[int, int]:
    """Patches down and across that cover an image: ceil(H / N), ceil(W / N)."""
    return -(-height // patch), -(-width // patch)


def pad(pixels: np.ndarray, patch: int) -> np.ndarray:
    """[H, W] -> [H', W'], zeros below and to the right."""
    height, width = pixels.shape
    rows, columns = grid(height, width, patch)
    return np.pad(pixels, [(0, rows * patch - height), (0, columns * patch - width)])


def split(pixels: np.ndarray, patch: int) -> np.ndarray:
    """[H', W'] of whole patches -> [num patches, N N], patches and their pixels row by row."""
    rows, columns = (length // patch for length in pixels.shape)
    return pixels.reshape(rows, patch, columns, patch).swapaxes(1, 2).reshape(rows * columns, patch * patch)


def join(code: np.ndarray, shape: tuple[int, int], patch: int) -> np.ndarray:
    """The inverse of `split`: [num patches, N N] -> [H', W']."""
    rows, columns = shape
    return code.reshape(rows, columns, patch, patch).swapaxes(1, 2).reshape(rows * patch, columns * patch)


def join_torch(code: "Tensor", shape: tuple[int, int], patch: int) -> "Tensor":
    """`join` for tensors, differentiable: [B, num patches, N N] -> [B, H', W']."""
    rows, columns = shape
    whole = code.reshape(len(code), rows, columns, patch, patch).transpose(2, 3)
    return whole.reshape(len(code), rows * patch, columns * patch)


def lapped(length: int, patch: int) -> np.ndarray:
    """The MDCT of `length` samples (a multiple of N) as a matrix, sine window: float64 [length, length]."""
    window = mdct.sine_window(patch)
    return np.stack([mdct.mdct(row, window).reshape(-1) for row in np.eye(length)], axis=1)
