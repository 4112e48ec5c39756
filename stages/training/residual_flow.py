"""What the flow families share: what flows, what it is told, when it learns, and how samples are made of it.

    data = s (y + w x);   x flows:  z_t = (1 - t) x + t e;   a family brings the objective and the sampler

With a codec (`encoder` joint or frozen), y = D(q) is its guess, w = exp(W(features of q)) the usual size of what the
guess leaves open, and the features are the condition: the codec learns exactly as alone; the flow adds what squared
errors wash out, chiefly faint high bands. In `condition_drop` of the clips the condition is dropped: no features,
y = 0, w the data's own size; so the flow also generates from noise alone. Without one (`absent`) x is the data, each
bin standardised, and class labels are the condition (training/ground.py).

    L = codec's + objective(x) + |ln w - ln |data / s - y|| + heard_weight * mel(one-step sample, data)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stages.networks.bottleneck import given_latent
from stages.numerics import guidance, paths, times
from stages.numerics.precision import wide
from stages.pipeline import plugins
from stages.protocols.model import Batch, Loss, Masked, Request
from stages.protocols.spec import Spec, Statistics
from stages.training import codec, losses
from stages.training.codec import Codec
from stages.training.ground import Asked, Frame, Frames, Ground, Heard, OneStep, Whole
from stages.training.velocity import MODULATION_WIDTH, AverageVelocity, Context, Errors, Lesson, TrainingGuidance

NOISE, TIMES, DROP, HEARD, HIDE = 1, 2, 4, 5, 6
"""Purposes of a clip's random streams (times takes two)."""
USUAL_SHARE = 0.1
"""Of a bin's standard deviation: where the residual's expected size starts; most cells are far below their bin's."""
LOG_SIZE_RANGE = 7.0
"""The expected size of a residual stays within e^+-7 of standardised data."""
NO_GUIDANCE = (
    "this model does not learn to be without its condition; train it with feature_drop above 0 where it has a codec, "
    "else on data with labels and with condition_drop above 0"
)


@dataclass(frozen=True)
class Config:
    """What every flow family reads; a family's own Config adds what its objective needs."""

    network: str
    latent_dim: int
    """Per frame, before the quantiser; the bitrate does not depend on it. Ignored where encoder is absent, as are the
    codec's other numbers: width, depth, quantiser ... commitment_weight, flow_start, heard_*, feature_drop."""
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
    beam_size: int = 16
    """rvq: prefixes kept while compressing; 0.6 dB of SI-SDR over 1, for encoding alone."""
    quantiser_start: float = 0.15
    """Share of the training before an rvq's codebooks are placed; until then latents pass unquantised."""
    compand_power: float = 0.35
    mel_weight: float = 0.03
    commitment_weight: float = 1.0
    flow_width: int = 128
    flow_depth: int = 3
    flow_start: float = 0.5
    """Share of the training before the flow begins."""
    encoder: Literal["joint", "frozen", "absent"] = "joint"
    """frozen: from flow_start on, encoder, quantiser and direct decoder stop and the flow alone learns; joint: they
    go on, the flow beside them; either way the flow's gradient ends at the features. absent: there is no codec and no
    latent, the flow makes the data themselves from noise and class labels."""
    heard_weight: float = 5.0
    """Of the mel distance between the data and a one-step sample, the autoencoder's auxiliary loss on what is heard."""
    heard_temperature: float = 0.2
    """Of that sample; decode with a temperature near it."""
    condition_drop: float = 0.1
    """Share of clips that learn without their condition."""
    feature_drop: float = 0.0
    """With a codec: share of clips that learn y and w but not the features; what guidance leads away from."""
    least_std: float = 0.01
    """absent: a bin's standard deviation counts as at least this share of the largest; of rare pixels it is tiny."""

    def __post_init__(self) -> None:
        if found := problems(self):
            raise ValueError("\n".join(found))


def problems(config: Config) -> list[str]:
    """What is wrong with the fields that all flows share."""
    found = [] if config.encoder == "absent" else codec.problems(config)
    for name in ("flow_width", "flow_depth"):
        if getattr(config, name) < 1:
            found.append(f"{name} = {getattr(config, name)}: expected at least 1")
    return found + not_shares(config, "flow_start", "condition_drop", "feature_drop", "least_std")


def not_shares(config: Config, *names: str) -> list[str]:
    """Which of these fields do not lie within 0 and 1."""
    values = {name: getattr(config, name) for name in names}
    return [f"{name} = {value}: expected 0 to 1" for name, value in values.items() if not 0 <= value <= 1]


def mean_problems(config: Any) -> list[str]:
    """What is wrong with the fields that the mean flows add."""
    found = not_shares(config, "fraction_equal", "guidance_low", "guidance_high")
    if config.guidance_low > config.guidance_high:
        found.append(f"guidance_low = {config.guidance_low}: expected at most guidance_high = {config.guidance_high}")
    if config.guidance_mix >= 1:
        found.append(f"guidance_mix = {config.guidance_mix}: expected less than 1")
    return found


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn."""

    num_steps: int = 1
    """From noise to data."""
    temperature: float = 1.0
    """Standard deviation of the noise a sample starts from; with a codec only when decoding, new clips start from 1."""
    guidance: float = 1.0
    """Scale of classifier-free guidance, which asks the network twice; 1: none."""
    guidance_low: float = 0.0
    guidance_high: float = 1.0
    """Guided are the steps that start at a time from low to high; noise is at 1."""

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.temperature < 0:
            raise ValueError(f"{self}: expected num_steps at least 1 and temperature at least 0")
        if not 0 <= self.guidance_low <= self.guidance_high <= 1:
            raise ValueError(f"{self}: expected 0 <= guidance_low <= guidance_high <= 1")


Objective = Callable[[Lesson], Errors]
Sampler = Callable[[paths.AverageVelocity, Tensor, Any], Tensor]
"""sample(u, e [B, ...], the family's Sampling) -> x."""


class Residual(nn.Module):
    """x = (data / s - y) / w, what a codec's guess leaves open in units of its expected size."""

    def __init__(self, config: Config, spec: Spec, statistics: Statistics, signal: Callable[[Masked], Masked]) -> None:
        super().__init__()
        self.config = config
        self.codec = Codec(config, spec, statistics, signal)
        self.latent, self.codes = self.codec.latent, self.codec.codes
        (frame,) = spec.data.frame
        self.num_features = config.width + frame
        self.log_size = nn.Linear(config.width, frame)
        with torch.no_grad():
            self.log_size.bias.copy_(torch.log(USUAL_SHARE * self.codec.standardise.std))
        self.nothing = nn.Parameter(torch.zeros(config.width))
        self.guessing = True

    @property
    def withholds(self) -> bool:
        """Whether the flow learns what it is to be without the features."""
        return self.config.feature_drop > 0

    def begin_step(self, step: int, num_steps: int) -> bool:
        """Freeze and thaw; returns whether the flow learns."""
        if step >= int(self.config.quantiser_start * num_steps):
            self.codec.bottleneck.start()
        flowing = step >= int(self.config.flow_start * num_steps)
        self.guessing = not (flowing and self.config.encoder == "frozen")
        self.codec.requires_grad_(self.guessing)
        self.log_size.requires_grad_(flowing)
        self.nothing.requires_grad_(flowing)
        return flowing

    def learn(self, batch: Batch, flowing: bool) -> Ground:
        """The codec's loss and, where the flow learns, the loss of the expected size and the flow's frames."""
        self.codec.bottleneck.train(self.training and self.guessing)  # frozen: the codebooks rest too
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.guessing):
            learned = self.codec.learn(batch.data)
        loss, terms = learned.loss, dict(learned.terms)
        criterion = terms["noise_to_signal_nats"] + self.config.mel_weight * terms["mel_distance"]
        whole = self.codec.standardise(batch.data.value)
        if not flowing:
            return Ground(loss, terms, criterion, whole, None)
        y, features, mask = learned.guess.detach(), learned.features.detach(), batch.data.mask
        log_size = self.expected_log_size(features)
        actual = ((whole - y).abs() + math.exp(-LOG_SIZE_RANGE)).log()
        surprise = per_cell(((log_size - actual).abs() * mask.unsqueeze(-1)).flatten(1).sum(1), mask, whole)
        terms["residual_size_error_nats"] = surprise.detach()
        frames = self.frames(y, log_size.detach().exp(), features, mask)
        return Ground(loss + surprise, terms, criterion + surprise.detach(), whole, frames)

    def expected_log_size(self, features: Tensor) -> Tensor:
        """Ln of the residual's expected absolute value, [B, T, F]."""
        return wide(self.log_size(features)).clamp(-LOG_SIZE_RANGE, LOG_SIZE_RANGE)

    def frames(self, y: Tensor, size: Tensor, features: Tensor, mask: Tensor) -> Frames:
        """With the features, with the guess alone, and with nothing."""
        nothing, usual = self.nothing.to(features.dtype).expand_as(features), self.codec.standardise.std.expand_as(y)
        untold = Context(mask, torch.cat([nothing, torch.zeros_like(y)], dim=-1))
        told = Context(mask, torch.cat([features, y / size], dim=-1))
        without = Context(mask, torch.cat([nothing, y / size], dim=-1))
        return Frames(Frame(y, size, told), without, Frame(torch.zeros_like(y), usual, untold))

    def hear(self, asked: Asked, sample: OneStep, batch: Batch, told: Frame) -> Heard:
        """The mel distance of a one-step sample at `heard_temperature` to the data, weighted."""
        if self.training and self.config.heard_weight == 0:
            return Heard(batch.data.value.new_zeros(len(batch.ids)), {})
        e = times.normal(batch.seeds, tuple(told.mean.shape[1:]), HEARD).to(told.mean) * batch.data.mask.unsqueeze(-1)
        residual = sample(asked(told.context), self.config.heard_temperature * e)
        sound = told.mean + told.size * residual
        heard = self.codec.mel_distance(sound, batch.data, losses.FAINT_FLOOR)
        return Heard(self.config.heard_weight * heard, {"mel_distance_sample": heard.detach()})

    def given(self, request: Request, mask: Tensor) -> Frames:
        """What the request's latent says, or nothing for clips without one."""
        known = self.decoding(request).to(mask.device)
        if known.any():
            given = given_latent(request, self.config.latent_dim)
            features = self.codec.decoder.features(given.value, given.mask)
            y, size = self.codec.decoder(features, given.mask), self.expected_log_size(features).exp()
        else:
            features = self.nothing.expand(*mask.shape, -1)
            y = size = self.codec.standardise.std.expand(*mask.shape, -1)
        said = self.frames(y, size, features, mask)
        told, without = said.told.where(known, said.untold), said.without.where(known, said.untold.context)
        return Frames(told, without, said.untold)

    def decoding(self, request: Request) -> Tensor:
        """Bool [B]: the clips that have a latent."""
        latent = request.conditions.get("latent")
        return torch.zeros(len(request.seeds), dtype=torch.bool) if latent is None else latent.mask.any(1)

    def data(self, frame: Frame, x: Tensor) -> Tensor:
        """Flowing x -> data, [B, T, F]; masked where the context says so."""
        return self.codec.standardise.inverse((frame.mean + frame.size * x) * frame.context.mask.unsqueeze(-1))


class ResidualFlow(nn.Module):
    """The ground, the network and the schedule; a family's objective and sampler come as arguments."""

    def __init__(self, config: Config, spec: Spec, statistics: Statistics, signal: Callable[[Masked], Masked]) -> None:
        super().__init__()
        self.config = config
        absent = config.encoder == "absent"
        self.ground = (
            Whole(config.least_std, spec, statistics) if absent else Residual(config, spec, statistics, signal)
        )
        self.latent, self.codes = self.ground.latent, self.ground.codes
        network = plugins.load("networks", config.network)
        trunk = network(config.flow_width, config.flow_depth, config.dropout, MODULATION_WIDTH)
        (frame,) = spec.data.frame
        self.velocity = AverageVelocity(frame, self.ground.num_features, config.flow_width, trunk)
        self.flowing = True

    @property
    def codec(self) -> Codec:
        """Where there is one, which makes the latent."""
        assert isinstance(self.ground, Residual), "encoder: absent has no codec"
        return self.ground.codec

    def begin_step(self, step: int, num_steps: int) -> None:
        self.flowing = self.ground.begin_step(step, num_steps)
        self.velocity.requires_grad_(self.flowing)

    def require_withholding(self, setting: str) -> None:
        """ValueError where the network never learns what it is to be without its condition, so none can guide it."""
        if not self.ground.withholds or (self.config.encoder == "absent" and self.config.condition_drop == 0):
            raise ValueError(f"{setting}: {NO_GUIDANCE}")

    def asked(self, context: Context) -> paths.AverageVelocity:
        """The network, told this."""
        return lambda z, r, t: self.velocity(z, r, t, context)

    def loss(self, batch: Batch, objective: Objective, sample: OneStep) -> Loss:
        """The codec's loss and the flow's, each from when the schedule says."""
        ground = self.ground.learn(batch, self.flowing or not self.training)
        total, terms, criterion = ground.loss, dict(ground.terms), ground.criterion
        if ground.frames is not None:
            errors = objective(self.lesson(batch, ground.whole, ground.frames))
            heard = self.ground.hear(self.asked, sample, batch, ground.frames.told)
            raw = {"flow_error": errors.error, **errors.terms}
            raw = {name: per_cell(error, batch.data.mask, ground.whole) for name, error in raw.items()}
            nats = (raw["flow_error"] + 1e-9).log()
            terms |= {**raw, "flow_error_nats": nats, **heard.terms}
            total, criterion = total + errors.loss + heard.loss, criterion + nats
        return Loss(total, terms | {"validation_nats": criterion}, criterion="validation_nats")

    def lesson(self, batch: Batch, whole: Tensor, frames: Frames) -> Lesson:
        """The data in the frames' units, noise, and a condition that is dropped as often as the config says."""
        seeds, device = batch.seeds, whole.device
        dropped = (times.uniform(seeds, DROP) < self.config.condition_drop).to(device)
        hidden = (times.uniform(seeds, HIDE) < self.config.feature_drop).to(device) & ~dropped
        frame, present = frames.untold.where(dropped, frames.told), batch.data.mask.unsqueeze(-1)
        without = frames.untold.context.where(dropped, frames.without)
        context = without.where(hidden, frame.context)
        x = (whole - frame.mean) / frame.size * present
        e = times.normal(seeds, tuple(x.shape[1:]), NOISE).to(x) * present
        return Lesson(x, e, seeds, context, without, ~(dropped | hidden))

    def generate(self, request: Request, sampling: Any, sample: Sampler) -> Masked:
        if sampling.guidance != 1:
            self.require_withholding(f"guidance = {sampling.guidance}")
        device = next(self.parameters()).device
        steps = request.num_steps.to(device)
        mask = torch.arange(int(steps.max()) if len(steps) else 0, device=device) < steps.unsqueeze(1)
        frames = self.ground.given(request, mask)
        told, decoding = frames.told, self.ground.decoding(request).to(device)
        temperature = torch.where(decoding, sampling.temperature, 1.0).reshape(-1, 1, 1)
        e = times.normal(request.seeds, tuple(told.mean.shape[1:]), NOISE).to(told.mean)
        u = guided(self.asked(told.context), self.asked(frames.without), sampling)
        x = sample(u, e * mask.unsqueeze(-1) * temperature, sampling)
        return Masked(self.ground.data(told, x), mask)


def guided(told: paths.AverageVelocity, without: paths.AverageVelocity, sampling: Sampling) -> paths.AverageVelocity:
    interval = guidance.Interval(sampling.guidance_low, sampling.guidance_high)
    return guidance.guide(told, without, sampling.guidance, interval)


def training_guidance(config: Any, flow: ResidualFlow) -> TrainingGuidance:
    """What a mean flow's config says; ValueError where the model could not follow it."""
    interval = guidance.Interval(config.guidance_low, config.guidance_high)
    found = TrainingGuidance(config.guidance_weight, config.guidance_mix, interval)
    if not found.none:
        flow.require_withholding(f"guidance_weight = {found.weight}, guidance_mix = {found.mix}")
    return found


def num_calls(sampling: Any, sample: Sampler) -> int:
    """How often the sampler asks the network for one clip: counted, not derived."""
    calls = []

    def u(z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        calls.append(t)
        return torch.zeros_like(z)

    sample(guided(u, u, sampling), torch.zeros(1, 1), sampling)
    return len(calls)


def per_cell(total: Tensor, mask: Tensor, like: Tensor) -> Tensor:
    """Sums per clip [B] -> means over the cells of `like` [B, T, F] that exist."""
    return total / (mask.sum(1) * like.shape[-1]).clamp_min(1)
