"""Music out of a zip or tar archive, which may have been made to do harm.

Names are checked before anything is written: an absolute path, a drive or a `..` refuses the whole archive, since no
honest one holds it. Links and devices are never made, only regular files with a wanted ending; tar members go through
Python's own filter="data" besides. What is written is counted as it comes, so that a small archive cannot fill a disk.

PEP 706, "Filter for tarfile.extractall", 2022, https://peps.python.org/pep-0706.
"""

import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stages.protocols.corpus import Refused

BLOCK = 1 << 20
NUM_MEMBERS = 1_000_000
FAULTS = (OSError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError)


@dataclass
class Budget:
    """How much may still be unpacked."""

    num_bytes: int
    num_members: int = NUM_MEMBERS

    def spend(self, num_bytes: int) -> None:
        self.num_bytes -= num_bytes
        if self.num_bytes < 0:
            raise TooLarge("it unpacks to more than max_gb allows")

    def meet(self) -> None:
        self.num_members -= 1
        if self.num_members < 0:
            raise TooLarge(f"it holds more than {NUM_MEMBERS:,} members")


class TooLarge(Exception):
    """The budget is spent; not a ValueError, which would quarantine one member only."""


def extract(archive: Path, folder: Path, endings: tuple[str, ...], max_bytes: int) -> list[Refused]:
    """Unpack members with these endings into the new `folder`; the list says which could not be.

    ValueError where it is no archive, is hostile, or is too large.
    """
    folder.mkdir(parents=True)
    budget = Budget(max_bytes)
    try:
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
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            budget.meet()
            target = folder / safe(archive, member.filename)
            if member.is_dir() or target.suffix.lower() not in endings:
                continue
            kind = member.external_attr >> 16 & 0o170000
            if kind not in (0, 0o100000):
                yield Refused(member.filename, "not a regular file")
                continue
            try:
                with opened.open(member) as source:
                    copy(source, target, budget)
            except FAULTS as problem:
                target.unlink(missing_ok=True)
                yield Refused(member.filename, f"cannot be unpacked: {problem}")


def from_tar(archive: Path, folder: Path, endings: tuple[str, ...], budget: Budget) -> Iterator[Refused]:
    with tarfile.open(archive) as opened:
        for member in opened:
            budget.meet()
            target = folder / safe(archive, member.name)
            if member.isdir() or target.suffix.lower() not in endings:
                continue
            if not member.isreg():
                yield Refused(member.name, "not a regular file")
                continue
            try:
                checked = tarfile.data_filter(member, str(folder))
                source = opened.extractfile(checked)
                assert source is not None, "regular files have content"
                copy(source, target, budget)
            except FAULTS as problem:
                target.unlink(missing_ok=True)
                yield Refused(member.name, f"cannot be unpacked: {problem}")


def safe(archive: Path, name: str) -> PurePosixPath:
    """A member's name as a path below the folder. ValueError where it would lead out of it."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in (path.parts or ("",))[0] or "\0" in name:
        raise ValueError(f"{archive.name} is hostile: its member {name!r} would be written outside the folder")
    return path


def copy(source, target: Path, budget: Budget) -> None:  # noqa: ANN001 - zipfile and tarfile have readers of their own
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        while block := source.read(BLOCK):
            budget.spend(len(block))
            file.write(block)


def discard(folder: Path) -> None:
    """Remove what an earlier, killed extraction left."""
    shutil.rmtree(folder, ignore_errors=True)
