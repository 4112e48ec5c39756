"""The network of every flow, u(z, r, t | context), and how objectives ask it.

    m = E(t, t - r) + label;   h = network(z + features, modulated by m);   u = W norm(h) + g(m) z + c(m) (y / w)

The gated share g of z is what is best where the data are Gaussian; a share c of the guess y helps where that is louder
than the data. Plain flows ask for u(z, t, t), the instantaneous velocity.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from stages.networks.blocks import silenced
from stages.numerics import guidance, jvp, times
from stages.numerics.precision import wide
from stages.protocols.network import Network

MODULATION_WIDTH = 128


@dataclass(frozen=True)
class Context:
    """What the network is told besides z and the times."""

    mask: Tensor  # bool [B, T]
    features: Tensor | None = None  # [B, T, C], the last F channels are y / w; None: there is no codec
    label: Tensor | None = None  # [B, MODULATION_WIDTH]; None: the data have none

    def of(self, rows: Tensor) -> "Context":
        """These clips alone."""
        features, label = self.features, self.label
        return Context(
            self.mask[rows], None if features is None else features[rows], None if label is None else label[rows]
        )

    def first(self, mask: Tensor) -> "Context":
        """The first steps of every clip, those of the mask, bool [B, T'] with T' <= T."""
        return replace(self, mask=mask, features=None if self.features is None else self.features[:, : mask.shape[1]])

    def where(self, chosen: Tensor, other: "Context") -> "Context":
        """The `chosen` clips, bool [B], of this; the rest of the other."""
        features, label = self.features, self.label
        if features is not None and other.features is not None:
            features = torch.where(chosen.reshape(-1, 1, 1), features, other.features)
        if label is not None and other.label is not None:
            label = torch.where(chosen.reshape(-1, 1), label, other.label)
        return Context(self.mask, features, label)

    def widened(self) -> "Context":
        """Nothing in half precision."""
        return replace(self, features=None if self.features is None else wide(self.features))


class Head(nn.Module):
    """The way out of the network: a matrix, and gated shares of z and of the guess."""

    def __init__(self, frame: int, width: int, with_guess: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, frame)
        self.gate = nn.Linear(MODULATION_WIDTH, frame)
        self.correct = nn.Linear(MODULATION_WIDTH, frame) if with_guess else None
        with torch.no_grad():
            self.leave.weight.mul_(0.1)

    def forward(self, hidden: Tensor, modulation: Tensor, z: Tensor, context: Context) -> Tensor:
        gated = self.gate(modulation).unsqueeze(1) * z
        if self.correct is not None and context.features is not None:
            gated = gated + self.correct(modulation).unsqueeze(1) * context.features[..., -z.shape[-1] :]
        return silenced((self.leave(self.norm(hidden)) + gated).to(z.dtype), context.mask)


class AverageVelocity(nn.Module):
    """u(z [B, T, F], r [B], t [B] | context) -> [B, T, F]; `features`: channels of the context's, 0 for none."""

    def __init__(self, frame: int, features: int, width: int, network: Network) -> None:
        super().__init__()
        self.enter = nn.Linear(frame, width)
        self.condition = nn.Linear(features, width) if features else None
        self.embed = nn.Sequential(nn.Linear(MODULATION_WIDTH, MODULATION_WIDTH), nn.SiLU())
        self.network = network
        self.head = Head(frame, width, features > 0)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, context: Context) -> Tensor:
        return self.head(*self.inside(z, r, t, context), z, context)

    def inside(self, z: Tensor, r: Tensor, t: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """What heads read: the hidden frames [B, T, width] and the modulation [B, MODULATION_WIDTH]."""
        modulation = self.embed(torch.cat([embedding(t), embedding(t - r)], dim=-1).to(z.dtype))
        if context.label is not None:
            modulation = modulation + context.label
        entered = self.enter(z)
        if self.condition is not None:
            entered = entered + self.condition(context.features)
        return self.network(entered, modulation, context.mask), modulation


def embedding(t: Tensor) -> Tensor:
    """Times [B] -> smooth features [B, MODULATION_WIDTH / 2] with periods from 4 down to 1/8."""
    octaves = torch.arange(MODULATION_WIDTH // 4, device=t.device, dtype=t.dtype) * (5.0 / (MODULATION_WIDTH // 4))
    angle = t.unsqueeze(-1) @ (2 * math.pi / 4 * 2**octaves).unsqueeze(0)  # a product would be slow to differentiate
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


@dataclass(frozen=True)
class Lesson:
    """A batch as an objective sees it."""

    x: Tensor  # what is to be generated, in its own units [B, T, F]
    e: Tensor  # noise [B, T, F]
    seeds: Tensor  # int64 [B], on the CPU
    context: Context
    without: Context  # the same clips with their condition withheld: what guidance leads away from
    told: Tensor  # bool [B]: clips that learn with their condition

    def of(self, rows: Tensor) -> "Lesson":
        rows, there = rows.cpu(), rows.to(self.x.device)
        own = self.context.of(there), self.without.of(there), self.told[there]
        return Lesson(self.x[there], self.e[there], self.seeds[rows], *own)


@dataclass(frozen=True)
class Errors:
    """What an objective returns, per clip [B]."""

    loss: Tensor  # differentiated
    error: Tensor  # raw sum of squares, detached
    terms: Mapping[str, Tensor]  # further raw errors by name, detached, sums of squares; NaN: not of this clip


def in_pairs(lesson: Lesson, pairs: times.Pairs, objective: Callable[[Lesson, Tensor, Tensor], Errors]) -> Errors:
    """The objective on the clips with r = t and on those with r < t apart, so that only the latter pay for du/dt.

    Each group is a batch of its own, whose passes have one shape and hence one dropout (jvp.rewind).
    """
    apart = pairs.r < pairs.t
    groups = [rows for rows in (apart.nonzero()[:, 0], (~apart).nonzero()[:, 0]) if len(rows)]
    found = [objective(lesson.of(rows), pairs.r[rows].to(lesson.x), pairs.t[rows].to(lesson.x)) for rows in groups]
    order = torch.cat(groups).argsort().to(lesson.x.device)

    def whole(parts: list[Tensor]) -> Tensor:
        return torch.cat(parts)[order]

    error, apart = whole([one.error for one in found]), apart.to(order.device)
    nowhere = torch.full_like(error, math.nan)
    terms = {name: whole([one.terms[name] for one in found]) for name in found[0].terms}
    terms |= {
        "flow_error_r_equals_t": torch.where(apart, nowhere, error),
        "flow_error_r_before_t": torch.where(apart, error, nowhere),
    }
    return Errors(whole([one.loss for one in found]), error, terms)


def squares(difference: Tensor) -> Tensor:
    """The sum of squares per clip, [B]: what the adaptive weight is made for; a mean would be far below its offset."""
    return difference.square().flatten(1).sum(1)


@torch.no_grad()
def rate(network: AverageVelocity, context: Context, z: Tensor, r: Tensor, t: Tensor, v: Tensor) -> Tensor:
    """du/dt along v [B, T, F], in float32; 0 without any work where all r = t."""
    if bool((r == t).all()):
        return torch.zeros_like(z)
    known = context.widened()
    added = {name: value.detach() for name, value in network.named_parameters() if value.dim() == 1}

    def u(z: Tensor, r: Tensor, t: Tensor, added: Mapping[str, Tensor]) -> Tensor:
        return functional_call(network, dict(added), (z, r, t, known))

    return jvp.along_path(u, z, r, t, v, added).rate


@dataclass(frozen=True)
class TrainingGuidance:
    """w and k of numerics/guidance.py, for times within an interval."""

    weight: float
    mix: float
    interval: guidance.Interval

    @property
    def none(self) -> bool:
        return self.weight == 1 and self.mix == 0

    @torch.no_grad()
    def velocity(self, network: AverageVelocity, lesson: Lesson, z: Tensor, t: Tensor, v: Tensor) -> Tensor:
        """v~, [B, T, F]: v itself for clips that learn without a condition or at times outside."""
        if self.none:
            return v
        conditional, unconditional = (network(z, t, t, context) for context in (lesson.context, lesson.without))
        guided = guidance.target(v, conditional, unconditional, self.weight, self.mix)
        chosen = lesson.told & self.interval.holds(t)
        return torch.where(chosen.reshape(-1, 1, 1), guided, v)
