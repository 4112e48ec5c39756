"""From noise at t = 1 to data at t = 0 along an instantaneous velocity, dz/dt = v(z, t), in equal steps of h = 1 / K.

    euler   z <- z - h v(z, t)                                          error O(h),   K calls
    heun    z' = z - h v(z, t),  z <- z - h/2 (v(z, t) + v(z', t - h))  error O(h^2), 2 K - 1 calls

Heun's last step is Euler's: the velocity at t = 0 is never asked for, where little was learned, and one step of error
O(h^2) leaves the order. Elucidating the Design Space of Diffusion-Based Generative Models, Karras et al., 2022,
https://arxiv.org/abs/2206.00364 (algorithm 1).
"""

from collections.abc import Callable

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""v(z [B, ...], t [B]) -> [B, ...]."""


def grid(num_steps: int) -> list[float]:
    """Times from exactly 1 to exactly 0, one more than steps; nothing lies past 0."""
    return torch.linspace(1.0, 0.0, num_steps + 1, dtype=torch.float64).tolist()


def at(time: float, z: Tensor) -> Tensor:
    """One time for every clip, [B] in z's dtype."""
    return torch.full((len(z),), time, dtype=z.dtype, device=z.device)


def euler(v: Velocity, e: Tensor, num_steps: int) -> Tensor:
    """First order."""
    times, z = grid(num_steps), e
    for t, r in zip(times[:-1], times[1:], strict=True):
        z = z - (t - r) * v(z, at(t, z))
    return z


def heun(v: Velocity, e: Tensor, num_steps: int) -> Tensor:
    """Second order."""
    times, z = grid(num_steps), e
    for t, r in zip(times[:-1], times[1:], strict=True):
        slope = v(z, at(t, z))
        ahead = z - (t - r) * slope
        z = ahead if r == 0 else z - (t - r) * (slope + v(ahead, at(r, z))) / 2
    return z
