"""A small transformer: each frame asks the frames within REACH of it, then a perceptron per frame.

    x <- x + W sum_j softmax_j(q_i . k_j / sqrt(d)) v_j,   |i - j| <= REACH,   q, k normalised and turned by their place
    x <- x + W2 gelu(W1 norm(x))

Turning pairs of channels of q and k by an angle proportional to the frame's number makes q_i . k_j a function of i - j
(RoFormer, Su et al., 2021, https://arxiv.org/abs/2104.09864). The reach is finite so that a whole piece costs time and
memory in proportion to its length, and distances never exceed those of training crops. Softmax and products are written
out, because scaled_dot_product_attention has no forward-mode derivative. Modulation as in DiT: Scalable Diffusion
Models with Transformers, Peebles and Xie, 2022, https://arxiv.org/abs/2212.09748.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.networks.blocks import Branch, FeedForward, Places, silenced, small
from stages.protocols.network import Network

REACH = 64
"""Frames to each side."""
HEAD_WIDTH = 32
"""Channels of a head, or somewhat more where they do not divide the width."""
LONGEST_PERIOD = 100.0
"""Of the slowest turning pair, in units of the fastest one's 2 pi frames."""


class Transformer(Network):
    """`depth` blocks on `width` channels; ValueError where the width is odd."""

    def __init__(self, width: int, depth: int, dropout: float, modulation_width: int | None) -> None:
        super().__init__(width, depth, dropout, modulation_width)
        if width % 2:
            raise ValueError(f"width = {width}: a transformer turns pairs of channels, give it an even width")
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
        self.asking = Branch(width, modulation_width)
        self.attention = Attention(width, dropout)
        self.thinking = Branch(width, modulation_width)
        self.transform = FeedForward(width, dropout)

    def forward(self, x: Tensor, modulation: Tensor | None, mask: Tensor | None) -> Tensor:
        x = self.asking(x, modulation, lambda h: self.attention(h, mask))
        return self.thinking(x, modulation, self.transform)


class Attention(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads(width)
        self.ask = nn.Linear(width, 3 * width)
        self.answer = small(nn.Linear(width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, mask: Tensor | None) -> Tensor:
        clips, num_steps, width = h.shape
        q, k, v = self.ask(h).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # each [B, H, T, d]
        q, k = (turned(functional.layer_norm(part, part.shape[-1:])) for part in (q, k))
        found = attended(q, k, v, mask)
        return self.dropout(self.answer(found.transpose(1, 2).reshape(clips, num_steps, width)))


def num_heads(width: int) -> int:
    """The most heads of at least HEAD_WIDTH channels whose pairs fill the width; 1 where it is less."""
    return max(n for n in range(1, max(width // HEAD_WIDTH, 1) + 1) if width % (2 * n) == 0)


def turned(x: Tensor) -> Tensor:
    """Pairs of channels of [B, H, T, d] turned by the frame's number times a speed between 1 and 1 / LONGEST_PERIOD."""
    half = x.shape[-1] // 2
    share = torch.arange(half, device=x.device, dtype=torch.float64) / half
    place = torch.arange(x.shape[-2], device=x.device, dtype=torch.float64)
    angle = torch.outer(place, LONGEST_PERIOD**-share)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of v over the present frames within REACH, weighted by softmax(q . k / sqrt(d)); all [B, H, T, d].

    Queries go in blocks of REACH frames, whose keys lie in the same block and the two beside it.
    """
    num_steps, block = q.shape[2], min(q.shape[2], REACH)
    present = torch.ones(len(q), num_steps, dtype=torch.bool, device=q.device) if mask is None else mask
    spare = -num_steps % block
    q = functional.pad(q, (0, 0, 0, spare)).unflatten(2, (-1, block))
    k, v = (neighbours(functional.pad(part, (0, 0, 0, spare)), block) for part in (k, v))
    seen = neighbours(functional.pad(present, (0, spare))[:, None, :, None], block)[..., 0].unsqueeze(-2)
    place = torch.arange(block, device=q.device)
    near = (place[:, None] + block - torch.arange(3 * block, device=q.device)).abs() <= REACH  # [block, 3 block]
    logits = (q @ k.mT) * q.shape[-1] ** -0.5  # [B, H, blocks, block, 3 block]
    # A finite floor: a frame that sees nobody (padding) must get numbers, not 0 / 0.
    logits = logits.masked_fill(~(near & seen), torch.finfo(logits.dtype).min)
    return (logits.softmax(-1).to(v.dtype) @ v).flatten(2, 3)[:, :, :num_steps]


def neighbours(x: Tensor, block: int) -> Tensor:
    """[B, H, n block, d] -> [B, H, n, 3 block, d]: each block with the one before and the one after it."""
    padded = functional.pad(x, (0, 0, block, block)).unflatten(2, (-1, block))
    return torch.cat([padded[:, :, :-2], padded[:, :, 1:-1], padded[:, :, 2:]], dim=3)
