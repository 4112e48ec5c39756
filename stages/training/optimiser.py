"""The optimiser of one player: AdamW, or Muon for matrices beside it; and the learning rate as a function of the step.

AdamW: Decoupled Weight Decay Regularization, Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101.
Muon's update has AdamW's usual size (muon.py), so that one learning rate serves both.
"""

import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from stages.training.config import TrainConfig
from stages.training.muon import Muon

BETAS = (0.9, 0.99)
"""The second below PyTorch's 0.999: runs of a thousand steps never forget their first gradients with that."""


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up from 0 (exclusive), then a half cosine that reaches 0 after the last step."""
    warmup = min(config.num_warmup_steps, config.num_steps - 1)
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / (config.num_steps - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def matrices(model: nn.Module) -> set[nn.Parameter]:
    """Parameters that Muon takes: two real dimensions that mix features; an embedding's rows do not."""
    return {
        parameter
        for module in model.modules()
        if not isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
        if parameter.ndim == 2 and min(parameter.shape) > 1
    }


class Optimiser:
    """One player's parameters, and one or two torch optimisers behind one face."""

    def __init__(self, model: nn.Module, parameters: Iterable[nn.Parameter], config: TrainConfig) -> None:
        self.parameters = list(parameters)
        by_muon = matrices(model) if config.optimizer == "muon" else set()
        muon = [parameter for parameter in self.parameters if parameter in by_muon]
        rest = [parameter for parameter in self.parameters if parameter not in by_muon]
        groups = [
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        self.inner: list[torch.optim.Optimizer] = []
        if groups:
            self.inner.append(torch.optim.AdamW(groups, lr=config.learning_rate, betas=BETAS, fused=True))
        if muon:
            self.inner.append(Muon(muon, config.learning_rate, config.weight_decay))

    def active(self) -> list[nn.Parameter]:
        """What this step trains: a family's schedule may have frozen some."""
        return [parameter for parameter in self.parameters if parameter.requires_grad]

    def clear(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def step(self, rate: float) -> None:
        """Update every parameter that has a gradient."""
        for optimiser in self.inner:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Names and tensors of everything an update depends on besides parameters and gradients."""
        for place, optimiser in enumerate(self.inner):
            for index, values in optimiser.state_dict()["state"].items():
                for name, value in values.items():
                    yield f"{place}/{index}/{name}", value

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state`."""
        for place, optimiser in enumerate(self.inner):
            values: dict[int, dict[str, Tensor]] = {}
            for key, value in state.items():
                owner, index, name = key.split("/")
                if int(owner) == place:
                    values.setdefault(int(index), {})[name] = value
            groups = optimiser.state_dict()["param_groups"]
            optimiser.load_state_dict({"state": values, "param_groups": groups})
