"""ConvNeXt over time: each block mixes neighbours per channel, then channels per frame, and adds the result.

    x <- x + gate * W2 gelu(W1 norm(depthwise(x)))

With modulation (AdaLN) the norm's scale and shift and the gate depend on an embedding of times or guidance. Nothing in
a block mixes clips; masked frames are zero before every convolution, so that padding is what a clip's own end is.
A ConvNet for the 2020s, Liu et al., 2022, https://arxiv.org/abs/2201.03545; Scalable Diffusion Models with
Transformers, Peebles and Xie, 2022, https://arxiv.org/abs/2212.09748 (AdaLN).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.protocols.network import Network

KERNEL = 7
EXPANSION = 4
RESIDUAL_SCALE = 0.3
"""Of a block's last matrix at the start: near the identity, and yet every block learns from the first step."""


class ConvNeXt(Network):
    """`depth` blocks; a frame sees 3 `depth` frames to each side."""

    def __init__(self, width: int, depth: int, dropout: float, modulation_width: int | None) -> None:
        super().__init__(width, depth, dropout, modulation_width)
        self.blocks = nn.ModuleList([Block(width, dropout, modulation_width) for _ in range(depth)])

    def forward(self, x: Tensor, modulation: Tensor | None, mask: Tensor | None) -> Tensor:
        present = None if mask is None else mask.unsqueeze(-1)
        for block in self.blocks:
            x = block(x, modulation, present)
        return x if present is None else x * present


class Block(nn.Module):
    def __init__(self, width: int, dropout: float, modulation_width: int | None) -> None:
        super().__init__()
        self.mix = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width, elementwise_affine=modulation_width is None)
        self.widen = nn.Linear(width, EXPANSION * width)
        self.narrow = nn.Linear(EXPANSION * width, width)
        self.dropout = nn.Dropout(dropout)
        self.modulate = None if modulation_width is None else nn.Linear(modulation_width, 3 * width)
        with torch.no_grad():
            self.narrow.weight.mul_(RESIDUAL_SCALE)
            if self.modulate is not None:
                self.modulate.weight.mul_(0.1)
                self.modulate.bias.zero_()

    def forward(self, x: Tensor, modulation: Tensor | None, present: Tensor | None) -> Tensor:
        mixed = x if present is None else x * present
        mixed = self.norm(self.mix(mixed.transpose(1, 2)).transpose(1, 2))
        if self.modulate is None or modulation is None:
            return x + self.transform(mixed)
        shift, scale, gate = self.modulate(modulation).unsqueeze(1).chunk(3, dim=-1)
        return x + (1 + gate) * self.transform(mixed * (1 + scale) + shift)

    def transform(self, x: Tensor) -> Tensor:
        return self.dropout(self.narrow(functional.gelu(self.widen(x))))
