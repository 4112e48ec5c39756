"""Files that are written once, whole, in bytes that depend only on their content, and checked when read."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Damaged(ValueError):
    """A file's bytes are not those that were written; the message names it and says how to rebuild it."""


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
        raise Damaged(f"{path} is not whole JSON ({problem}); delete it and run `dvc repro` again") from problem


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, to_json(value))


def write_bytes(path: Path, data: bytes) -> None:
    """Appear whole or not at all: temporary name, fsync, rename, fsync of the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder that appears whole under its name when the block ends, or not at all; an older one is replaced."""
    out.parent.mkdir(parents=True, exist_ok=True)
    for stale in out.parent.glob(f".{out.name}.*"):  # a killed run's; DVC runs one writer of an out at a time
        shutil.rmtree(stale, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    draft.chmod(0o755)
    try:
        yield draft
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


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check(path: Path, expected: str, remedy: str) -> None:
    """Raise Damaged where the file's sha256 is not the one written beside it."""
    if not path.is_file():
        raise Damaged(f"{path} is missing; {remedy}")
    found = sha256(path)
    if found != expected:
        raise Damaged(f"{path} is damaged: sha256 {found[:12]}, written as {expected[:12]}; {remedy}")
