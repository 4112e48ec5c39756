"""Improved mean flow: learn an average velocity by an ordinary regression of the instantaneous one.

    z_t = (1 - t) x + t e,   u = U(z_t, r, t | context) the average velocity from r to t,   v_c = e - x
    V = u + (t - r) sg[du/dt]            du/dt = JVP of u along (v, 0, 1): the velocity that u implies
    L = |V - v_c|^2 / sg[|V - v_c|^2 + 0.01]                  guided: v~ in place of v_c, as in mean_flow
    boundary    v = sg[u(z_t, t, t)], what u itself says of the instant
    head        v = sg[H(z_t, r, t)], a second way out of the same network, with a loss |H - v_c|^2 of its own
    sample: z_r = z_t - (t - r) u(z_t, r, t); in one step x = e - u(e, 0, 1)

Mean flow regresses u on a target that the network has a part in; here the target is the data's, the network's own
velocity is the tangent, and with equal tangents the gradients of both are the same. What x is, and what u is told, is
training/residual_flow.py's.

Improved Mean Flows, Geng et al., 2025, https://arxiv.org/abs/2512.02012; Mean Flows for One-step Generative Modeling,
Geng et al., 2025, https://arxiv.org/abs/2505.13447.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stages.numerics import jvp, paths
from stages.protocols.model import Batch, GenerativeModel, Loss, Masked, Request
from stages.protocols.spec import Spec, Statistics
from stages.training import residual_flow, velocity
from stages.training.codec import Codec
from stages.training.residual_flow import ResidualFlow
from stages.training.velocity import Errors, Head, Lesson, in_pairs, squares


@dataclass(frozen=True)
class ImprovedMeanFlowConfig(residual_flow.MeanConfig):
    velocity: Literal["boundary", "head"] = "boundary"
    """Where the tangent comes from: u at r = t, a network call more, or a second output that learns it."""


class ImprovedMeanFlow(GenerativeModel):
    Config = ImprovedMeanFlowConfig
    Sampling = residual_flow.Sampling
    needs = frozenset()
    parts, missing = staticmethod(residual_flow.parts), staticmethod(residual_flow.missing)

    def __init__(
        self, config: ImprovedMeanFlowConfig, spec: Spec, statistics: Statistics, signal: Callable[[Masked], Masked]
    ) -> None:
        super().__init__(config, spec, statistics, signal)
        self.config = config
        self.flow = ResidualFlow(config, spec, statistics, signal)
        self.latent, self.codes = self.flow.latent, self.flow.codes
        self.guidance = residual_flow.training_guidance(config, self.flow)
        (frame,) = spec.data.frame
        with_guess = self.latent is not None
        self.head = Head(frame, config.flow_width, with_guess) if config.velocity == "head" else None

    @property
    def codec(self) -> Codec:
        return self.flow.codec

    def begin_step(self, step: int, num_steps: int) -> None:
        self.flow.begin_step(step, num_steps)
        if self.head is not None:
            self.head.requires_grad_(self.flow.flowing)

    def loss(self, batch: Batch, player: str, step: int) -> Loss:
        return self.flow.loss(batch, self.objective, lambda u, e: self.sample(u, e, self.Sampling()))

    def calibrate(self, batches: Iterable[Batch]) -> Mapping[str, float]:
        return self.flow.calibrate(batches, lambda u, e: self.sample(u, e, self.Sampling()))

    def objective(self, lesson: Lesson) -> Errors:
        """Clips with r = t and with r < t, each kind apart."""
        return in_pairs(lesson, self.flow.pairs(self.config, lesson.seeds), self.errors)

    def errors(self, lesson: Lesson, r: Tensor, t: Tensor) -> Errors:
        """The adaptively weighted error of the velocity that u implies, and of the head's."""
        x, e, context, network = lesson.x, lesson.e, lesson.context, self.flow.velocity
        z, v_c = paths.point(x, e, t), paths.velocity(x, e, t)
        target = self.guidance.velocity(network, lesson, z, t, v_c)
        again = jvp.rewind(z.device)
        hidden, modulation = network.inside(z, r, t, context)
        u = network.head(hidden, modulation, z, context)
        again()
        if self.head is None:
            v, loss, terms = self.boundary(lesson, z, r, t), 0.0, {}
            again()
        else:
            v = self.head(hidden, modulation, z, context)
            of_head = squares(v - target)
            loss, terms = jvp.adaptive(of_head), {"velocity_error": of_head.detach()}
        rate = velocity.rate(network, context, z, r, t, v.detach())
        error = squares(jvp.instantaneous(u, rate, r, t) - target)
        return Errors(jvp.adaptive(error) + loss, error.detach(), terms)

    @torch.no_grad()
    def boundary(self, lesson: Lesson, z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """The network's own velocity u(z, t, t); z's shape alone where no JVP will ask for it."""
        return z if bool((r == t).all()) else self.flow.velocity(z, t, t, lesson.context)

    def sample(self, u: paths.AverageVelocity, e: Tensor, sampling: residual_flow.Sampling) -> Tensor:
        """From noise e to x in equal jumps."""
        return paths.follow(u, e, sampling.num_steps)

    def generate(self, request: Request, sampling: residual_flow.Sampling) -> Masked:
        return self.flow.generate(request, sampling, self.sample)

    def num_function_evaluations(self, sampling: residual_flow.Sampling) -> int:
        return residual_flow.num_calls(sampling, self.sample)

    def encode(self, batch: Batch) -> Masked:
        return super().encode(batch) if self.latent is None else self.codec.encode(batch)

    def quantise(self, z: Masked) -> Masked:
        return super().quantise(z) if self.codes is None else self.codec.quantise(z)

    def dequantise(self, codes: Masked) -> Masked:
        return super().dequantise(codes) if self.codes is None else self.codec.dequantise(codes)
