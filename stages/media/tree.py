"""Music files of any folder become pieces: what each one is, how long it is, and why some cannot be used.

An id is the file's path without its ending. Where the path holds anything but [A-Za-z0-9_.-] (a subfolder's slash, a
space, an accent), that becomes `-` and a hash of the whole path follows, so ids are unique and never depend on which
other files are there. Files of one folder that differ only in their ending are one piece, of which the recording is
kept; the same bytes under two names are one piece too: else training would see the test set.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

from stages.media import midi, recordings
from stages.pipeline import artifacts, store
from stages.pipeline.store import Store
from stages.pipeline.workers import Guard
from stages.protocols.corpus import Collected, Piece, Refused

AUDIO = (".wav", ".flac", ".aiff", ".aif", ".ogg", ".oga", ".opus", ".mp3")
MIDI = (".mid", ".midi")
LONGEST_ID = 80
MEMORY_GB, CPU_S = 2.0, 900
"""Of one file, while it is looked through; ten hours of sound take seconds and 0.1 GB."""

Kinds = Literal["all", "midi", "audio"]
ENDINGS: dict[str, tuple[str, ...]] = {"all": AUDIO + MIDI, "midi": MIDI, "audio": AUDIO}
"""Of files that differ only in their ending the first is kept."""

Bring = Callable[[str | os.PathLike[str], Path], Any]
Unit = TypeVar("Unit")


def gather(
    root: Path, folder: Path, work: Path, kinds: Kinds, num_pieces: int, licence: str, bring: Bring
) -> Collected:
    """Bring (copy or move) the music under `root` to `folder`/files, in natural order; `num_pieces` 0 takes all.

    How long a file is, by its content, is kept in `work`: of a folder that has grown only what is new is decoded.
    """
    paths, refused = candidates(root, kinds)
    (folder / "files").mkdir(parents=True, exist_ok=True)
    kept = Store(work / "lengths", "")
    collected = enough(folder, paths, num_pieces, partial(take_files, root, folder, kept, licence, bring))
    kept.forget()
    return Collected(collected.pieces, (*refused, *collected.refused))


def enough(
    folder: Path,
    units: Iterable[Unit],
    num_pieces: int,
    take: Callable[[Sequence[Unit]], Sequence[Piece | Refused]],
    at_once: int = 256,
) -> Collected:
    """Take units in order until `folder` has `num_pieces` (0: all of them); the same bytes count once."""
    pieces: dict[str, Piece] = {}
    refused: list[Refused] = []
    rest = iter(units)
    while batch := list(islice(rest, min(num_pieces - len(pieces), at_once) if num_pieces else at_once)):
        for found in take(batch):
            if isinstance(found, Refused):
                refused.append(found)
            elif found.sha256 in pieces:
                refused.append(Refused(found.path, f"the same bytes as piece {pieces[found.sha256].id}"))
                (folder / found.path).unlink()
            elif num_pieces and len(pieces) == num_pieces:  # one unit may hold many pieces
                (folder / found.path).unlink()
            else:
                pieces[found.sha256] = found
    return Collected(tuple(pieces.values()), tuple(refused))


def candidates(root: Path, kinds: Kinds) -> tuple[list[Path], list[Refused]]:
    """The music files under `root` by natural order of their paths; hidden files are not music."""
    endings = ENDINGS[kinds]
    found = [Path(home) / name for home, _, names in os.walk(root) for name in names if not name.startswith(".")]
    music = [path for path in found if path.suffix.lower() in endings and path.is_file()]  # no pipe, no device
    kept: dict[str, Path] = {}
    refused = []
    for path in sorted(music, key=lambda path: (endings.index(path.suffix.lower()), path.as_posix())):
        stem = path.relative_to(root).with_suffix("").as_posix()
        if kept.setdefault(stem, path) is not path:
            refused.append(Refused(path.relative_to(root).as_posix(), f"the same piece as {kept[stem].name}"))
    return [kept[stem] for stem in sorted(kept, key=natural)], refused


def natural(text: str) -> list[tuple[int, str]]:
    """A sort key in which numbers compare as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]


def take_files(
    root: Path, folder: Path, kept: Store, licence: str, bring: Bring, paths: Sequence[Path]
) -> list[Piece | Refused]:
    """Files as pieces of `folder`, or the reasons why they cannot be, of which nothing is left there."""
    targets = {path: place_of(root, folder, path)[1] for path in paths}
    brought = {path: brought_by(bring, folder, path, target) for path, target in targets.items()}
    there = [path for path in paths if "sha256" in brought[path]]
    depends = [[brought[path]["sha256"], targets[path].suffix] for path in there]
    units, guard = [targets[path] for path in there], Guard(MEMORY_GB, CPU_S, unread)
    lengths = dict(zip(there, store.map_units(kept, looked_through, units, depends, folder, guard), strict=True))
    found: list[Piece | Refused] = []
    for path, target in targets.items():
        about = brought[path] | lengths.get(path, {})
        if "reason" in about:
            target.unlink(missing_ok=True)
            found.append(Refused(path.relative_to(root).as_posix(), about["reason"]))
        else:
            piece_id, kind = place_of(root, folder, path)[0], "midi" if target.suffix in MIDI else "audio"
            place = target.relative_to(folder).as_posix()
            found.append(Piece(piece_id, place, kind, about["duration_s"], about["sha256"], licence))
    return found


def brought_by(bring: Bring, folder: Path, path: Path, target: Path) -> dict[str, str]:
    """The file's `sha256`, or the `reason` why it could not be brought."""
    try:
        with artifacts.room_for(folder):
            bring(path, target)
        return {"sha256": artifacts.sha256(target)}
    except artifacts.NoRoom:
        raise
    except OSError as problem:
        return {"reason": str(problem)}


def looked_through(draft: Path, path: Path) -> dict[str, Any]:
    """Read a file to its end: its `duration_s`, or the `reason` why it is no music."""
    try:
        if path.suffix in MIDI:
            duration_s = midi.read(path.read_bytes(), path.stem).duration_s
        else:
            duration_s = recordings.duration_s(path)
        return {"duration_s": round(duration_s, 6)}
    except ValueError as problem:
        return unread(path, str(problem))


def unread(path: Path, reason: str) -> dict[str, Any]:
    return {"reason": reason}


def place_of(root: Path, folder: Path, path: Path) -> tuple[str, Path]:
    """A file's id, and where it goes."""
    piece_id = id_of(path.relative_to(root).with_suffix("").as_posix())
    return piece_id, folder / "files" / f"{piece_id}{path.suffix.lower()}"


def id_of(stem: str) -> str:
    """The id of a file from its path without the ending."""
    slug = re.sub(r"[^A-Za-z0-9_.-]", "-", stem)
    if slug == stem and len(stem) <= LONGEST_ID and not stem.startswith("."):
        return stem
    return f"{slug[:LONGEST_ID].lstrip('.')}-{hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]}"
