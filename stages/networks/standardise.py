"""Bring every entry of a frame to a similar size, with statistics of the training split kept as buffers.

    y = x / (c std^power),   c such that the mean of y^2 over the frame is 1

power 1 whitens, power 0 changes nothing but the overall level. In between (0.35) loud bins stay louder: audio falls by
80 dB from the lowest to the highest bins, and a network that must care for squared errors should see which count.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from stages.protocols.spec import Statistics


class Standardise(nn.Module):
    FLOOR: ClassVar[float] = 1.0e-6
    """Of std against the largest: a bin that is always 0 must not divide by 0."""

    scale: Tensor
    std: Tensor

    def __init__(self, statistics: Statistics, power: float) -> None:
        super().__init__()
        assert statistics.std is not None, "real data have a standard deviation"
        std = torch.from_numpy(statistics.std).double()
        std = std.clamp_min(self.FLOOR * float(std.max()) if float(std.max()) > 0 else 1.0)
        scale = std**power
        scale = scale * (std / scale).square().mean().sqrt()
        self.register_buffer("scale", scale.float())
        self.register_buffer("std", (std / scale).float())  # of the standardised data

    def forward(self, x: Tensor) -> Tensor:
        """Data [..., *F] -> standardised."""
        return x / self.scale

    def inverse(self, y: Tensor) -> Tensor:
        """Standardised -> data."""
        return y * self.scale
