"""Flow matching: regress the velocity of the straight path, then follow it from noise to data.

    z_t = (1 - t) x + t e,   v_c = e - x,   L = |v(z_t, t) - v_c|^2 per cell
    sample: dz/dt = v(z, t) from z_1 = e to z_0, by Euler's or Heun's method

The minimum is v(z, t) = E[e - x | z_t = z], the velocity that carries noise to data; the loss there is the conditional
variance, not 0. One Euler step gives the mean of the data: the baseline that one-step flows are to beat. What x is, and
what v is told, is training/residual_flow.py's.

Flow Matching for Generative Modeling, Lipman et al., 2022, https://arxiv.org/abs/2210.02747.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from stages.numerics import paths, solvers, times
from stages.protocols.model import Batch, GenerativeModel, Loss, Masked, Request
from stages.protocols.spec import Spec, Statistics
from stages.training import residual_flow
from stages.training.codec import Codec
from stages.training.ground import TIMES, per_cell
from stages.training.residual_flow import ResidualFlow
from stages.training.velocity import Errors, Lesson, squares


@dataclass(frozen=True)
class FlowMatchingConfig(residual_flow.Config):
    heard_weight: float = 0.0
    """Of the mel distance between the data and a one-step sample. 0: one Euler step is meant to be the mean."""


class FlowMatching(GenerativeModel):
    Config = FlowMatchingConfig

    @dataclass(frozen=True)
    class Sampling(residual_flow.Sampling):
        """How the velocity is followed."""

        solver: Literal["euler", "heun"] = "euler"
        """euler: a call per step; heun: two, but for the last step, and an error of second order."""

    needs = frozenset()
    parts, missing = staticmethod(residual_flow.parts), staticmethod(residual_flow.missing)

    def __init__(
        self, config: FlowMatchingConfig, spec: Spec, statistics: Statistics, signal: Callable[[Masked], Masked]
    ) -> None:
        super().__init__(config, spec, statistics, signal)
        self.flow = ResidualFlow(config, spec, statistics, signal)
        self.latent, self.codes = self.flow.latent, self.flow.codes

    @property
    def codec(self) -> Codec:
        return self.flow.codec

    def begin_step(self, step: int, num_steps: int) -> None:
        self.flow.begin_step(step, num_steps)

    def loss(self, batch: Batch, player: str, step: int) -> Loss:
        return self.flow.loss(batch, self.objective, lambda u, e: self.sample(u, e, self.Sampling()))

    def calibrate(self, batches: Iterable[Batch]) -> Mapping[str, float]:
        return self.flow.calibrate(batches, lambda u, e: self.sample(u, e, self.Sampling()))

    def objective(self, lesson: Lesson) -> Errors:
        """The mean squared error of the velocity."""
        x, e = lesson.x, lesson.e
        t = times.logit_normal(lesson.seeds, TIMES, self.config.fraction_uniform).to(x)
        v = self.flow.velocity(paths.point(x, e, t), t, t, lesson.context)
        error = squares(v - paths.velocity(x, e, t))
        return Errors(per_cell(error, lesson.context.mask, x), error.detach(), {})

    def sample(self, u: paths.AverageVelocity, e: Tensor, sampling: Sampling) -> Tensor:
        """From noise e to x; the velocity is the network's average over no time at all."""
        solver = {"euler": solvers.euler, "heun": solvers.heun}[sampling.solver]
        return solver(lambda z, t: u(z, t, t), e, sampling.num_steps)

    def generate(self, request: Request, sampling: Sampling) -> Masked:
        return self.flow.generate(request, sampling, self.sample)

    def num_function_evaluations(self, sampling: Sampling) -> int:
        return residual_flow.num_calls(sampling, self.sample)

    def encode(self, batch: Batch) -> Masked:
        return super().encode(batch) if self.latent is None else self.codec.encode(batch)

    def quantise(self, z: Masked) -> Masked:
        return super().quantise(z) if self.codes is None else self.codec.quantise(z)

    def dequantise(self, codes: Masked) -> Masked:
        return super().dequantise(codes) if self.codes is None else self.codec.dequantise(codes)
