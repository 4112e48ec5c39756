"""Clips of one kind on disk: how a corpus' folder becomes the clips of each split, and how the test's are kept."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol


class Part(Protocol):
    """What becomes one clip: a stretch of a recording, an image of a stack."""

    @property
    def id(self) -> str: ...
    @property
    def piece(self) -> str:
        """What it is part of: all parts of a piece are in one split, and share a shard."""
        ...


class Clips(ABC):
    """One file in stages/clips, named as Representation.clip."""

    folder: ClassVar[str]
    """Of data/: where clips of this kind come from, audio | raw."""

    @abstractmethod
    def by_split(self, folder: Path, split: Mapping[str, Any]) -> dict[str, list[Any]]:
        """The parts of train, valid and test, by split.json. ValueError where none are left to train on or to test."""

    @abstractmethod
    def read(self, folder: Path, parts: Sequence[Any]) -> Iterator[Any]:
        """The parts' clips in their order, read when asked for, their files checked."""

    @abstractmethod
    def write_references(self, folder: Path, number: int, clips: Iterable[Any], parts: Sequence[Any]) -> list[Any]:
        """Keep one unit's test clips untouched; their entries for references/manifest.json, each with its `id`.

        The clips of the parts, in their order, may come one at a time.
        """

    @abstractmethod
    def read_references(self, folder: Path) -> list[Any]:
        """The test clips, sorted by id, each file checked."""
