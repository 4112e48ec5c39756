"""IDX, the form of the MNIST files: 0, 0, type 8 (bytes), number of axes; big-endian lengths; then the bytes.

The header says how much follows, and no more than that is ever read, however a .gz unpacks. Yann LeCun, Corinna Cortes,
Christopher Burges, The MNIST database of handwritten digits, 1998, http://yann.lecun.com/exdb/mnist.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

MOST_BYTES = 1 << 30
UNSIGNED_BYTES = 8


def read(path: Path, num_axes: int) -> np.ndarray:
    """The array of a file, plain or .gz: uint8 with `num_axes` axes. ValueError names the file and what is wrong."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            header = file.read(4 + 4 * num_axes)
            shape = _shape(header, num_axes)
            data = file.read(math.prod(shape) + 1)
    except (OSError, EOFError, zlib.error, ValueError) as problem:
        raise ValueError(f"{path}: {problem}") from problem
    if len(data) != math.prod(shape):
        found = "more" if len(data) > math.prod(shape) else f"{len(data):,}"
        raise ValueError(f"{path}: its header tells of {math.prod(shape):,} bytes, it holds {found}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _shape(header: bytes, num_axes: int) -> tuple[int, ...]:
    if header[:4] != bytes((0, 0, UNSIGNED_BYTES, num_axes)) or len(header) != 4 + 4 * num_axes:
        raise ValueError(f"it begins with {header[:4].hex(' ')}: not an IDX file of bytes with {num_axes} axes")
    shape = struct.unpack(f">{num_axes}I", header[4:])
    if math.prod(shape) > MOST_BYTES:
        raise ValueError(f"its header tells of {math.prod(shape):,} bytes, more than {MOST_BYTES:,}")
    return shape
