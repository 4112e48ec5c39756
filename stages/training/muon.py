"""Muon: the momentum of a matrix is made nearly orthogonal before it is added: all directions learn at one pace.

    m <- mu m + (1 - mu) g;   n = (1 - mu) g + mu m (Nesterov);   W <- W - rate * 0.2 sqrt(max(rows, columns)) O(n)
    O(n) = U f(S) V', n = U S V':  f is five times s <- a s + b s^3 + c s^5, which brings every s > 0 near 1

The factor brings updates to AdamW's usual size, so that one learning rate serves both. The polynomial is computed on
the Gram matrix n n', the smaller side squared: two thirds of the time that powers of n itself take. Matrices of one
shape, lying or standing, go through it together, since small ones cost more calls than sums. All in float32: torch's
own Muon works in bfloat16, which is 28 times slower on a CPU without instructions for it.

Muon: An optimizer for hidden layers in neural networks, Jordan et al., 2024, https://kellerjordan.github.io/posts/muon;
Muon is Scalable for LLM Training, Liu et al., 2025, https://arxiv.org/abs/2502.16982 (the factor).
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Jordan et al.'s a, b, c: singular values land between 0.7 and 1.2."""
NUM_ITERATIONS = 5
LEAST_NORM = 1.0e-7


class Muon(torch.optim.Optimizer):
    """For parameters of two dimensions."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None, "the loop computes gradients itself"
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault(tuple(sorted(parameter.shape)), []).append(parameter)
            for parameters in alike.values():
                self.update(parameters, group["lr"], group["weight_decay"])

    def update(self, parameters: list[nn.Parameter], rate: float, weight_decay: float) -> None:
        """One step of parameters that have the same two sides."""
        directions = orthogonal(torch.stack([lying(self.nesterov(parameter)) for parameter in parameters]))
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.mul_(1 - rate * weight_decay)
            turned = direction if is_lying(parameter) else direction.T
            parameter.sub_(turned, alpha=rate * 0.2 * math.sqrt(max(parameter.shape)))

    def nesterov(self, parameter: nn.Parameter) -> Tensor:
        """The gradient and the momentum that it moves."""
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(momentum, MOMENTUM)


def is_lying(matrix: Tensor) -> bool:
    return matrix.shape[0] <= matrix.shape[1]


def lying(matrix: Tensor) -> Tensor:
    """The matrix with its shorter side first."""
    return matrix if is_lying(matrix) else matrix.T


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearly orthogonal matrices [K, M, N], M <= N, with the singular vectors of `matrices`."""
    with torch.autocast(matrices.device.type, enabled=False):
        start = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp_min(LEAST_NORM)
        gram = start @ start.mT
        applied = factor = polynomial(gram)
        for _ in range(NUM_ITERATIONS - 1):
            gram = factor @ gram @ factor
            factor = polynomial(gram)
            applied = factor @ applied
        return applied @ start


def polynomial(gram: Tensor) -> Tensor:
    """What one iteration multiplies a matrix by, a I + b G + c G G with its Gram matrix G; [K, M, M]."""
    a, b, c = COEFFICIENTS
    factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    factor.diagonal(dim1=1, dim2=2).add_(a)
    return factor
