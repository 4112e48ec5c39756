"""Images for tests: blurred blobs whose place is their class, and corpora of them."""

import gzip
import struct

import numpy as np

from stages.media import image
from stages.pipeline import artifacts, params


def blobs(num, side=8, num_classes=10, seed=0):
    """(uint8 [num, side, side], classes [num]): a bright spot that turns around the centre with its class."""
    rng = np.random.Generator(np.random.Philox(seed))
    digits = rng.integers(num_classes, size=num)
    angle = 2 * np.pi * digits / num_classes
    y, x = np.mgrid[:side, :side]
    centre = (side - 1) / 2
    down, across = (centre * (1 + 0.7 * f(angle))[:, None, None] for f in (np.sin, np.cos))
    jitter = rng.normal(0, 0.02 * side, (2, num, 1, 1))
    spots = np.exp(-((y - down - jitter[0]) ** 2 + (x - across - jitter[1]) ** 2) / (0.15 * side) ** 2)
    return image.quantise(spots), digits


def write_corpus(folder, num=120, side=8, splits=("",)):
    """A corpus folder as `download` leaves it."""
    pieces = []
    for number, split in enumerate(splits):
        pixels, digits = blobs(num, side, seed=number)
        pieces += image.write_pieces(folder, split or "digit", pixels, digits.tolist(), "none", split)
    artifacts.write_json(folder / "manifest.json", {"pieces": params.plain(pieces)})
    return folder


def idx(array, packed=False):
    """An IDX file's bytes."""
    data = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    return gzip.compress(data, mtime=0) if packed else data


def write_mnist(folder, num=20, packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    ending = ".gz" if packed else ""
    for number, prefix in enumerate(("train", "t10k")):
        pixels, digits = blobs(num, 28, seed=number)
        (folder / f"{prefix}-images-idx3-ubyte{ending}").write_bytes(idx(pixels, packed))
        (folder / f"{prefix}-labels-idx1-ubyte{ending}").write_bytes(idx(digits.astype(np.uint8), packed))
    return folder
