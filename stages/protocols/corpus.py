"""A corpus source brings pieces to disk, each with its story, and says why others did not come."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar


@dataclass(frozen=True)
class Piece:
    """One usable file of a corpus."""

    id: str
    """[A-Za-z0-9_.-]+, unique in the corpus, stable when the corpus grows."""
    path: str
    """Relative to the corpus folder."""
    kind: str
    """midi | audio | image."""
    duration_s: float
    sha256: str
    licence: str = ""
    """What the source says of it, verbatim; empty: unknown."""
    labels: tuple[tuple[str, int], ...] = ()
    """Conditions known of the piece, such as ("digit", 7)."""


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
