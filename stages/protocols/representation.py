"""A representation turns a clip into what a model sees, and back: clip -> Code -> clip."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from stages.protocols.spec import Code, Spec

if TYPE_CHECKING:
    from stages.protocols.model import Grammar, Masked


class Representation(ABC):
    """One file in stages/representations; the clip type is media's (audio.Clip, and others by spec.clip)."""

    Config: ClassVar[type]
    """A frozen dataclass: the fields of this representation's block in params.yaml."""
    clip: ClassVar[str]
    """audio | score | image | series."""
    spec: Spec
    config: Any

    @classmethod
    @abstractmethod
    def fit(cls, config: Any, clips: Iterable[Any]) -> Self:
        """Learn what must be learned from the training split alone, streaming. Most learn nothing."""

    @abstractmethod
    def encode(self, clip: Any) -> Code:
        """The clip's code, whole."""

    @abstractmethod
    def decode(self, code: Code) -> Any:
        """The clip of a code: the inverse of `encode` within the declared tolerance."""

    @abstractmethod
    def view(self, code: Code, num_steps: int, seed: int) -> Code:
        """One training example of `num_steps` at most: crop and augment, a pure function of its arguments."""

    @abstractmethod
    def signal(self, data: "Masked") -> "Masked":
        """Differentiable: data [B, T, *F] -> what losses may hear or see, waveform [B, num_samples] for audio."""

    @abstractmethod
    def grammar(self, rules: Mapping[str, Any]) -> "Grammar | None":
        """Which classes may follow which, for discrete data; None where everything may follow."""

    @abstractmethod
    def side(self, num_steps: int) -> Mapping[str, Any]:
        """The side information of a new clip of `num_steps`, as numpy arrays."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write config and fitted state; the folder is copied into every model that uses it."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """The inverse of `save`; raises ValueError where the saved version is not this code's."""
