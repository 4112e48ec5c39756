"""The straight path between data and noise, its velocity, and samplers that follow an average velocity.

    z_t = alpha(t) x + sigma(t) e,   alpha(t) = 1 - t,   sigma(t) = t,   0 <= t <= 1,   e ~ N(0, I)
    dz/dt = v = alpha'(t) x + sigma'(t) e = e - x
    u(z_t, r, t) = 1 / (t - r) * integral from r to t of v dtau,   hence   z_r = z_t - (t - r) u(z_t, r, t)

x is data, e noise; u is the average velocity between an earlier time r and t. Flow Matching for Generative Modeling,
Lipman et al., 2022, https://arxiv.org/abs/2210.02747; Mean Flows for One-step Generative Modeling, Geng et al., 2025,
https://arxiv.org/abs/2505.13447.
"""

from collections.abc import Callable

import torch
from torch import Tensor

AverageVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""u(z [B, ...], r [B], t [B]) -> [B, ...]; the instantaneous velocity where r = t."""


def alpha(t: Tensor) -> Tensor:
    """How much of the data is left at time t."""
    return 1 - t


def sigma(t: Tensor) -> Tensor:
    """How much noise there is at time t."""
    return t


def alpha_rate(t: Tensor) -> Tensor:
    return -torch.ones_like(t)


def sigma_rate(t: Tensor) -> Tensor:
    return torch.ones_like(t)


def per_clip(t: Tensor, like: Tensor) -> Tensor:
    """Times [B] shaped to multiply `like` [B, ...]."""
    return t.reshape(-1, *[1] * (like.ndim - 1)).to(like.dtype)


def point(x: Tensor, e: Tensor, t: Tensor) -> Tensor:
    """z_t [B, ...] for times t [B]."""
    time = per_clip(t, x)
    return alpha(time) * x + sigma(time) * e


def velocity(x: Tensor, e: Tensor, t: Tensor) -> Tensor:
    """dz/dt at t, given both ends."""
    time = per_clip(t, x)
    return alpha_rate(time) * x + sigma_rate(time) * e


def follow(u: AverageVelocity, e: Tensor, num_steps: int) -> Tensor:
    """From noise at t = 1 to data at t = 0 in `num_steps` equal jumps z_r = z_t - (t - r) u(z_t, r, t)."""
    times = torch.linspace(1.0, 0.0, num_steps + 1, dtype=torch.float64).to(e.device)
    z = e
    for t, r in zip(times[:-1], times[1:], strict=True):
        z = z - (t - r).to(z.dtype) * u(z, r.to(z.dtype).expand(len(z)), t.to(z.dtype).expand(len(z)))
    return z
