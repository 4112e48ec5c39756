"""Music out of a zip or tar archive, which may have been made to do harm.

Names are checked before anything is written: an absolute path, a drive or a `..` refuses the whole archive, since no
honest one holds it. Links and devices are never made, only regular files with a wanted ending; tar members go through
Python's own filter="data" besides. What is written is counted as it comes, so that a small archive cannot fill a disk:
music never unpacks to a hundred times its size. Tables of contents can be bombs too, so unpacking has a process of its
own with a limit of memory. Archives within archives stay packed.

PEP 706, "Filter for tarfile.extractall", 2022, https://peps.python.org/pep-0706.
"""

import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from stages.pipeline.artifacts import NoRoom, room_for
from stages.pipeline.workers import Guard, map_units
from stages.protocols.corpus import Refused

BLOCK = 1 << 20
NUM_MEMBERS = 1_000_000
TABLE_BYTES = 100 * NUM_MEMBERS
RATIO, FREE_BYTES = 100, 20_000_000
"""What unpacks to more than so many times its size is a bomb; small ones may."""
MEMORY_GB, CPU_S = 2.0, 48 * 3600
"""Of unpacking; a zip's table of contents takes 0.6 GB per million members."""
FAULTS = (OSError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError)


@dataclass
class Budget:
    """How much may still be unpacked, and whose names are taken."""

    num_bytes: int
    """To disk."""
    num_inflated: int
    """To disk or past it."""
    num_members: int = NUM_MEMBERS
    names: dict[str, str] = field(default_factory=dict)

    def spend(self, num_bytes: int) -> None:
        self.num_bytes -= num_bytes
        if self.num_bytes < 0:
            raise TooLarge("it unpacks to more than max_gb allows")
        self.inflate(num_bytes)

    def inflate(self, num_bytes: int) -> None:
        self.num_inflated -= num_bytes
        if self.num_inflated < 0:
            raise TooLarge(f"it unpacks to more than {RATIO} times its size, which music does not")

    def meet(self) -> None:
        self.num_members -= 1
        if self.num_members < 0:
            raise TooLarge(f"it holds more than {NUM_MEMBERS:,} members")

    def taken(self, path: PurePosixPath) -> str | None:
        """The earlier member of this name, as a disk sees it on which upper and lower case are one; else None."""
        name = path.as_posix()
        if name.lower() in self.names:
            return self.names[name.lower()]
        self.names[name.lower()] = name
        return None


class TooLarge(Exception):
    """The budget is spent; not a ValueError, which would quarantine one member only."""


def extract_apart(archive: Path, folder: Path, endings: tuple[str, ...], max_bytes: int) -> list[Refused]:
    """`extract` in a process of its own."""
    call = partial(extract, folder=folder, endings=endings, max_bytes=max_bytes)
    (refused,) = map_units(call, [archive], guard=Guard(MEMORY_GB, CPU_S, refuse))
    return refused


def refuse(archive: Path, reason: str) -> list[Refused]:
    """In place of what an archive that broke its process holds."""
    raise ValueError(f"{archive.name} cannot be unpacked: {reason}")


def extract(archive: Path, folder: Path, endings: tuple[str, ...], max_bytes: int) -> list[Refused]:
    """Unpack members with these endings into the new `folder`; the list says which could not be.

    ValueError where it is no archive, is hostile, or is too large.
    """
    discard(folder)
    folder.mkdir(parents=True)
    budget = Budget(max_bytes, max(RATIO * archive.stat().st_size, FREE_BYTES))
    try:
        with room_for(folder):
            if zipfile.is_zipfile(archive):
                return list(from_zip(archive, folder, endings, budget))
            if tarfile.is_tarfile(archive):
                return list(from_tar(archive, folder, endings, budget))
    except TooLarge as problem:
        raise ValueError(f"{archive.name}: {problem}") from problem
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as problem:
        raise ValueError(f"{archive.name} is a damaged archive: {problem}") from problem
    raise ValueError(f"{archive.name} is neither a zip nor a tar archive")


def from_zip(archive: Path, folder: Path, endings: tuple[str, ...], budget: Budget) -> Iterator[Refused]:
    if table_bytes(archive) > TABLE_BYTES:
        raise TooLarge(f"its table of contents is longer than {NUM_MEMBERS:,} members need")
    with zipfile.ZipFile(archive) as opened:  # reads all of the table
        for member in opened.infolist():
            budget.meet()
            path = safe(archive, member.filename)
            if member.is_dir() or path.suffix.lower() not in endings:
                continue
            kind = member.external_attr >> 16 & 0o170000
            regular = kind in (0, 0o100000)
            yield from unpack(path, folder, budget, partial(opened.open, member) if regular else None)


def from_tar(archive: Path, folder: Path, endings: tuple[str, ...], budget: Budget) -> Iterator[Refused]:
    with tarfile.open(archive) as opened:
        for member in opened:
            budget.meet()
            path = safe(archive, member.name)
            if member.isdir() or path.suffix.lower() not in endings:
                budget.inflate(member.size)  # what is passed over in a compressed tar is inflated all the same
                continue
            yield from unpack(path, folder, budget, partial(reader, opened, member, folder) if member.isreg() else None)


def table_bytes(archive: Path) -> int:
    """Length of a zip's table of contents, as the record at its end says and `zipfile` believes."""
    with archive.open("rb") as file:
        file.seek(max(0, archive.stat().st_size - (1 << 17)))  # a comment has 64 KiB at most
        tail = file.read()
    end, long_end = tail.rfind(b"PK\5\6"), tail.rfind(b"PK\6\6")
    size = int.from_bytes(tail[end + 12 : end + 16], "little")
    return size if size < 0xFFFFFFFF else int.from_bytes(tail[long_end + 40 : long_end + 48], "little")


def reader(opened: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> IO[bytes]:
    source = opened.extractfile(tarfile.data_filter(member, str(folder)))
    assert source is not None, "regular files have content"
    return source


def unpack(
    path: PurePosixPath, folder: Path, budget: Budget, read: Callable[[], IO[bytes]] | None
) -> Iterator[Refused]:
    """One member, or why not; `read` is None where it is no regular file."""
    if read is None:
        yield Refused(path.as_posix(), "not a regular file")
        return
    if (twin := budget.taken(path)) is not None:
        yield Refused(path.as_posix(), f"the same name as {twin}")
        return
    try:
        with room_for(folder), read() as source:
            copy(source, folder / path, budget)
    except NoRoom:
        raise
    except FAULTS as problem:
        yield Refused(path.as_posix(), f"cannot be unpacked: {problem}")


def safe(archive: Path, name: str) -> PurePosixPath:
    """A member's name as a path below the folder. ValueError where it would lead out of it."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in (path.parts or ("",))[0] or "\0" in name:
        raise ValueError(f"{archive.name} is hostile: its member {name!r} would be written outside the folder")
    return path


def copy(source: IO[bytes], target: Path, budget: Budget) -> None:
    """All of `source` or nothing, into a file that was not there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        try:
            while block := source.read(BLOCK):
                budget.spend(len(block))
                file.write(block)
        except BaseException:
            target.unlink()
            raise


def discard(folder: Path) -> None:
    """Remove what an earlier, killed extraction left."""
    shutil.rmtree(folder, ignore_errors=True)
