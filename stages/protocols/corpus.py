"""A corpus source brings pieces to disk, each with its story, and says why others did not come."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal


@dataclass(frozen=True)
class Piece:
    """One usable file of a corpus, or one place in a file that holds many: 70,000 small images are few files."""

    id: str
    """[A-Za-z0-9_.-]+, unique in the corpus, stable when the corpus grows."""
    path: str
    """Relative to the corpus folder."""
    kind: str
    """midi | audio | image."""
    duration_s: float
    sha256: str
    """Of the file."""
    licence: str = ""
    """What the source says of it, verbatim; empty: unknown."""
    labels: tuple[tuple[str, int], ...] = ()
    """Conditions known of the piece, such as ("digit", 7)."""
    index: int | None = None
    """Its place in the file; None: the file is this piece alone."""
    split: Literal["", "train", "test"] = ""
    """The source's own split, whose test part is kept; empty: it has none, and the stage `split` assigns the piece."""


@dataclass(frozen=True)
class Refused:
    """One file that cannot be used."""

    path: str
    reason: str


@dataclass(frozen=True)
class Collected:
    pieces: tuple[Piece, ...]
    refused: tuple[Refused, ...]


class Corpus(ABC):
    """One file in stages/corpora, chosen by `source`."""

    Config: ClassVar[type]

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def collect(self, folder: Path, work: Path) -> Collected:
        """Write the pieces' files into `folder`. `work` outlives a killed run: downloads resume from it."""
