"""Which times flows train on, and noise and choices that depend on a clip's seed alone.

    a, b = logistic(mean + spread n), n ~ N(0, 1);   t = max(a, b), r = min(a, b);   r := t with a given probability

Mean Flows for One-step Generative Modeling, Geng et al., 2025, https://arxiv.org/abs/2505.13447 (mean -0.4, spread 1).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """0 <= r <= t <= 1."""

    r: Tensor  # [B]
    t: Tensor  # [B]


def generators(seeds: Tensor, purpose: int) -> list[np.random.Generator]:
    """One generator per clip; each purpose has its own stream, so that draws never depend on each other."""
    return [np.random.Generator(np.random.Philox(key=[int(seed) & (2**64 - 1), purpose])) for seed in seeds.tolist()]


def normal(seeds: Tensor, shape: tuple[int, ...], purpose: int) -> Tensor:
    """Standard normal noise [B, *shape], drawn row by row: a longer clip begins with a shorter one's noise."""
    rows = [generator.standard_normal(shape, dtype=np.float32) for generator in generators(seeds, purpose)]
    return torch.from_numpy(np.stack(rows))


def uniform(seeds: Tensor, purpose: int) -> Tensor:
    """One number in [0, 1) per clip, [B]."""
    return torch.tensor([generator.random() for generator in generators(seeds, purpose)], dtype=torch.float32)


def logit_normal(seeds: Tensor, purpose: int, mean: float = -0.4, spread: float = 1.0) -> Tensor:
    """One time per clip for plain flow matching, [B]."""
    return normal(seeds, (1,), purpose)[:, 0].mul(spread).add(mean).sigmoid()


def logit_normal_pairs(
    seeds: Tensor, fraction_equal: float, purpose: int, mean: float = -0.4, spread: float = 1.0
) -> Pairs:
    """A pair per clip, r = t with probability `fraction_equal`."""
    drawn = normal(seeds, (2,), purpose).mul(spread).add(mean).sigmoid()
    t, r = drawn.amax(1), drawn.amin(1)
    equal = uniform(seeds, purpose + 1) < fraction_equal
    return Pairs(torch.where(equal, t, r), t)
