"""Scores of music21's installed corpus as MIDI: by default Bach's chorales, with no network.

Pieces come in the natural order of their file names (bwv2.6 before bwv10.7), so that a larger `num_pieces` only adds.
music21 reads the encoding and plays out its repeats; its MIDI is read back and written canonically (midi.write), so
what lies on disk is what was understood, in bytes that depend on the score alone. Encodings have their own terms, some
of them non-commercial: each piece keeps what its file says.

Michael Scott Cuthbert, Christopher Ariza, "music21: A Toolkit for Computer-Aided Musicology and Symbolic Music Data",
ISMIR 2010, https://www.music21.org. The corpus's own note: music21/corpus/license.txt.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import ClassVar

from stages.media import midi, tree
from stages.pipeline.workers import map_units
from stages.protocols.corpus import Collected, Corpus, Piece, Refused

ENCODINGS = (".mxl", ".musicxml", ".xml", ".krn", ".abc", ".mid")
"""Scores, the preferred of several encodings of one piece first; .rntxt files are analyses, not music."""

UNSTATED = (
    "music21 corpus/license.txt: The encodings may be under copyright but have been licensed for use, though there "
    "may be restrictions on commercial use."
)


@dataclass(frozen=True)
class ChoralesConfig:
    composer: str = "bach"
    """A folder of music21's corpus: bach, palestrina, monteverdi, haydn, mozart, beethoven ..."""
    num_pieces: int = 120
    """0 takes all."""

    def __post_init__(self) -> None:
        if self.num_pieces < 0:
            raise ValueError(f"num_pieces = {self.num_pieces}: expected 0 (all) or more")


@dataclass(frozen=True)
class Written:
    """One file of music21's corpus as MIDI: (piece id, MIDI bytes, seconds) of each score in it."""

    scores: tuple[tuple[str, bytes, float], ...]
    licence: str
    refused: tuple[Refused, ...]


class Chorales(Corpus):
    """`source: chorales`."""

    Config: ClassVar[type] = ChoralesConfig
    config: ChoralesConfig

    def collect(self, folder: Path, work: Path) -> Collected:
        (folder / "files").mkdir(parents=True)
        save = partial(save_all, folder)
        return tree.enough(folder, candidates(self.config.composer), self.config.num_pieces, save)


def save_all(folder: Path, paths: Sequence[Path]) -> list[Piece | Refused]:
    """Convert files of music21's corpus in worker processes, and write what came of them."""
    found: list[Piece | Refused] = []
    for written in map_units(convert, paths):
        found += written.refused
        for piece_id, data, duration_s in written.scores:
            path = folder / "files" / f"{piece_id}.mid"
            path.write_bytes(data)
            relative, sha256 = path.relative_to(folder).as_posix(), hashlib.sha256(data).hexdigest()
            found.append(Piece(piece_id, relative, "midi", duration_s, sha256, written.licence))
    return found


def candidates(composer: str) -> list[Path]:
    """The composer's files in natural order, one per piece. ValueError names composers where there is none."""
    from music21.common.pathTools import getCorpusFilePath

    home = getCorpusFilePath()
    files = [path for path in (home / composer).rglob("*") if path.suffix in ENCODINGS]
    if not composer or not files:
        composers = sorted(path.name for path in home.iterdir() if path.is_dir() and not path.name.startswith("_"))
        near = get_close_matches(composer, composers, n=1) or composers
        raise ValueError(f"composer = {composer!r}: music21's corpus has no scores of that name; try {', '.join(near)}")
    by_stem: dict[str, Path] = {}
    for path in sorted(files, key=lambda path: (ENCODINGS.index(path.suffix), path.as_posix())):
        by_stem.setdefault(path.relative_to(home / composer).with_suffix("").as_posix(), path)
    return [by_stem[stem] for stem in sorted(by_stem, key=tree.natural)]


def convert(path: Path) -> Written:
    """Read one file with music21 and write its scores as MIDI; whatever goes wrong becomes a reason."""
    from music21 import converter, stream
    from music21.exceptions21 import Music21Exception

    expected = (Music21Exception, ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError)
    faults = (*expected, SyntaxError, RecursionError)  # what XML that is none raises, and a stream that holds itself
    name = f"{path.parent.name}/{path.name}"
    try:
        parsed = converter.parse(path, forceSource=True)  # forceSource: neither read nor leave a pickle
    except faults as problem:
        return Written((), "", (Refused(name, f"music21 cannot read it: {reason(problem)}"),))
    scores = list(parsed.scores) if isinstance(parsed, stream.Opus) else [parsed]
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", path.stem)
    written, refused = [], []
    for k, score in enumerate(scores):
        piece_id = stem if len(scores) == 1 else f"{stem}.{k:04d}"
        try:
            written.append((piece_id, *to_midi(score, piece_id)))
        except faults as problem:
            refused.append(Refused(name, f"{piece_id} cannot be written as MIDI: {reason(problem)}"))
    return Written(tuple(written), licence(parsed), tuple(refused))


def to_midi(score: object, piece_id: str) -> tuple[bytes, float]:
    """Canonical MIDI bytes of a music21 stream, and its seconds."""
    from music21.midi.translate import streamToMidiFile

    read = midi.read(streamToMidiFile(score).writestr(), piece_id)  # type: ignore[arg-type]
    return midi.write(read), round(read.duration_s, 6)


def licence(parsed: object) -> str:
    """What the encoding says of its terms, verbatim, a line each."""
    metadata = getattr(parsed, "metadata", None)
    told = [] if metadata is None else [str(metadata.copyright or "")]
    if metadata is not None:
        told += [str(value) for name, value in metadata.all() if re.match(r"(rights|licen|humdrum:YE)", name)]
    return "\n".join(dict.fromkeys(text for text in told if text)) or UNSTATED


def reason(problem: Exception) -> str:
    return f"{type(problem).__name__}: {problem}"
