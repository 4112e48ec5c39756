"""A residual multilayer perceptron per frame, which hears a word from frames at fixed distances.

    x <- x + W2 gelu(W1 (h + shifted(S h))),   h = norm(x)

S says something about each frame; group g of its channels is moved by OFFSETS[g] frames, zeros coming in at a clip's
ends. Moving costs nothing, so this is an MLP in work and weights, and still sees 16 `depth` frames to each side: all of
a 4 x 4 grid of patches in the first block. A mean over the clip would be as cheap but knows no order. S2-MLP:
Spatial-Shift MLP Architecture for Vision, Yu et al., 2021, https://arxiv.org/abs/2106.07477.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.networks.blocks import Branch, FeedForward, Places, silenced
from stages.protocols.network import Network

OFFSETS = (1, -1, 2, -2, 4, -4, 8, -8, 16, -16)


class Mlp(Network):
    """`depth` blocks on `width` channels."""

    def __init__(self, width: int, depth: int, dropout: float, modulation_width: int | None) -> None:
        super().__init__(width, depth, dropout, modulation_width)
        self.places = Places(width)
        self.blocks = nn.ModuleList([Block(width, dropout, modulation_width) for _ in range(depth)])

    def forward(self, x: Tensor, modulation: Tensor | None, mask: Tensor | None) -> Tensor:
        x = self.places(x, mask)
        for block in self.blocks:
            x = block(x, modulation, mask)
        return silenced(x, mask)


class Block(nn.Module):
    def __init__(self, width: int, dropout: float, modulation_width: int | None) -> None:
        super().__init__()
        self.branch = Branch(width, modulation_width)
        self.say = nn.Linear(width, width)
        self.transform = FeedForward(width, dropout)

    def forward(self, x: Tensor, modulation: Tensor | None, mask: Tensor | None) -> Tensor:
        return self.branch(x, modulation, lambda h: self.transform(h + shifted(silenced(self.say(h), mask))))


def shifted(x: Tensor) -> Tensor:
    """Groups of channels of [B, T, width], each moved along T by its offset, zeros coming in."""
    num_steps = x.shape[1]
    most = min(max(OFFSETS), num_steps)  # beyond a short clip's ends there is nothing but zeros
    offsets = [max(-most, min(offset, most)) for offset in OFFSETS]
    groups = functional.pad(x, (0, 0, most, most)).tensor_split(len(OFFSETS), dim=-1)
    moved = [group[:, most - o : most - o + num_steps] for group, o in zip(groups, offsets, strict=True)]
    return torch.cat(moved, dim=-1)
