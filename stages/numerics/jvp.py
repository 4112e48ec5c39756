"""How an average velocity changes along its own path, by forward-mode differentiation.

    du/dt = v . du/dz + 0 . du/dr + 1 . du/dt:   the Jacobian of u at (z, r, t) times the tangent (v, 0, 1)

MeanFlow identity: u = v - (t - r) du/dt. The order of the tangent is the whole point: with (v, 1, 0) or (v, 1, 1)
training still runs, and learns something else (Geng et al., 2025, table 1c).

torch takes a millisecond of Python for a sum or a product where one side has no tangent. So networks avoid numbers in
them (networks/blocks.py), and what they add, their biases, may come in as something that rests.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stages.numerics.paths import per_clip


@dataclass(frozen=True)
class Derivative:
    """u and its total derivative in t along the path, both [B, ...]."""

    value: Tensor
    rate: Tensor


def along_path(u: Callable[..., Tensor], z: Tensor, r: Tensor, t: Tensor, v: Tensor, *still: Any) -> Derivative:
    """u(z, r, t, *still) and du/dt where dz/dt = v; in the dtype of z with autocast off, since tangents lose bits fast.

    `still` does not move: dictionaries of tensors, such as a network's parameters.
    """
    moved = (v, torch.zeros_like(r), torch.ones_like(t))
    rests = [{name: torch.zeros_like(value) for name, value in one.items()} for one in still]
    with torch.autocast(z.device.type, enabled=False):
        value, rate, *_ = torch.func.jvp(u, (z, r, t, *still), (*moved, *rests))
    return Derivative(value, rate)


def rewind(device: torch.device) -> Callable[[], None]:
    """Returns what sets torch's generator back to now: a pass of the same shape draws the same dropout again.

    u and du/dt are of one function only if both have one dropout.
    """
    cuda = device.type == "cuda"
    state = torch.cuda.get_rng_state(device) if cuda else torch.get_rng_state()

    def back() -> None:
        torch.cuda.set_rng_state(state, device) if cuda else torch.set_rng_state(state)

    return back


def mean_flow_target(derivative: Derivative, v: Tensor, r: Tensor, t: Tensor) -> Tensor:
    """What u should be by the identity: v - (t - r) du/dt, [B, ...], without gradient."""
    return (v - per_clip(t - r, v) * derivative.rate).detach()


def instantaneous(u: Tensor, rate: Tensor, r: Tensor, t: Tensor) -> Tensor:
    """The velocity that an average velocity implies, V = u + (t - r) sg[du/dt], [B, ...].

    Improved mean flows regress V on e - x, an ordinary regression whose target does not depend on the network:
    Improved Mean Flows, Geng et al., 2025, https://arxiv.org/abs/2512.02012.
    """
    return u + per_clip(t - r, u) * rate.detach()


def adaptive(error: Tensor, power: float = 1.0, offset: float = 0.01) -> Tensor:
    """Squared errors [B], each divided by its own size: error / sg((error + offset)^power).

    About 1 by construction, whatever the error: watch the raw error.
    """
    return error / (error + offset).pow(power).detach()
