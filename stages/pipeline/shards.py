"""The cache on disk: encoded clips in a few shard files, and what was summed over them.

    folder/index.json               {"version", "shards": [{"path", "sha256", "ids"}]}
    folder/shard_007.safetensors    "data" [sum T, *F], "starts" [n + 1]: record i is data[starts[i] : starts[i + 1]]

"mask" is there only where some entry is masked. Conditions and side information lie as "condition/<name>" and
"side/<name>" with starts of their own; a record without rows has none. A piece's records share a shard, chosen by the
hash of its id, so that a changed piece rewrites one file. Reading maps the files into memory and hands out views: a
crop of a record costs the pages of that crop. Each file's sha256 is checked when it is first opened.
"""

import hashlib
import json
import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import safetensors.numpy

from stages.pipeline import artifacts, half
from stages.pipeline.spool import DTYPES, Rows, Spool
from stages.protocols.spec import Code, Field, Statistics

REMEDY = "run `dvc repro -f -s` on the cache stage"


@dataclass(frozen=True)
class Shard:
    """An entry of index.json."""

    path: str
    sha256: str
    ids: tuple[str, ...]


def shard_of(piece: str, num_shards: int) -> int:
    """The shard of a piece, by hash: it stays when the corpus grows."""
    return int.from_bytes(hashlib.sha256(piece.encode()).digest()[:8], "big") % num_shards


def write_shard(folder: Path, number: int, codes: Iterable[Code]) -> Shard:
    """Write the codes, sorted by id, as shard_<number>.safetensors; they may come one at a time."""
    path = folder / f"shard_{number:03d}.safetensors"
    with artifacts.room_for(path), closing(Spool(folder)) as spool:
        records = sorted((_spooled(spool, code) for code in codes), key=lambda record: record.id)
        arrays = _stacked(spool, "data", [record.data for record in records])
        arrays["starts"] = arrays.pop("data/starts")
        if not all(record.unmasked for record in records):
            arrays["mask"] = [record.mask for record in records]
        for name in sorted({name for record in records for name in record.parts}):
            arrays |= _stacked(spool, name, [record.parts.get(name) for record in records])
        spool.write(path, arrays)
    return Shard(path.name, artifacts.sha256(path), tuple(record.id for record in records))


@dataclass(frozen=True)
class _Record:
    """A code whose arrays wait on a spool."""

    id: str
    data: Rows
    mask: Rows
    unmasked: bool
    parts: Mapping[str, Rows]


def _spooled(spool: Spool, code: Code) -> _Record:
    kinds = (("condition", code.conditions), ("side", code.side))
    parts = {f"{kind}/{name}": value for kind, values in kinds for name, value in values.items()}
    unmasked = code.mask.ndim == 1 and bool(code.mask.all())
    data, mask = spool.add("data", code.data), spool.add("mask", code.mask)
    return _Record(code.id, data, mask, unmasked, {name: spool.add(name, value) for name, value in parts.items()})


def _stacked(spool: Spool, name: str, rows: Sequence[Rows | None]) -> dict[str, list[Rows]]:
    """The rows of all records, one after the other, and where each record's start."""
    lengths = [0 if one is None else one.shape[0] for one in rows]
    starts = np.cumsum([0, *lengths], dtype=np.int64)
    return {name: [one for one in rows if one is not None], f"{name}/starts": [spool.add(f"{name}/starts", starts)]}


def write_index(folder: Path, version: str, shards: Iterable[Shard]) -> None:
    """Complete a folder of shards; without any it is an empty split."""
    entries = [{"path": s.path, "sha256": s.sha256, "ids": list(s.ids)} for s in sorted(shards, key=lambda s: s.path)]
    artifacts.write_json(folder / "index.json", {"version": version, "shards": entries})


class Shards(Sequence[Code]):
    """The records of a folder in the order of its index, their arrays views of the mapped files."""

    def __init__(self, folder: Path, version: str | None = None) -> None:
        """`version`: what the caller's representation writes; ValueError where the folder holds another's codes."""
        self.folder = folder
        index = artifacts.read_json(folder / "index.json")
        self.version: str = index["version"]
        if version is not None and version != self.version:
            raise ValueError(f"{folder} holds codes of version {self.version}, expected {version}: run `dvc repro`")
        self.shards = tuple(Shard(item["path"], item["sha256"], tuple(item["ids"])) for item in index["shards"])
        self.ids = tuple(name for shard in self.shards for name in shard.ids)
        self._places = [(shard, row) for shard in self.shards for row in range(len(shard.ids))]
        self._numbers = {name: number for number, name in enumerate(self.ids)}
        self._mapped: dict[str, _Mapped] = {}

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Code: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Code]: ...
    def __getitem__(self, index: int | slice) -> Code | Sequence[Code]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        shard, row = self._places[index]
        found = self._mapped.get(shard.path)
        if found is None:
            found = self._mapped[shard.path] = self._open(shard)
        return found.record(shard.ids[row], row)

    def by_id(self, name: str) -> Code:
        """The record of this id."""
        if name not in self._numbers:
            raise ValueError(f"{self.folder} holds no record {name!r}")
        return self[self._numbers[name]]

    def _open(self, shard: Shard) -> "_Mapped":
        path = self.folder / shard.path
        artifacts.check(path, shard.sha256, REMEDY)
        arrays = mapped(path)
        num = len(arrays["starts"]) - 1 if "starts" in arrays else 0
        if num != len(shard.ids):
            raise artifacts.damaged(path, f"{path} holds {num} records, its index {len(shard.ids)}; {REMEDY}")
        return _Mapped(arrays)


def records(folder: Path, shard: Shard) -> Iterator[Code]:
    """The records of one shard, before there is an index."""
    opened = _Mapped(mapped(folder / shard.path))
    return (opened.record(name, row) for row, name in enumerate(shard.ids))


def mapped(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file as read-only views of the mapped file: nothing is read before it is used.

    Damaged where it is none, or claims what it does not hold.
    """
    try:
        with path.open("rb") as file:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        start = 8 + int.from_bytes(pages[:8], "little")
        if start > len(pages):
            raise ValueError("its header would be longer than the file")
        header = json.loads(pages[8:start])
        return {
            name: np.ndarray(entry["shape"], DTYPES[entry["dtype"]], pages, start + entry["data_offsets"][0])
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as problem:
        raise artifacts.damaged(
            path, f"{path} is no safetensors file ({type(problem).__name__}); {REMEDY}"
        ) from problem


class _Mapped:
    """An open shard, with all that its records share looked up once: training asks for one record at a time."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.data, self.starts = arrays["data"], arrays["starts"].tolist()
        self.mask = arrays["mask"] if "mask" in arrays else np.broadcast_to(np.True_, (len(self.data),))
        self.parts = [
            (*key.split("/", 1), values, arrays[f"{key}/starts"].tolist())
            for key, values in arrays.items()
            if key.startswith(("condition/", "side/")) and f"{key}/starts" in arrays
        ]

    def record(self, name: str, row: int) -> Code:
        first, last = self.starts[row], self.starts[row + 1]
        parts: dict[str, dict[str, np.ndarray]] = {"condition": {}, "side": {}}
        for kind, part, values, starts in self.parts:
            if (end := starts[row + 1]) > (begin := starts[row]):
                parts[kind][part] = values[begin:end]
        return Code(name, self.data[first:last], self.mask[first:last], parts["condition"], parts["side"])


@dataclass(frozen=True)
class Sums:
    """What one shard adds to the statistics; merging keeps the precision that plain sums of squares lose.

    num [*F]; mean and squares (sum of squared distances from the mean) [*F] for real data, class_counts for discrete.
    """

    num: np.ndarray
    mean: np.ndarray | None
    squares: np.ndarray | None
    class_counts: np.ndarray | None


def sums(codes: Iterable[Code], field: Field) -> Sums:
    """Over every unmasked entry of the codes, in float64."""
    if field.num_classes is None:
        total = Sums(np.zeros(field.frame, np.int64), np.zeros(field.frame), np.zeros(field.frame), None)
    else:
        total = Sums(np.zeros(field.frame, np.int64), None, None, np.zeros(field.num_classes, np.int64))
    for code in codes:
        total = merge(total, _sums_of(code, field))
    return total


def _sums_of(code: Code, field: Field) -> Sums:
    spread = code.mask.reshape(code.mask.shape + (1,) * (code.data.ndim - code.mask.ndim))
    num = np.broadcast_to(spread, code.data.shape).sum(axis=0, dtype=np.int64)
    if field.num_classes is not None:
        present = code.data[np.broadcast_to(spread, code.data.shape)]
        return Sums(num, None, None, np.bincount(present, minlength=field.num_classes))
    data = (half.widen(code.data) if code.data.dtype == np.float16 else code.data).astype(np.float64)
    mean = data.sum(axis=0) / np.maximum(num, 1)
    data -= mean
    data *= spread
    return Sums(num, mean, np.einsum("t...,t...->...", data, data), None)


def plain_sums(found: Sums) -> dict[str, list | None]:
    """As JSON data, which holds floats to the last bit."""
    return {name: None if value is None else value.tolist() for name, value in vars(found).items()}


def sums_of(told: Mapping[str, list | None]) -> Sums:
    """The inverse of `plain_sums`."""
    kinds = {"num": np.int64, "mean": np.float64, "squares": np.float64, "class_counts": np.int64}
    return Sums(**{name: None if told[name] is None else np.array(told[name], kinds[name]) for name in kinds})  # type: ignore[arg-type]


def merge(one: Sums, other: Sums) -> Sums:
    """Of both together. Chan, Golub, LeVeque, "Updating formulae ... for computing sample variances", 1979."""
    num = one.num + other.num
    if one.mean is None or one.squares is None or other.mean is None or other.squares is None:
        assert one.class_counts is not None and other.class_counts is not None
        return Sums(num, None, None, one.class_counts + other.class_counts)
    share = other.num / np.maximum(num, 1)
    difference = other.mean - one.mean
    squares = one.squares + other.squares + difference**2 * one.num * share
    return Sums(num, one.mean + difference * share, squares, None)


def statistics(total: Sums) -> Statistics:
    """The sums as mean and (population) standard deviation, 0 where nothing was seen."""
    std = None if total.squares is None else np.sqrt(total.squares / np.maximum(total.num, 1))
    return Statistics(total.num, total.mean, std, total.class_counts)


def save_statistics(path: Path, found: Statistics) -> None:
    """Write as safetensors with a digest of the arrays inside."""
    arrays = {name: np.ascontiguousarray(value) for name, value in vars(found).items() if value is not None}
    artifacts.write_bytes(path, safetensors.numpy.save(arrays, {"sha256": _digest(arrays)}))


def load_statistics(path: Path) -> Statistics:
    """The inverse of `save_statistics`; Damaged where the arrays are not those that were written."""
    data = path.read_bytes()
    try:
        arrays = safetensors.numpy.load(data)
        written = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {}).get("sha256")
    except (safetensors.SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise artifacts.damaged(path, f"{path} is not whole ({problem}); {REMEDY}") from problem
    if written != _digest(arrays):
        raise artifacts.damaged(
            path, f"{path} is damaged: its arrays do not have the digest written beside them; {REMEDY}"
        )
    return Statistics(**{name: arrays.get(name) for name in ("num", "mean", "std", "class_counts")})  # type: ignore[arg-type]


def _digest(arrays: dict[str, np.ndarray]) -> str:
    return hashlib.sha256(safetensors.numpy.save(arrays)).hexdigest()
