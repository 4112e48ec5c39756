"""A safetensors file of arrays that grow row by row, of which only the rows at hand are in memory.

Rows wait in a nameless file beside the target, and are copied from there in the order that is asked for. The bytes are
those of safetensors' own writer, which wants every array whole, and holds it twice.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.pipeline import artifacts

DTYPES = {"BOOL": "?", "U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "F16": "<f2", "I32": "<i4", "U32": "<u4"}
DTYPES |= {"F32": "<f4", "F64": "<f8", "I64": "<i8", "U64": "<u8"}
"""By the names of the format, in the order in which arrays come last to first."""
NAMES = {np.dtype(code): name for name, code in DTYPES.items()}
ORDER = {name: place for place, name in enumerate(DTYPES)}
ALIGNMENT, CHUNK = 8, 1 << 20


@dataclass(frozen=True)
class Rows:
    """Rows of an array, by where they wait."""

    offset: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(DTYPES[self.dtype]).itemsize


class Spool:
    """`folder`: where the rows wait, until it is closed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = tempfile.TemporaryFile(dir=folder)
        self.end = 0

    def close(self) -> None:
        self.file.close()

    def add(self, name: str, values: np.ndarray) -> Rows:
        """Take rows [n, ...]; ValueError names the array where they have no first axis, or no type of the format."""
        if values.ndim == 0:
            raise ValueError(f"{name}: a record's array needs a first axis, shape (1,) for a single number")
        dtype = values.dtype.newbyteorder("<")
        if dtype not in NAMES:
            raise ValueError(f"{name}: arrays of {values.dtype} cannot be kept; expected one of {', '.join(DTYPES)}")
        rows = Rows(self.end, values.shape, NAMES[dtype])
        self.end += self.file.write(np.ascontiguousarray(values, dtype).data.cast("B") if values.size else b"")
        return rows

    def write(self, path: Path, arrays: Mapping[str, Sequence[Rows]]) -> None:
        """Each array's rows one after the other, all of one type and of one shape but for their number."""
        names = sorted(arrays, key=lambda name: (-ORDER[arrays[name][0].dtype], name))
        header, start = {}, 0
        for name in names:
            first, *others = rows = arrays[name]
            if any((one.shape[1:], one.dtype) != (first.shape[1:], first.dtype) for one in others):
                raise ValueError(f"{name}: records have rows of different shapes or types")
            shape = [sum(one.shape[0] for one in rows), *first.shape[1:]]
            end = start + sum(one.num_bytes for one in rows)
            header[name] = {"dtype": first.dtype, "shape": shape, "data_offsets": [start, end]}
            start = end
        told = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        told += b" " * (-len(told) % ALIGNMENT)
        self.file.flush()
        artifacts.write_chunks(path, self.chunks(told, [one for name in names for one in arrays[name]]))

    def chunks(self, header: bytes, rows: Sequence[Rows]) -> Iterator[bytes]:
        yield len(header).to_bytes(8, "little") + header
        for one in rows:
            self.file.seek(one.offset)
            left = one.num_bytes
            while chunk := self.file.read(min(left, CHUNK)):
                left -= len(chunk)
                yield chunk
