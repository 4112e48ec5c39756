"""Mixer: perceptrons in turn along time and across channels; along time inside windows of 16 frames.

    x <- x + W2 gelu(W1 norm(x)^T)^T    over the frames of a window, for every channel alike
    x <- x + W4 gelu(W3 norm(x))        over the channels, for every frame alike

Windows start at a clip's first frame in even blocks and half a window earlier in odd ones, so that every border is
crossed and any length will do; a 4 x 4 grid of patches is one window. Frames beyond a clip's end are zero before each
mixing, in the last window as in padding. MLP-Mixer: An all-MLP Architecture for Vision, Tolstikhin et al., 2021,
https://arxiv.org/abs/2105.01601; shifted windows: Swin Transformer, Liu et al., 2021, https://arxiv.org/abs/2103.14030.
"""

from torch import Tensor, nn
from torch.nn import functional

from stages.networks.blocks import EXPANSION, Branch, FeedForward, Places, silenced, small
from stages.protocols.network import Network

WINDOW = 16


class Mixer(Network):
    """`depth` blocks on `width` channels; a frame sees about 8 `depth` frames to each side."""

    def __init__(self, width: int, depth: int, dropout: float, modulation_width: int | None) -> None:
        super().__init__(width, depth, dropout, modulation_width)
        self.places = Places(width)
        starts = [WINDOW // 2 * (number % 2) for number in range(depth)]
        self.blocks = nn.ModuleList([Block(width, dropout, modulation_width, start) for start in starts])

    def forward(self, x: Tensor, modulation: Tensor | None, mask: Tensor | None) -> Tensor:
        x = self.places(x, mask)
        for block in self.blocks:
            x = block(x, modulation, mask)
        return silenced(x, mask)


class Block(nn.Module):
    """`start`: how many frames before the clip its first window begins."""

    def __init__(self, width: int, dropout: float, modulation_width: int | None, start: int) -> None:
        super().__init__()
        self.start = start
        self.along_time = Branch(width, modulation_width)
        self.widen = nn.Linear(WINDOW, EXPANSION * WINDOW)
        self.narrow = small(nn.Linear(EXPANSION * WINDOW, WINDOW))
        self.dropout = nn.Dropout(dropout)
        self.across_channels = Branch(width, modulation_width)
        self.transform = FeedForward(width, dropout)

    def forward(self, x: Tensor, modulation: Tensor | None, mask: Tensor | None) -> Tensor:
        x = self.along_time(x, modulation, lambda h: self.mix(silenced(h, mask)))
        return self.across_channels(x, modulation, self.transform)

    def mix(self, h: Tensor) -> Tensor:
        """[B, T, width] -> [B, T, width], window by window."""
        clips, num_steps, width = h.shape
        num_windows = -(-(self.start + num_steps) // WINDOW)
        padded = functional.pad(h, (0, 0, self.start, num_windows * WINDOW - self.start - num_steps))
        windows = padded.reshape(clips, num_windows, WINDOW, width).transpose(2, 3)
        mixed = self.dropout(self.narrow(functional.gelu(self.widen(windows)))).transpose(2, 3)
        return mixed.reshape(clips, num_windows * WINDOW, width)[:, self.start : self.start + num_steps]
