"""Classifier-free guidance: away from what a velocity would be without its condition.

    sampling    u = u_c + (w - 1)(u_c - u_0)                       for times within [low, high]; w = 1: none
    training    v~ = w v_c + k u(z, t, t | c) + (1 - w - k) u(z, t, t | nothing)

A mean flow that learns v~ in place of v_c is guided in its single call; its fixed point has the scale w / (1 - k).
Classifier-Free Diffusion Guidance, Ho and Salimans, 2022, https://arxiv.org/abs/2207.12598; Applying Guidance in a
Limited Interval, Kynkäänniemi et al., 2024, https://arxiv.org/abs/2404.07724; Mean Flows for One-step Generative
Modeling, Geng et al., 2025, https://arxiv.org/abs/2505.13447 (section 4.2).
"""

from dataclasses import dataclass

from torch import Tensor

from stages.numerics.paths import AverageVelocity


@dataclass(frozen=True)
class Interval:
    """The times that are guided, both ends included."""

    low: float
    high: float

    def holds(self, t: Tensor) -> Tensor:
        """Bool, of t's shape."""
        return (t >= self.low) & (t <= self.high)


def sharpen(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Beyond the conditional velocity, [B, ...]; scale 1 is the conditional itself, 0 the other."""
    return conditional + (scale - 1) * (conditional - unconditional)


def guide(with_: AverageVelocity, without: AverageVelocity, scale: float, interval: Interval) -> AverageVelocity:
    """The velocity a sampler follows: both networks where the jump starts within the interval, else `with_` alone."""

    def u(z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        conditional = with_(z, r, t)
        if scale == 1 or not bool(interval.holds(t).all()):  # a sampler's clips share their times
            return conditional
        return sharpen(conditional, without(z, r, t), scale)

    return u


def target(v: Tensor, conditional: Tensor, unconditional: Tensor, weight: float, mix: float) -> Tensor:
    """v~ for training, [B, ...]: `v` of the data, the others the network's own at r = t; `weight` w, `mix` k."""
    return weight * v + mix * conditional + (1 - weight - mix) * unconditional
