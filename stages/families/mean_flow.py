"""Mean flow: regress the average velocity, so that one step goes all the way from noise to data.

    z_t = (1 - t) x + t e,   v_c = e - x,   u(z_t, r, t) = 1 / (t - r) * integral from r to t of the velocity
    u = v - (t - r) du/dt,   du/dt = JVP of u at (z, r, t) along (v, 0, 1)      differentiating (t - r) u in t
    L = |u - sg[v~ - (t - r) du/dt]|^2 / sg[|...|^2 + 0.01]                     with v~ in place of v
    v~ = w v_c + k u(z, t, t | c) + (1 - w - k) u(z, t, t | nothing)            v_c itself where w = 1, k = 0
    sample: z_r = z_t - (t - r) u(z_t, r, t); in one step x = e - u(e, 0, 1)

The target depends on the network, and the conditional v_c stands for the marginal velocity in the derivative too, where
it is noisy; the improved mean flow mends both. What x is, and what u is told, is training/residual_flow.py's.

Mean Flows for One-step Generative Modeling, Geng et al., 2025, https://arxiv.org/abs/2505.13447.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from stages.numerics import jvp, paths
from stages.protocols.model import Batch, GenerativeModel, Loss, Masked, Request
from stages.protocols.spec import Spec, Statistics
from stages.training import residual_flow, velocity
from stages.training.codec import Codec
from stages.training.residual_flow import ResidualFlow
from stages.training.velocity import Errors, Lesson, in_pairs, squares


@dataclass(frozen=True)
class MeanFlowConfig(residual_flow.MeanConfig):
    fraction_equal: float = 0.75
    """Share of clips with r = t, which learn the instantaneous velocity and need no JVP."""


class MeanFlow(GenerativeModel):
    Config = MeanFlowConfig
    Sampling = residual_flow.Sampling
    needs = frozenset()
    parts, missing = staticmethod(residual_flow.parts), staticmethod(residual_flow.missing)

    def __init__(
        self, config: MeanFlowConfig, spec: Spec, statistics: Statistics, signal: Callable[[Masked], Masked]
    ) -> None:
        super().__init__(config, spec, statistics, signal)
        self.config = config
        self.flow = ResidualFlow(config, spec, statistics, signal)
        self.latent, self.codes = self.flow.latent, self.flow.codes
        self.guidance = residual_flow.training_guidance(config, self.flow)

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
        """Clips with r = t and with r < t, each kind apart."""
        return in_pairs(lesson, self.flow.pairs(self.config, lesson.seeds), self.errors)

    def errors(self, lesson: Lesson, r: Tensor, t: Tensor) -> Errors:
        """The adaptively weighted error of the average velocity."""
        x, e, context, network = lesson.x, lesson.e, lesson.context, self.flow.velocity
        z, v = paths.point(x, e, t), paths.velocity(x, e, t)
        v = self.guidance.velocity(network, lesson, z, t, v)
        again = jvp.rewind(z.device)
        u = network(z, r, t, context)
        again()
        rate = velocity.rate(network, context, z, r, t, v)
        error = squares(u - jvp.mean_flow_target(jvp.Derivative(u, rate), v, r, t))
        return Errors(jvp.adaptive(error), error.detach(), {})

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
