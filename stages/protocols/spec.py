"""What travels between the stages: one encoded clip, and the description a model needs to learn it.

Shapes: T steps, *F one step's frame. Nothing here needs torch, so that data stages start fast.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Field:
    """What one named array is; the same type describes data, conditions, latents and codes."""

    frame: tuple[int, ...]
    """One step: (320,) MDCT bins, (1,) token, (4,) voices, (8,) codebooks, (113, 8) codes per scan, () label."""
    num_classes: int | None = None
    """None: real numbers; else every entry lies in [0, num_classes) and none of them means padding."""
    rate_hz: float | None = None
    """Steps per second; None: steps are an index (tokens, pixels, labels)."""
    num_steps: int | None = None
    """Fixed number of steps (1: one value per clip); None: it varies."""
    grid: tuple[int, ...] | None = None
    """Steps are this image or patch grid, flattened."""
    meaning: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Per class: kind, pitch, seconds and so on (discrete fields only)."""


@dataclass(frozen=True)
class Spec:
    """What a model learns: the data, the conditions beside it, and the kind of clip it turns back into."""

    clip: str
    """audio | score | image | series: chooses metrics, file format and player."""
    data: Field
    conditions: Mapping[str, Field]
    version: str
    """Digest of config and fitted state; written into every shard index, model and stream."""


@dataclass(frozen=True)
class Code:
    """One encoded clip, a record of a cache shard.

    `mask` covers the leading axes of `data`; where it is False `data` is 0. An absent condition is unknown.
    """

    id: str
    data: np.ndarray  # [T, *F]
    mask: np.ndarray  # bool [T, *leading axes of F]
    conditions: Mapping[str, np.ndarray] = field(default_factory=dict)  # each [T', *F']
    side: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What decode needs and no model learns (num_samples, scale); it counts as bits in a stream."""


@dataclass(frozen=True)
class Statistics:
    """Sums over the training shards, merged; a model keeps what it needs of them as buffers.

    Real data: mean and standard deviation per entry of one frame. Discrete data: how often each class occurs.
    """

    num: np.ndarray
    """Unmasked steps seen, per entry of the frame. int64 [*F]"""
    mean: np.ndarray | None
    """float64 [*F]; None for discrete data."""
    std: np.ndarray | None
    """float64 [*F]; None for discrete data."""
    class_counts: np.ndarray | None
    """int64 [num_classes]; None for real data."""
