"""A network has weights but no objective: any family runs on any network, by name only."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Network(nn.Module, ABC):
    """[B, T, width] -> [B, T, width], one file in stages/networks; differentiable in forward mode too (JVP)."""

    @abstractmethod
    def __init__(self, width: int, depth: int, dropout: float, modulation_width: int | None) -> None:
        """`modulation_width` None: the blocks are not modulated (no AdaLN)."""
        super().__init__()

    @abstractmethod
    def forward(self, x: Tensor, modulation: Tensor | None, mask: Tensor | None) -> Tensor:
        """Takes x [B, T, width]; modulation [B, modulation_width] embeds times and guidance; mask bool [B, T]."""
