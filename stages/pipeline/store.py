"""Finished units of a stage, kept by what made them, so that a larger corpus costs only what is new in it.

A unit is `function(folder, unit) -> JSON` that writes its files below `folder`. Its key is

    sha256(code and library versions of the plan file, what the stage says the unit depends on),

its entry a folder $DVC_ROOT/.work/store/<stage>/<key>/<sha256> of the files and made.json, which holds the sha256 of
each and of itself. A file is checked before it is used: what is damaged is named, deleted and made again. A file has a
second name in the out and, with `cache.type hardlink` (.dvc/config), a third in DVC's cache: it is locked, takes room
once, and DVC need not hash again what it has seen. A unit is kept as soon as it is done, so a killed run goes on from
there. Once a stage has succeeded, what it has not used is deleted, another run's too: that costs it time and nothing
else.
"""

import errno
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from stages.pipeline import artifacts, workers
from stages.pipeline.workers import Guard

MADE = "made.json"
DRAFTS_S = 86_400.0
"""An older draft is a killed run's; a younger one may be that of another run at work."""
Unit = TypeVar("Unit")


@dataclass(frozen=True)
class Store:
    """The entries of one stage instance."""

    folder: Path
    made_by: str
    """Digest of code and library versions."""
    used: set[str] = field(default_factory=set)

    def key(self, depends: Any) -> str:
        """`depends`: JSON data."""
        return artifacts.digest([self.made_by, depends])

    def take(self, depends: Any, out: Path) -> "Made | None":
        """The kept unit that depends on this, its files linked under `out`; None where there is none that is whole."""
        self.used.add(key := self.key(depends))
        return take(self.folder / key, out)

    def known(self, depends: Any) -> "Made | None":
        """The same, its files neither read nor linked."""
        self.used.add(key := self.key(depends))
        try:
            return read(self.folder / key)
        except (artifacts.Damaged, FileNotFoundError):
            return None  # whoever takes it says why

    def forget(self) -> None:
        """Delete what this run has not used."""
        if self.folder.is_dir():
            for entry in self.folder.iterdir():
                if entry.name not in self.used and not others(entry):
                    shutil.rmtree(entry, ignore_errors=True)


@dataclass(frozen=True)
class Made:
    """A finished unit."""

    result: Any
    files: Mapping[str, tuple[str, int]]
    """Path -> its sha256 and bytes."""


def others(entry: Path) -> bool:
    """Whether it is a draft that another run is at work on, or has just ended."""
    try:
        return entry.name.startswith(artifacts.DRAFT) and time.time() - entry.stat().st_mtime < DRAFTS_S
    except FileNotFoundError:
        return True


def map_units(
    store: Store | None,
    function: Callable[[Path, Unit], Any],
    units: Sequence[Unit],
    depends: Sequence[Any],
    out: Path,
    guard: Guard | None = None,
) -> list[Any]:
    """The results of all units, their files under `out`; only those that are not in the store are done.

    `depends`: what each depends on besides the code, JSON data. What a guard puts in place of a lost unit is not kept:
    another try may have more memory. Without a store all are done.
    """
    if store is None:
        return workers.map_units(partial(function, out), units, guard=guard)
    return [made.result for made in make_all(store, function, units, depends, out, guard)]


def make_all(
    store: Store,
    function: Callable[[Path, Unit], Any],
    units: Sequence[Unit],
    depends: Sequence[Any],
    out: Path,
    guard: Guard | None = None,
) -> list[Made]:
    """The same with their files."""
    keys = [store.key(item) for item in depends]
    found = {key: made for item, key in zip(depends, keys, strict=True) if (made := store.take(item, out))}
    work = [(unit, key) for unit, key in zip(units, keys, strict=True) if key not in found]
    lost = guard and Guard(guard.memory_gb, guard.cpu_s, partial(instead, guard))
    made = workers.map_units(partial(make, store.folder, function, out), work, guard=lost)
    found |= {key: one for (_, key), one in zip(work, made, strict=True)}
    return [found[key] for key in keys]


def take(entry: Path, out: Path) -> Made | None:
    """Link an entry's files under `out`; None where there is none, or none that is whole."""
    if not entry.is_dir():
        return None
    try:
        made = read(entry)
        for name, (sha256, _) in made.files.items():
            artifacts.check(entry / name, sha256, "it is made again")
        share(entry, made.files, out)
        return made
    except (artifacts.Damaged, FileNotFoundError) as problem:  # not there: another run has just deleted it
        print(f"{problem}", file=sys.stderr)
        artifacts.distrust(entry)
        shutil.rmtree(entry, ignore_errors=True)
        return None


def make(folder: Path, function: Callable[[Path, Unit], Any], out: Path, work: tuple[Unit, str]) -> Made:
    """Do one unit in a folder of its own, link its files under `out`, and keep it."""
    unit, key = work
    folder.mkdir(parents=True, exist_ok=True)
    with artifacts.room_for(folder), tempfile.TemporaryDirectory(dir=folder, prefix=artifacts.DRAFT) as place:
        draft = Path(place, key)
        draft.mkdir()
        result = json.loads(artifacts.to_json(function(draft, unit)))  # as it will be read: a tuple is a list
        written = {path.relative_to(draft).as_posix(): path for path in files_of(draft)}
        files = {name: (artifacts.sha256(path), path.stat().st_size) for name, path in written.items()}
        for name in files:
            (draft / name).chmod(artifacts.LOCKED)
        share(draft, files, out)
        content = {"files": files, "result": result}
        (draft / MADE).write_bytes(artifacts.to_json({"sha256": artifacts.digest(content), "content": content}))
        try:
            draft.rename(folder / key)
        except OSError as problem:
            if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # else another run has kept it
                raise
    return Made(result, files)


def read(entry: Path) -> Made:
    """What made.json says; Damaged where it is not what was written."""
    path = entry / MADE
    if not path.is_file():
        raise artifacts.Damaged(f"{path} is missing; it is made again")
    written = artifacts.read_json(path)
    if not isinstance(written, dict) or artifacts.digest(written.get("content")) != written.get("sha256"):
        raise artifacts.Damaged(f"{path} is damaged; it is made again")
    content = written["content"]
    return Made(content["result"], {name: tuple(about) for name, about in content["files"].items()})


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(artifacts.DRAFT))


def share(folder: Path, names: Iterable[str], out: Path) -> None:
    """Whole or not at all, file by file: a unit of a lost worker may be done by two processes for a while."""
    for name in names:
        artifacts.link(folder / name, out / name)


def instead(guard: Guard, work: tuple[Any, str], reason: str) -> Made:
    return Made(guard.lost(work[0], reason), {})


def of(stage: str, key: str | None, plan: Any, code: Path) -> Store:
    """The store of a stage instance; a pipeline in a folder below (study/) has its own."""
    place = os.path.relpath(Path.cwd(), code)
    folder = Path(os.environ.get("DVC_ROOT", "."), ".work/store", place, stage, key or "all")
    return Store(folder, artifacts.digest([plan["code"], plan["versions"]]))
