"""A baseline is a system without training: a classical codec, a copy, a floor or a ceiling."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Coded:
    """What a baseline made of one clip."""

    clip: Any
    num_bytes: int | None
    """Size of the compressed clip; None: this baseline compresses nothing."""


class Baseline(ABC):
    """One file in stages/baselines; one file may offer several rates."""

    clips: ClassVar[frozenset[str]]
    """Kinds of clip it applies to."""

    @abstractmethod
    def variants(self) -> Sequence[str]:
        """Names in the results, such as opus_12kbps."""

    @abstractmethod
    def code(self, variant: str, clip: Any) -> Coded:
        """The clip after a round trip, same length."""
