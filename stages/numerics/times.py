"""Which times flows train on, and noise and choices that depend on a clip's seed alone.

    a, b = logistic(mean + spread n), n ~ N(0, 1);   t = max(a, b), r = min(a, b);   r := t with a given probability

Such times hardly ever come near 0 and 1 (t > 0.95 once in a thousand), and the one jump from 1 to 0 is what one-step
sampling asks for: in a share of the clips a and b may be uniform instead.

Mean Flows for One-step Generative Modeling, Geng et al., 2025, https://arxiv.org/abs/2505.13447 (mean -0.4, spread 1).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MEAN, SPREAD = -0.4, 1.0


@dataclass(frozen=True)
class Pairs:
    """0 <= r <= t <= 1."""

    r: Tensor  # [B]
    t: Tensor  # [B]


def generators(seeds: Tensor, purpose: int) -> Iterator[np.random.Generator]:
    """A generator for each clip, to be used before the next is asked for; each purpose has a stream of its own, so that
    draws never depend on each other. It is one generator, set to each clip's key, since making one costs more.
    """
    source = np.random.Philox(key=[0, purpose])
    generator, start = np.random.Generator(source), source.state
    for seed in seeds.tolist():
        start["state"]["key"][0] = int(seed) & (2**64 - 1)
        source.state = start
        yield generator


def normal(seeds: Tensor, shape: tuple[int, ...], purpose: int) -> Tensor:
    """Standard normal noise [B, *shape], drawn row by row: a longer clip begins with a shorter one's noise."""
    rows = [generator.standard_normal(shape, dtype=np.float32) for generator in generators(seeds, purpose)]
    return torch.from_numpy(np.stack(rows))


def uniform(seeds: Tensor, purpose: int, num: int = 1) -> Tensor:
    """Numbers in [0, 1), [B] or, for several, [B, num]; the first of several is the one alone."""
    rows = [generator.random(num).tolist() for generator in generators(seeds, purpose)]
    drawn = torch.tensor(rows, dtype=torch.float32).reshape(len(seeds), num)
    return drawn[:, 0] if num == 1 else drawn


def logit_normal(seeds: Tensor, purpose: int, fraction_uniform: float = 0.0) -> Tensor:
    """One time per clip for plain flow matching, [B]; takes two purposes."""
    evenly = uniform(seeds, purpose + 1) < fraction_uniform
    return _times(normal(seeds, (1,), purpose), evenly)[:, 0]


def logit_normal_pairs(
    seeds: Tensor, fraction_equal: float, purpose: int, fraction_uniform: float = 0.0, fraction_to_data: float = 0.0
) -> Pairs:
    """A pair per clip, r = t with probability `fraction_equal`, else r = 0 with `fraction_to_data`; two purposes."""
    choices = uniform(seeds, purpose + 1, 3)
    drawn = _times(normal(seeds, (2,), purpose), choices[:, 1] < fraction_uniform)
    t, r = drawn.amax(1), drawn.amin(1)
    r = torch.where(choices[:, 2] < fraction_to_data, torch.zeros_like(r), r)
    return Pairs(torch.where(choices[:, 0] < fraction_equal, t, r), t)


def _times(n: Tensor, evenly: Tensor) -> Tensor:
    """Normal numbers [B, K] -> times; uniform ones, by the normal's distribution function, for the clips `evenly`."""
    return torch.where(evenly.unsqueeze(1), torch.special.ndtr(n), (SPREAD * n + MEAN).sigmoid())
