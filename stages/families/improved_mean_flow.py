"""Improved mean flow: the autoencoder's guess, and in one step a sample of what the guess leaves open.

    y = D(q) as in the autoencoder;   x = (data / s - y) / w,   w = exp(W(features of q)) its usual size
    z_t = (1 - t) x + t e,   u = U(z_t, r, t | features) the average velocity from r to t
    L = |u + (t - r) sg[du/dt] - (e - x)|^2      du/dt = JVP of u along (v, 0, 1), v = sg[u(z_t, t, t)]
        + heard_weight * mel(sample, data)
    sample = s (y + w (temperature e - u(temperature e, 0, 1)))

The autoencoder learns exactly as alone; the flow adds what squared errors wash out, chiefly faint high bands. In 10 %
of the clips the condition is dropped: no features, y = 0, w the data's own size; so the flow also generates from noise
alone. `gate` passes a share of z to u that depends on time: what is best where the residual is Gaussian.

Improved Mean Flows, Geng et al., 2025, https://arxiv.org/abs/2512.02012; Mean Flows for One-step Generative Modeling,
Geng et al., 2025, https://arxiv.org/abs/2505.13447.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from stages.networks.bottleneck import given_latent
from stages.numerics import jvp, paths, times
from stages.numerics.precision import wide
from stages.pipeline import plugins
from stages.protocols.model import Batch, GenerativeModel, Loss, Masked, Request
from stages.protocols.network import Network
from stages.protocols.spec import Spec, Statistics
from stages.training import codec, losses

NOISE, TIMES, DROP, HEARD = 1, 2, 4, 5
"""Purposes of a clip's random streams (times takes two)."""
MODULATION_WIDTH = 128
USUAL_SHARE = 0.1
"""Of a bin's standard deviation: where the residual's expected size starts; most cells are far below their bin's."""
LOG_SIZE_RANGE = 7.0
"""The expected size of a residual stays within e^+-7 of standardised data."""


@dataclass(frozen=True)
class ImprovedMeanFlowConfig:
    network: str
    latent_dim: int
    """Per frame, before the quantiser; the bitrate does not depend on it."""
    width: int
    depth: int
    """Blocks on each side of the bottleneck."""
    dropout: float = 0.0
    quantiser: Literal["rvq", "fsq", "none"] = "rvq"
    num_codebooks: int = 8
    codebook_size: int = 1024
    frames_per_code: int = 1
    """Latents that are quantised together; the codes come at the data's rate divided by this."""
    code_dim: int = 64
    """Width of what the quantiser sees."""
    beam_size: int = 8
    """rvq: prefixes kept while compressing; more find better codes and cost encoding time alone."""
    quantiser_start: float = 0.15
    """Share of the training before an rvq's codebooks are placed; until then latents pass unquantised."""
    postfilter_width: int = 32
    """Channels of the network that keeps what lasts (networks/postfilter.py); 0: none."""
    compand_power: float = 0.35
    mel_weight: float = 0.03
    commitment_weight: float = 1.0
    flow_width: int = 128
    flow_depth: int = 3
    flow_start: float = 0.5
    """Share of the training before the flow begins."""
    encoder: Literal["joint", "frozen"] = "joint"
    """frozen: from flow_start on, encoder, quantiser and direct decoder stop and the flow alone learns; joint: they
    go on, the flow beside them. Either way the flow's gradient ends at the features."""
    heard_weight: float = 5.0
    """Of the mel distance between the data and a one-step sample, the autoencoder's auxiliary loss on what is heard."""
    heard_temperature: float = 0.2
    """Of that sample; decode with a temperature near it."""
    condition_drop: float = 0.1
    fraction_equal: float = 0.5
    """Share of clips with r = t, which learn the instantaneous velocity and need no JVP."""

    def __post_init__(self) -> None:
        found = codec.problems(self)
        counts, shares = ("flow_width", "flow_depth"), ("flow_start", "condition_drop", "fraction_equal")
        found += [f"{name} = {getattr(self, name)}: expected at least 1" for name in counts if getattr(self, name) < 1]
        found += [
            f"{name} = {getattr(self, name)}: expected 0 to 1" for name in shares if not 0 <= getattr(self, name) <= 1
        ]
        if found:
            raise ValueError("\n".join(found))


@dataclass(frozen=True)
class Guess:
    """What the latent says: the direct prediction, and what the flow needs to know."""

    mean: Tensor  # y, standardised [B, T, F]; 0 where the condition is dropped
    size: Tensor  # w [B, T, F]
    features: Tensor  # [B, T, width]

    @property
    def context(self) -> Tensor:
        """What the flow is told, [B, T, width + F]."""
        return torch.cat([self.features, self.mean / self.size], dim=-1)


class AverageVelocity(nn.Module):
    """u(z, r, t | features): a network on z and the features, modulated by t and t - r, and gated shares of z and y.

    The features end with y / w: where the guess is louder than the data, the residual is a share of it.
    """

    def __init__(self, frame: int, features: int, width: int, network: Network) -> None:
        super().__init__()
        self.enter = nn.Linear(frame, width)
        self.condition = nn.Linear(features, width)
        self.embed = nn.Sequential(nn.Linear(MODULATION_WIDTH, MODULATION_WIDTH), nn.SiLU())
        self.network = network
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, frame)
        self.gate = nn.Linear(MODULATION_WIDTH, frame)
        self.correct = nn.Linear(MODULATION_WIDTH, frame)
        with torch.no_grad():
            self.leave.weight.mul_(0.1)

    def forward(self, z: Tensor, r: Tensor, t: Tensor, features: Tensor, mask: Tensor) -> Tensor:
        modulation = self.embed(torch.cat([embedding(t), embedding(t - r)], dim=-1).to(z.dtype))
        hidden = self.network(self.enter(z) + self.condition(features), modulation, mask)
        mean = features[..., -z.shape[-1] :]
        gated = self.gate(modulation).unsqueeze(1) * z + self.correct(modulation).unsqueeze(1) * mean
        return (self.leave(self.norm(hidden)) + gated).to(z.dtype) * mask.unsqueeze(-1)


def embedding(t: Tensor) -> Tensor:
    """Times [B] -> smooth features [B, MODULATION_WIDTH / 2] with periods from 4 down to 1/8."""
    octaves = torch.arange(MODULATION_WIDTH // 4, device=t.device, dtype=t.dtype) * (5.0 / (MODULATION_WIDTH // 4))
    angle = t.unsqueeze(-1) * (2 * math.pi / 4) * 2**octaves
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class ImprovedMeanFlow(GenerativeModel):
    Config = ImprovedMeanFlowConfig

    @dataclass(frozen=True)
    class Sampling:
        """How residuals are drawn."""

        num_steps: int = 1
        """Jumps from noise to data, one network call each."""
        temperature: float = 1.0
        """Standard deviation of the noise a sample starts from, when decoding; new clips start from 1."""

        def __post_init__(self) -> None:
            if self.num_steps < 1 or self.temperature < 0:
                raise ValueError(f"{self}: expected num_steps at least 1 and temperature at least 0")

    needs = frozenset()

    def __init__(
        self, config: ImprovedMeanFlowConfig, spec: Spec, statistics: Statistics, signal: Callable[[Masked], Masked]
    ) -> None:
        super().__init__(config, spec, statistics, signal)
        self.config = config
        self.codec = codec.Codec(config, spec, statistics, signal)
        self.latent, self.codes = self.codec.latent, self.codec.codes
        (frame,) = spec.data.frame
        self.log_size = nn.Linear(config.width, frame)
        with torch.no_grad():
            self.log_size.bias.copy_(torch.log(USUAL_SHARE * self.codec.standardise.std))
        self.nothing = nn.Parameter(torch.zeros(config.width))
        network = plugins.load("networks", config.network)
        flow = network(config.flow_width, config.flow_depth, config.dropout, MODULATION_WIDTH)
        self.flow = AverageVelocity(frame, config.width + frame, config.flow_width, flow)
        self.flowing, self.guessing = True, True

    def begin_step(self, step: int, num_steps: int) -> None:
        if step >= int(self.config.quantiser_start * num_steps):
            self.codec.bottleneck.start()
        self.flowing = step >= int(self.config.flow_start * num_steps)
        self.guessing = not (self.flowing and self.config.encoder == "frozen")
        self.codec.requires_grad_(self.guessing)
        for part in (self.log_size, self.flow):
            part.requires_grad_(self.flowing)
        self.nothing.requires_grad_(self.flowing)

    def loss(self, batch: Batch, player: str, step: int) -> Loss:
        """The codec's loss and the flow's, each from when the schedule says."""
        self.codec.bottleneck.train(self.training and self.guessing)  # frozen: the codebooks rest too
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.guessing):
            learned = self.codec.learn(batch.data)
        total, terms = learned.loss, dict(learned.terms)
        terms["validation_nats"] = terms["noise_to_signal_nats"] + self.config.mel_weight * terms["mel_distance"]
        if self.flowing or not self.training:
            y, features = learned.guess.detach(), learned.features.detach()
            flow, flow_terms = self.flow_loss(batch, y, features)
            heard = self.heard_loss(batch, y, features)
            total = (total if self.guessing else total.detach()) + flow + self.config.heard_weight * heard
            terms |= {**flow_terms, "mel_distance_sample": heard.detach()}
            terms["validation_nats"] = terms["validation_nats"] + terms["flow_error_nats"]
        return Loss(total, terms, criterion="validation_nats")

    def flow_loss(self, batch: Batch, y: Tensor, features: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The adaptively weighted error of the velocity, and how well the residual's size is known; [B] and terms."""
        mask, seeds = batch.data.mask, batch.seeds
        whole = self.codec.standardise(batch.data.value)
        residual, device, present = whole - y, y.device, mask.unsqueeze(-1)
        cells = (present.expand_as(residual)).flatten(1).sum(1).clamp_min(1)
        log_size = self.expected_log_size(features)
        actual = (residual.abs() + math.exp(-LOG_SIZE_RANGE)).log()
        surprise = ((log_size - actual).abs() * present).flatten(1).sum(1) / cells
        dropped = (times.uniform(seeds, DROP) < self.config.condition_drop).to(device)
        alone = self.without_condition(features)
        drop = dropped.reshape(-1, 1, 1)
        size = log_size.detach().exp()
        features = torch.where(drop, alone.context, torch.cat([features, y / size], dim=-1))
        x = torch.where(drop, whole / alone.size, residual / size) * present
        e = times.normal(seeds, tuple(x.shape[1:]), NOISE).to(x) * present
        pairs = times.logit_normal_pairs(seeds, self.config.fraction_equal, TIMES)
        r, t = pairs.r.to(x), pairs.t.to(x)
        z, target = paths.point(x, e, t), paths.velocity(x, e, t)
        implied = jvp.instantaneous(self.flow(z, r, t, features, mask), self.rate(z, r, t, features, mask), r, t)
        error = (implied - target).square().flatten(1).sum(1)
        raw = (error / cells).detach()
        nowhere = torch.full_like(raw, math.nan)
        terms = {
            "flow_error_r_equals_t": torch.where(r == t, raw, nowhere),
            "flow_error_r_before_t": torch.where(r == t, nowhere, raw),
            "flow_error_nats": (raw + 1e-9).log() + surprise.detach(),
            "residual_size_error_nats": surprise.detach(),
        }
        return jvp.adaptive(error) + surprise, terms

    def heard_loss(self, batch: Batch, y: Tensor, features: Tensor) -> Tensor:
        """The mel distance of a one-step sample at `heard_temperature` to the data, [B]."""
        mask = batch.data.mask
        size = self.expected_log_size(features).detach().exp()
        e = times.normal(batch.seeds, tuple(y.shape[1:]), HEARD).to(y) * mask.unsqueeze(-1)

        def u(z: Tensor, r: Tensor, t: Tensor) -> Tensor:
            return self.flow(z, r, t, torch.cat([features, y / size], dim=-1), mask)

        residual = paths.follow(u, self.config.heard_temperature * e, 1)
        return self.codec.mel_distance(y + size * residual, batch.data, losses.FAINT_FLOOR)

    @torch.no_grad()
    def rate(self, z: Tensor, r: Tensor, t: Tensor, features: Tensor, mask: Tensor) -> Tensor:
        """du/dt along the flow's own velocity, [B, T, F]; computed for the clips with r < t, 0 elsewhere."""
        rows = (r < t).nonzero()[:, 0]
        rate = torch.zeros_like(z)
        if len(rows):
            z, r, t, features, mask = z[rows], r[rows], t[rows], features[rows], mask[rows]
            v = self.flow(z, t, t, features, mask)

            def u(z: Tensor, r: Tensor, t: Tensor) -> Tensor:
                return self.flow(z, r, t, wide(features), mask)

            rate[rows] = jvp.along_path(u, z, r, t, v).rate
        return rate

    def expected_log_size(self, features: Tensor) -> Tensor:
        """Ln of the residual's expected absolute value, [B, T, F]."""
        return wide(self.log_size(features)).clamp(-LOG_SIZE_RANGE, LOG_SIZE_RANGE)

    def without_condition(self, like: Tensor) -> Guess:
        """Nothing is known, for as many clips and steps as `like` [B, T, width] has."""
        shape = (*like.shape[:2], len(self.codec.standardise.std))
        size = self.codec.standardise.std.expand(shape)
        return Guess(torch.zeros_like(size), size, self.nothing.to(like.dtype).expand_as(like))

    def guess(self, request: Request, mask: Tensor) -> Guess:
        """What the request's latent says, or nothing for clips without one."""
        empty = self.without_condition(mask.unsqueeze(-1).to(self.nothing).expand(-1, -1, self.config.width))
        latent = request.conditions.get("latent")
        if latent is None or not latent.mask.any():
            return empty
        given = given_latent(request, self.config.latent_dim)
        features = self.codec.decoder.features(given.value, given.mask)
        known = latent.mask.any(1).reshape(-1, 1, 1)
        return Guess(
            torch.where(known, self.codec.decoder(features, given.mask), empty.mean),
            torch.where(known, self.expected_log_size(features).exp(), empty.size),
            torch.where(known, features, empty.features),
        )

    def generate(self, request: Request, sampling: Sampling) -> Masked:
        device = self.nothing.device
        steps = request.num_steps.to(device)
        mask = torch.arange(int(steps.max()) if len(steps) else 0, device=device) < steps.unsqueeze(1)
        guess, present = self.guess(request, mask), mask.unsqueeze(-1)
        context = guess.context
        latent = request.conditions.get("latent")
        known = torch.zeros(len(steps), dtype=torch.bool) if latent is None else latent.mask.any(1)
        temperature = torch.where(known.to(device), sampling.temperature, 1.0).reshape(-1, 1, 1)
        e = times.normal(request.seeds, tuple(guess.mean.shape[1:]), NOISE).to(guess.mean) * present * temperature

        def u(z: Tensor, r: Tensor, t: Tensor) -> Tensor:
            return self.flow(z, r, t, context, mask)

        residual = paths.follow(u, e, sampling.num_steps)
        return Masked(self.codec.standardise.inverse((guess.mean + guess.size * residual) * present), mask)

    def num_function_evaluations(self, sampling: Sampling) -> int:
        return sampling.num_steps

    def encode(self, batch: Batch) -> Masked:
        return self.codec.encode(batch)

    def quantise(self, z: Masked) -> Masked:
        return super().quantise(z) if self.codes is None else self.codec.quantise(z)

    def dequantise(self, codes: Masked) -> Masked:
        return super().dequantise(codes) if self.codes is None else self.codec.dequantise(codes)
