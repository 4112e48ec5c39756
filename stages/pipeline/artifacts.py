"""Files that are written once, whole, in bytes that depend only on their content, and checked when read."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


class Damaged(ValueError):
    """A file's bytes are not those that were written; the message names it and says how to rebuild it."""


class NoRoom(OSError):
    """The disk is full, or a quota or file size limit is reached; the message names the out and says how to go on."""


DRAFT = ".draft"
"""How the name of a file ends that is being written."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Another file system, one without links, or more names than a file may have."""
LOCKED = 0o444
"""The mode of files that may have several names; that of DVC's cache, too."""


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_json(value: Any) -> bytes:
    """Sorted, indented; refuses NaN and infinity, which JSON cannot hold."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def digest(value: Any) -> str:
    """sha256 of a JSON value."""
    return hashlib.sha256(to_json(value)).hexdigest()


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (UnicodeDecodeError, json.JSONDecodeError) as problem:
        told = "run `dvc repro -f -s` on the stage that makes it"
        raise damaged(path, f"{path} is not whole JSON ({problem}); {told}") from problem


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, to_json(value))


def write_bytes(path: Path, data: bytes) -> None:
    write_chunks(path, [data])


def write_chunks(path: Path, chunks: Iterable[bytes]) -> None:
    """Appear whole or not at all: temporary name, fsync, rename, fsync of the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with room_for(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=DRAFT)
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines(chunks)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    sync_folder(path.parent)


def read_tensors(path: Path, remedy: str) -> "dict[str, Tensor]":
    """A safetensors file, on the CPU; Damaged where it is none, whatever its digest says. Nothing in it is run."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as problem:
        raise damaged(path, f"{path} is no safetensors file ({problem}); {remedy}") from problem


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder that appears whole under its name when the block ends, or not at all; an older one is replaced."""
    out.parent.mkdir(parents=True, exist_ok=True)
    for stale in out.parent.glob(f".{out.name}.*"):  # a killed run's; stage.main lets one writer in at a time
        shutil.rmtree(stale, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    draft.chmod(0o755)
    try:
        with room_for(out):
            yield draft
        for stale in draft.rglob(f".*{DRAFT}"):  # of a worker that was killed while it wrote
            stale.unlink()
        for path in draft.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        if out.exists():
            shutil.rmtree(out)
        os.replace(draft, out)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    sync_folder(out.parent)


@contextmanager
def room_for(out: Path) -> Iterator[None]:
    """Inside, running out of space raises NoRoom, which names `out`."""
    try:
        yield
    except NoRoom:
        raise
    except Exception as problem:
        # safetensors writes in Rust, whose errors say "(os error 28)" and carry no errno
        rust = any(f"(os error {number})" in str(problem) for number in FULL)
        if rust or (isinstance(problem, OSError) and problem.errno in FULL):
            told = f"no room to write {out}: free some disk space, then run the same command again"
            raise NoRoom(errno.ENOSPC, f"{told} ({problem})") from problem
        raise


@contextmanager
def alone(lock: Path, doing: str) -> Iterator[None]:
    """Inside, no other process is inside by the same lock file; others say what is being done, and wait."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process {doing}; waiting for it", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def link(path: Path, target: Path) -> None:
    """Give a file a second name, whole or not at all; a copy where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with room_for(target):
        draft = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}{DRAFT}")
        draft.unlink(missing_ok=True)
        try:
            os.link(path, draft)
        except OSError as problem:
            if problem.errno not in NO_LINKS:
                raise
            write_bytes(target, path.read_bytes())
            return
        os.replace(draft, target)
        draft.unlink(missing_ok=True)  # replacing a file by another name of itself does nothing


def damaged(path: Path, told: str) -> Damaged:
    """The error, once nobody takes the file for whole any more."""
    distrust(path)
    return Damaged(told)


def distrust(out: Path) -> None:
    """Unlock a damaged file, or the files of an out in which one is.

    DVC believes what is locked in its cache, and a file there may be one of these by another name: unlocked ones it
    hashes when their stage is run again, and puts the new ones in the place of the damaged.
    """
    for path in [out, *out.rglob("*")]:
        if path.is_file():
            with suppress(OSError):  # another's file, or a disk that is only read: the damage is told in any case
                path.chmod(0o644)


def check(path: Path, expected: str, remedy: str) -> None:
    """Raise Damaged where the file's sha256 is not the one written beside it."""
    if not path.is_file():
        raise Damaged(f"{path} is missing; {remedy}")
    found = sha256(path)
    if found != expected:
        raise damaged(path, f"{path} is damaged: sha256 {found[:12]}, written as {expected[:12]}; {remedy}")
