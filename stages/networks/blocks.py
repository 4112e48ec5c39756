"""What the blocks of several networks are made of: a modulated residual branch, a feed-forward layer, places.

    x <- x + gate * f(norm(x) * scale + shift)

shift, scale and gate are linear in the modulation, about 0, 1 and 1 at the start (AdaLN: Scalable Diffusion Models with
Transformers, Peebles and Xie, 2022, https://arxiv.org/abs/2212.09748), and absent without one. `f` ends in a small
matrix, so that a network starts near the identity and yet every block learns from the first step.

Networks are differentiated forward (numerics/jvp.py), where a sum or a product with a constant is slow: hence those
starts, and masked_fill in place of a product.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

EXPANSION = 4
RESIDUAL_SCALE = 0.3
"""Of a branch's last matrix at the start."""
NUM_PLACES = 32
"""Frames from each end of a clip that know where they are."""
PLACE_SIZE = 0.1
"""Standard deviation of the places at the start, small beside the frames."""


class Branch(nn.Module):
    """The residual step around an inner function f: [B, T, width] -> [B, T, width]."""

    def __init__(self, width: int, modulation_width: int | None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=modulation_width is None)
        self.modulate = None if modulation_width is None else modulator(modulation_width, width)

    def forward(self, x: Tensor, modulation: Tensor | None, f: Callable[[Tensor], Tensor]) -> Tensor:
        if self.modulate is None or modulation is None:
            return x + f(self.norm(x))
        shift, scale, gate = self.modulate(modulation).unsqueeze(1).chunk(3, dim=-1)
        return x + gate * f(self.norm(x) * scale + shift)


class FeedForward(nn.Module):
    """narrow(gelu(widen(x))), per frame."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.widen = nn.Linear(width, EXPANSION * width)
        self.narrow = small(nn.Linear(EXPANSION * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.narrow(functional.gelu(self.widen(x))))


class Places(nn.Module):
    """Adds where a frame is, as far as it is near one of its clip's ends: in a short clip, a grid of image patches, all
    frames learn their own place; inside a long one nothing is added, so that its length does not matter.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.from_start = nn.Embedding(NUM_PLACES, width)
        self.from_end = nn.Embedding(NUM_PLACES, width)
        for table in (self.from_start, self.from_end):
            nn.init.normal_(table.weight, std=PLACE_SIZE)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        present = mask if mask is not None else torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        before = present.long().cumsum(1) - 1
        after = present.long().sum(1, keepdim=True) - 1 - before
        return x + self.near(self.from_start, before) + self.near(self.from_end, after)

    def near(self, table: nn.Embedding, distance: Tensor) -> Tensor:
        """The table's row for each distance [B, T], 0 where it has none."""
        known = ((distance >= 0) & (distance < NUM_PLACES)).unsqueeze(-1)
        return table(distance.clamp(0, NUM_PLACES - 1)) * known


def modulator(modulation_width: int, width: int) -> nn.Linear:
    """Modulation [B, modulation_width] -> shift, scale and gate, [B, 3 * width]."""
    layer = nn.Linear(modulation_width, 3 * width)
    with torch.no_grad():
        layer.weight.mul_(0.1)
        layer.bias.copy_(torch.tensor([0.0, 1.0, 1.0]).repeat_interleave(width))
    return layer


def small(layer: nn.Linear) -> nn.Linear:
    """The same layer with smaller weights: the end of a residual branch."""
    with torch.no_grad():
        layer.weight.mul_(RESIDUAL_SCALE)
    return layer


def silenced(x: Tensor, mask: Tensor | None) -> Tensor:
    """Frames [B, T, width], 0 where the mask is False."""
    return x if mask is None else x.masked_fill(~mask.unsqueeze(-1), 0)
