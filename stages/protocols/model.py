"""A generative model learns a representation's code: loss, generate and, where it has a latent, encode and quantise.

Shapes: B clips, T steps, *F one step's frame. Tensors beyond a clip's end are 0 and masked.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from stages.protocols.spec import Field, Spec, Statistics


@dataclass(frozen=True)
class Masked:
    """Values, and which of them exist; `mask` covers the leading axes of `value`, which is 0 elsewhere."""

    value: Tensor  # [B, T, *F]
    mask: Tensor  # bool [B, T, *leading axes of F]


@dataclass(frozen=True)
class Batch:
    """What one training step sees."""

    ids: tuple[str, ...]
    seeds: Tensor  # int64 [B]: all randomness about a clip starts here
    data: Masked
    conditions: Mapping[str, Masked]  # every key of spec.conditions; unknown or dropped: mask False


class Grammar(Protocol):
    """Which classes may follow; made by the representation, obeyed by the decoding loop."""

    def start(self, batch: int) -> Tensor: ...  # state [B, ...]
    def allowed(self, state: Tensor) -> Tensor: ...  # bool [B, num_classes]
    def advance(self, state: Tensor, step: Tensor) -> Tensor: ...  # step int [B, *F]


@dataclass(frozen=True)
class Request:
    """What to generate: how many clips, how long, given what."""

    seeds: Tensor  # int64 [B]; its length is the number of clips
    num_steps: Tensor  # int64 [B]: exact, or the most where the data ends itself
    conditions: Mapping[str, Masked]  # as in Batch, and "latent": decoding is generating given the latent
    given: Masked | None = None  # prompt or surroundings: entries with mask True are kept
    grammar: Grammar | None = None


@dataclass(frozen=True)
class Loss:
    """Per clip, so that micro-batches and ranks average exactly and a non-finite loss has a name."""

    total: Tensor  # [B], differentiated; the loop averages over clips
    terms: Mapping[str, Tensor]  # [B] each, detached, raw, unit in the name; all are logged; NaN: not of this clip
    criterion: str  # the term validation ranks checkpoints by (lower is better)


class GenerativeModel(nn.Module, ABC):
    """p(data | conditions), one file in stages/families.

    Built as Model(config, spec, statistics, signal): statistics of the training shards become buffers, `signal` is
    Representation.signal. `forward` is `loss`, so that wrappers see one call. The class sets these:
    """

    Config: ClassVar[type]
    """Frozen dataclass of what training reads; its `network` field, where it has one, names a stages/networks file."""
    Sampling: ClassVar[type]
    """Frozen dataclass of what `generate` reads: steps, guidance, temperature and so on."""

    config: Any
    latent: Field | None
    """frame == (config.latent_dim,); None: no latent, and latent_dim is not in Config."""
    codes: Field | None
    """How the latent is written in a stream; None: as float16."""
    needs: frozenset[str]
    """Conditions `generate` cannot do without: {"latent"} for an autoencoder."""

    @abstractmethod
    def __init__(self, config: Any, spec: Spec, statistics: Statistics, signal: Callable[[Masked], Masked]) -> None:
        super().__init__()
        self.config = config

    @staticmethod
    def parts(config: Any) -> Mapping[str, Mapping[str, Any]]:
        """What another model may start from, the largest first: an attribute that holds a module -> the fields of
        Config that decide its form.
        """
        return {}

    @staticmethod
    def missing(config: Any) -> list[str]:
        """Why a model of this Config cannot start from scratch; nothing where it can."""
        return []

    def players(self, step: int) -> tuple[str, ...]:
        """Who updates at this step, in order."""
        return ("model",)

    def parameters_of(self, player: str) -> Iterator[nn.Parameter]:
        """The parameters a player owns; the players' sets partition the trainable ones."""
        return self.parameters()

    def begin_step(self, step: int, num_steps: int) -> None:
        """Told before each training step; where a schedule lives (freeze, anneal). It must depend on these alone."""

    def calibrate(self, batches: Iterable[Batch]) -> Mapping[str, float]:
        """Told validation clips once, when the exported weights are in: what decoding is to use, kept as buffers."""
        return {}

    def forward(self, batch: Batch, player: str, step: int) -> Loss:
        return self.loss(batch, player, step)

    @abstractmethod
    def loss(self, batch: Batch, player: str, step: int) -> Loss:
        """The player's loss; in eval mode it is validation, with the randomness of the batch's seeds alone."""

    @abstractmethod
    def generate(self, request: Request, sampling: Any) -> Masked:
        """New or decoded data [B, T, *F]."""

    def num_function_evaluations(self, sampling: Any) -> int:
        """Network calls that `generate` makes for one clip."""
        return 1

    def encode(self, batch: Batch) -> Masked:
        """The latent [B, T', latent_dim]."""
        raise TypeError(f"{type(self).__name__} has no latent")

    def quantise(self, z: Masked) -> Masked:
        """The latent's codes, int64 [B, T', *codes.frame]."""
        raise TypeError(f"{type(self).__name__} has no codes")

    def dequantise(self, codes: Masked) -> Masked:
        """The codes' latent [B, T', latent_dim]."""
        raise TypeError(f"{type(self).__name__} has no codes")

    def log_likelihood(self, batch: Batch) -> Tensor | None:
        """Nats per clip [B], where the family has a likelihood."""
        return None
