"""A metric judges what sample and compress left behind."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np


@dataclass(frozen=True)
class Evidence:
    """One system's outputs beside the truth; whatever does not exist is empty."""

    clip: str
    """spec.clip."""
    pairs: tuple[tuple[Any, Any], ...] = ()
    """(held-out clip, its reconstruction), same order for every system."""
    sets: tuple[tuple[Any, ...], tuple[Any, ...]] = ((), ())
    """(held-out clips, new clips)."""
    streams: tuple[tuple[int, float], ...] = ()
    """(bytes, seconds) of each compressed clip."""
    facts: Mapping[str, float] = field(default_factory=dict)
    """num_parameters, num_function_evaluations and other numbers that need no measuring."""
    features: Callable[[Any], np.ndarray] | None = None
    """The classifier's features of one clip, float64 [N, D]."""
    classify: Callable[[Any], int] | None = None
    """The class that the classifier reads in one clip."""
    seed: int = 0
    """Where bootstrap resampling starts."""


@dataclass(frozen=True)
class Measure:
    """A value with its interval, on `num` clips, and why other clips did not count."""

    value: float
    low: float | None = None
    high: float | None = None
    num: int = 1
    failures: Mapping[str, int] = field(default_factory=dict)
    per_clip: Mapping[str, float] = field(default_factory=dict)
    """Clip id -> its value, for paired comparisons; empty for set metrics."""
    resampled: tuple[float, ...] = ()
    """The value under each of the bootstrap's weights, for paired comparisons of set metrics; empty elsewhere."""


class Metric(ABC):
    """One file in stages/metrics."""

    clips: ClassVar[frozenset[str]]
    """Kinds of clip it can judge."""
    reads: ClassVar[frozenset[str]]
    """Fields of Evidence it needs; where one is empty the metric is absent."""

    @abstractmethod
    def compute(self, evidence: Evidence) -> Mapping[str, Measure]:
        """Named measures; a name is absent where nothing could be computed, never 0.0."""
