"""An exponential moving average of the parameters, which is what gets validated and exported.

    a_s = d_s a_{s-1} + (1 - d_s) p_s,    d_s = min(decay, (1 + s) / (10 + s))

so that early weights are forgotten soon. Buffers are not averaged: a codebook is an average already, and a mean of two
codebooks is none. Averages of Weights Lead to Wider Optima, Izmailov et al., 2018, https://arxiv.org/abs/1803.05407.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The average beside the model; `applied` puts it in the model's place for a while."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.parameters = dict(model.named_parameters())
        self.decay = decay
        self.values = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after training step `step`."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        values: list[Tensor] = [*self.values.values()]
        parameters: list[Tensor] = [*self.parameters.values()]
        torch._foreach_lerp_(values, parameters, weight)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model's parameters are the averages; afterwards its own again, bit by bit."""
        own = {name: parameter.data for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            parameter.data = self.values[name]
        try:
            yield
        finally:
            for name, parameter in self.parameters.items():
                parameter.data = own[name]

    def restore(self, values: Mapping[str, Tensor]) -> None:
        for name, value in self.values.items():
            value.copy_(values[name])
