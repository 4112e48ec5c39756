"""Images: float32 in memory, 8-bit greyscale on disk; a corpus of small ones is a few stacks, not a file per image.

A stack is uint8 [n, H, W] in numpy's .npy form, whose bytes depend on the pixels alone and which is read by mapping it.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stages.pipeline import artifacts
from stages.protocols.corpus import Piece


@dataclass(frozen=True)
class Clip:
    """One greyscale image."""

    id: str
    pixels: np.ndarray
    """float32 [H, W] in [0, 1], 0 is black."""
    labels: Mapping[str, int] = field(default_factory=dict)
    """What is known of it, such as {"digit": 7}."""


def require(clip: Clip, height: int, width: int, label: str, num_classes: int) -> np.ndarray:
    """The clip's pixels float32 [H, W]. ValueError names the clip where its size or its label is another."""
    if clip.pixels.shape != (height, width):
        raise ValueError(
            f"{clip.id} has {clip.pixels.shape[0]} x {clip.pixels.shape[1]} pixels, expected {height} x {width}: set "
            "height and width of the representation"
        )
    if not 0 <= clip.labels.get(label, 0) < num_classes:
        raise ValueError(f"{clip.id}: {label} = {clip.labels[label]}, expected 0 to {num_classes - 1}")
    return clip.pixels.astype(np.float32, copy=False)


def conditions(clip: Clip, label: str) -> dict[str, np.ndarray]:
    """The clip's label as a condition of its code, int64 [1]; absent where it is unknown."""
    return {label: np.array([clip.labels[label]])} if label in clip.labels else {}


def labels(conditions: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The inverse of `conditions`."""
    return {name: int(value[0]) for name, value in conditions.items()}


def quantise(pixels: np.ndarray) -> np.ndarray:
    """[0, 1] -> uint8, to the nearest. ValueError where a pixel is not finite or not in [0, 1]."""
    low, high = float(pixels.min(initial=0.0)), float(pixels.max(initial=0.0))
    if not (low >= 0.0 and high <= 1.0):
        raise ValueError(f"pixels from {low} to {high}: expected 0 to 1; limit them before writing")
    return np.rint(pixels * 255).astype(np.uint8)


def widen(pixels: np.ndarray) -> np.ndarray:
    """uint8 -> float32 in [0, 1]."""
    return pixels.astype(np.float32) / np.float32(255)


def write_stack(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 [n, H, W]."""
    assert pixels.dtype == np.uint8 and pixels.ndim == 3, (pixels.dtype, pixels.shape)
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(pixels), allow_pickle=False)
    artifacts.write_bytes(path, file.getvalue())


def read_stack(path: Path) -> np.ndarray:
    """uint8 [n, H, W], mapped. ValueError names the file where it is no stack."""
    try:
        pixels = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as problem:
        raise ValueError(f"{path} is no stack of images: {problem}") from problem
    if pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise ValueError(f"{path} holds {pixels.dtype} {pixels.shape}: expected uint8 [n, height, width]")
    return pixels


def write_pieces(
    folder: Path, name: str, pixels: np.ndarray, digits: Sequence[int], licence: str, split: str = ""
) -> tuple[Piece, ...]:
    """Write one stack of labelled digits into a corpus folder; its pieces, one per image, `<name>-00000` and so on."""
    path = f"{name}.npy"
    write_stack(folder / path, pixels)
    sha256 = artifacts.sha256(folder / path)
    return tuple(
        Piece(f"{name}-{k:05d}", path, "image", 0.0, sha256, licence, (("digit", int(digit)),), k, split)  # type: ignore[arg-type]
        for k, digit in enumerate(digits)
    )


def grid(pixels: np.ndarray, num_columns: int, gap: int = 1) -> np.ndarray:
    """Images [n, H, W] side by side, row by row, with `gap` pixels of 1 between: float32 [rows, columns]."""
    num, height, width = pixels.shape
    num_rows = -(-num // num_columns)
    sheet = np.ones((num_rows * (height + gap) - gap, num_columns * (width + gap) - gap), np.float32)
    for k, one in enumerate(pixels):
        y, x = k // num_columns * (height + gap), k % num_columns * (width + gap)
        sheet[y : y + height, x : x + width] = one
    return sheet


def png(pixels: np.ndarray) -> bytes:
    """[H, W] in [0, 1] as an 8-bit greyscale PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(quantise(pixels)).save(file, "PNG", optimize=True)
    return file.getvalue()
