"""Several losses on one output, each pulling with a chosen share of the strength of a reference loss, clip by clip.

    g_i = d l_i / d y,   pull = sum_i share_i |g_0| g_i / |g_i|        norms over all of a clip's output y

Adversarial losses have no scale of their own: theirs drifts with the discriminator. What reaches the output is
therefore decided by the shares alone. This is the loss balancer of High Fidelity Neural Audio Compression, Défossez et
al., 2022, https://arxiv.org/abs/2210.13438 (section 3.4), but for two points. The reference is the gradient norm of the
losses that are not balanced, so that these act as without the others. Norms are a clip's own, where EnCodec keeps
running means over batches: a clip's gradient depends on no other clip, and micro-batches equal the whole batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

FLOOR = 1.0e-20
"""Of a gradient norm: a loss that pulls nowhere stays without pull."""


@dataclass(frozen=True)
class Part:
    """A loss to be balanced."""

    loss: Tensor  # [B], a function of y, clip by clip
    share: float
    """Of the reference's gradient norm."""


def pull(y: Tensor, reference: Tensor, parts: Mapping[str, Part]) -> Tensor:
    """Zero per clip [B], with the balanced gradient at y [B, ...]; `reference` is l_0 [B]. Needs gradients enabled."""
    strength = norm(gradient(reference, y))
    direction = torch.zeros_like(y)
    for part in parts.values():
        g = gradient(part.loss, y)
        direction += per_clip(part.share * strength / norm(g).clamp_min(FLOOR), y) * g
    along = (y * direction).flatten(1).sum(1)
    return along - along.detach()


def gradient(loss: Tensor, y: Tensor) -> Tensor:
    """The gradient of every clip's own loss at its own output, [B, ...]."""
    (g,) = torch.autograd.grad(loss.sum(), y, retain_graph=True)
    return g


def norm(g: Tensor) -> Tensor:
    return g.flatten(1).norm(dim=1)


def per_clip(weight: Tensor, like: Tensor) -> Tensor:
    """Weights [B] shaped to multiply [B, ...]."""
    return weight.reshape(-1, *[1] * (like.ndim - 1))
