"""Where half precision ends: sums over many entries and everything that leaves a network are float32 or wider."""

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """The values in float32; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
