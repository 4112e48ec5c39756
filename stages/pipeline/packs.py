"""Many small files in a few archives: DVC looks at every file of an out, in one process, whenever it runs.

    folder/files/bwv2.6.mid  becomes  folder/packs/3f.zip, and its path packs/3f.zip/bwv2.6.mid

A file's pack is chosen by the hash of its name, so one more file changes one pack. They are zip archives without
compression, bytes that depend on their files alone; `unzip` reads them. A file above LARGEST stays where it is.
"""

import errno
import hashlib
import lzma
import struct
import tempfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from stages.pipeline import artifacts, store
from stages.pipeline.artifacts import Damaged
from stages.pipeline.store import Made, Store
from stages.pipeline.workers import Guard

Unit = TypeVar("Unit")

NUM = 256
"""Packs of a folder at most, named by two hexadecimal digits."""
LARGEST = 64_000_000
"""Bytes of a file in a pack, which readers hold in memory; larger ones need no company."""
WITHIN = ".zip/"
BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, LookupError, RuntimeError, ValueError, EOFError)
"""What zipfile raises where an archive is not what was written; and OSError, of seeking."""


def map_units(
    kept: Store | None,
    function: Callable[[Path, Unit], Any],
    units: Sequence[Unit],
    depends: Sequence[Any],
    folder: Path,
    guard: Guard | None = None,
) -> tuple[list[Any], dict[str, str]]:
    """store.map_units with the files in packs below `folder`: the results, and what `pack` answers.

    Files that a kept pack holds are left where they are kept: checking and linking all costs more than one new unit.
    """
    if kept is None:
        results = store.map_units(None, function, units, depends, folder, guard)
        return results, pack(folder, {path.relative_to(folder).as_posix(): "" for path in store.files_of(folder)})

    def done(numbers: Sequence[int]) -> list[Made]:
        chosen = [units[k] for k in numbers], [depends[k] for k in numbers]
        return store.make_all(kept, function, *chosen, folder, guard)

    known = [kept.known(item) for item in depends]
    new = [k for k, made in enumerate(known) if made is None]
    fresh = dict(zip(new, done(new), strict=True))
    all_made = [made or fresh[k] for k, made in enumerate(known)]
    packs = sorted_into({path: size for made in all_made for path, (_, size) in made.files.items()})
    digests = digests_of(all_made)
    taken = [name for name, paths in packs.items() if kept.take(depends_of(name, paths, digests), folder)]
    apart = digests.keys() - {path for name in taken for path in packs[name]}
    needed = [k for k, made in enumerate(known) if made and not apart.isdisjoint(made.files)]
    if done(needed) != [known[k] for k in needed]:  # damaged, and not made again as it was: so nothing is known
        remove(folder, taken)
        all_made = done(range(len(units)))
        return [made.result for made in all_made], pack(folder, digests_of(all_made), kept)
    moved = pack(folder, {path: digests[path] for path in apart}, kept)
    moved |= {path: moved_to(name, path) for name in taken for path in packs[name]}
    remove(folder, moved)  # of a unit of several files more came than was needed
    return [made.result for made in all_made], moved


def pack(folder: Path, digests: Mapping[str, str], kept: Store | None = None) -> dict[str, str]:
    """Move files below `folder`, given with their sha256, into packs; old path -> new path of each that moved.

    Packs that a store has kept are used again. ValueError where two files have one name.
    """
    packs = sorted_into({path: (folder / path).stat().st_size for path in digests})
    depends = [depends_of(name, paths, digests) for name, paths in packs.items()]
    store.map_units(kept, partial(write, folder), list(packs.items()), depends, folder)
    moved = {path: moved_to(name, path) for name, paths in packs.items() for path in paths}
    remove(folder, moved)
    return moved


def digests_of(units: Iterable[Made]) -> dict[str, str]:
    return {path: sha256 for made in units for path, (sha256, _) in made.files.items()}


def depends_of(name: str, paths: Sequence[str], digests: Mapping[str, str]) -> list[Any]:
    """What a pack depends on."""
    return [name, [[path, digests[path]] for path in paths]]


def moved_to(name: str, path: str) -> str:
    return f"{name}/{Path(path).name}"


def sorted_into(sizes: Mapping[str, int]) -> dict[str, list[str]]:
    """Pack -> the paths of the files that go into it."""
    found: dict[str, list[str]] = defaultdict(list)
    names: dict[str, str] = {}
    for path in sorted(sizes):
        name = Path(path).name
        if names.setdefault(name, path) != path:
            raise ValueError(f"{names[name]} and {path} would be one file of a pack")
        if sizes[path] <= LARGEST:
            number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % NUM
            found[f"packs/{number:02x}.zip"].append(path)
    return dict(found)


def write(source: Path, target: Path, unit: tuple[str, list[str]]) -> None:
    """Write one pack below `target` from files below `source`."""
    name, paths = unit
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target / name, "w") as archive:
        for path in paths:
            about = zipfile.ZipInfo(Path(path).name)  # of 1980, so that the bytes do not tell the time
            about.create_system, about.external_attr = 3, 0o644 << 16  # Unix; else what runs this would show
            archive.writestr(about, (source / path).read_bytes())


def remove(folder: Path, paths: Iterable[str]) -> None:
    """Delete files below `folder`, and the folders that are empty without them."""
    parents = set()
    for path in paths:
        (folder / path).unlink(missing_ok=True)
        parents.add((folder / path).parent)
    for parent in parents - {folder}:
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()


def source(folder: Path, path: str, sha256: str, remedy: str) -> Path | bytes:
    """A file of `folder`, checked: its bytes where it lies in a pack, else its path. Damaged names it."""
    name, inside, member = path.rpartition(WITHIN)
    if not inside:
        artifacts.check(folder / path, sha256, remedy)
        return folder / path
    place = folder / f"{name}.zip"
    if not place.is_file():
        raise Damaged(f"{place} is missing; {remedy}")
    with place.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                data = archive.read(member)
        except (*BROKEN, OSError) as problem:
            if isinstance(problem, OSError) and problem.errno not in (None, errno.EINVAL):  # those are of seeking
                raise
            raise artifacts.damaged(place, f"{folder / path} is damaged ({problem}); {remedy}") from problem
    if hashlib.sha256(data).hexdigest() != sha256:
        raise artifacts.damaged(place, f"{folder / path} is damaged: its sha256 is not what was written; {remedy}")
    return data


def read(folder: Path, path: str, sha256: str, remedy: str) -> bytes:
    """The bytes of a file of `folder`, checked."""
    found = source(folder, path, sha256, remedy)
    return found if isinstance(found, bytes) else found.read_bytes()


@contextmanager
def unpacked(folder: Path, path: str, sha256: str, remedy: str, scratch: Path) -> Iterator[Path]:
    """A file of `folder`, checked, where libraries can open it: some read less from bytes than from a path.

    One out of a pack lies below `scratch` meanwhile.
    """
    found = source(folder, path, sha256, remedy)
    if isinstance(found, Path):
        yield found
        return
    with tempfile.TemporaryDirectory(dir=scratch, prefix=artifacts.DRAFT) as place:
        file = Path(place, Path(path).name)
        file.write_bytes(found)
        yield file
