"""ConvNeXt over time: each block mixes neighbours per channel, then channels per frame, and adds the result.

    x <- x + gate * W2 gelu(W1 (norm(depthwise(x)) * scale + shift))

shift, scale and gate are those of networks/blocks.py, linear in an embedding of times or guidance. Nothing in a
block mixes clips; masked frames are zero before every convolution, so that padding is what a clip's own end is.
A ConvNet for the 2020s, Liu et al., 2022, https://arxiv.org/abs/2201.03545; Scalable Diffusion Models with
Transformers, Peebles and Xie, 2022, https://arxiv.org/abs/2212.09748 (AdaLN).
"""

from torch import Tensor, nn

from stages.networks.blocks import FeedForward, modulator, silenced
from stages.protocols.network import Network

KERNEL = 7


class ConvNeXt(Network):
    """`depth` blocks; a frame sees 3 `depth` frames to each side."""

    def __init__(self, width: int, depth: int, dropout: float, modulation_width: int | None) -> None:
        super().__init__(width, depth, dropout, modulation_width)
        self.blocks = nn.ModuleList([Block(width, dropout, modulation_width) for _ in range(depth)])

    def forward(self, x: Tensor, modulation: Tensor | None, mask: Tensor | None) -> Tensor:
        for block in self.blocks:
            x = block(x, modulation, mask)
        return silenced(x, mask)


class Block(nn.Module):
    def __init__(self, width: int, dropout: float, modulation_width: int | None) -> None:
        super().__init__()
        self.mix = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width, elementwise_affine=modulation_width is None)
        self.transform = FeedForward(width, dropout)
        self.modulate = None if modulation_width is None else modulator(modulation_width, width)

    def forward(self, x: Tensor, modulation: Tensor | None, mask: Tensor | None) -> Tensor:
        mixed = silenced(x, mask)
        mixed = self.norm(self.mix(mixed.transpose(1, 2)).transpose(1, 2))
        if self.modulate is None or modulation is None:
            return x + self.transform(mixed)
        shift, scale, gate = self.modulate(modulation).unsqueeze(1).chunk(3, dim=-1)
        return x + gate * self.transform(mixed * scale + shift)
