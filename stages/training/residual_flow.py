"""What the flow families share: when the flow learns, what it is told, and how samples are made of what flows.

    data = s (y + w x);   x flows:  z_t = (1 - t) x + t e;   a family brings the objective and the sampler
    L = what learns beside the flow + objective(x) + what samples sound like

Two grounds say what x is. With a codec (`encoder` joint or frozen, training/residual.py) x is what its guess y leaves
open, in units of its expected size w: the flow adds what squared errors wash out, chiefly faint high bands. Without one
(absent, training/ground.py) x is the data, each bin standardised, given class labels. In `condition_drop` of the clips
the condition is dropped, so that the flow also generates from noise alone.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stages.numerics import guidance, paths, times
from stages.pipeline import plugins
from stages.protocols.model import Batch, Loss, Masked, Request
from stages.protocols.spec import Spec, Statistics
from stages.training import codec
from stages.training.codec import Codec, not_shares
from stages.training.ground import DROP, HIDE, NOISE, TIMES, Frames, OneStep, Whole, per_cell
from stages.training.residual import Residual
from stages.training.velocity import MODULATION_WIDTH, AverageVelocity, Context, Errors, Lesson, TrainingGuidance

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
    beam_size: int = 8
    """rvq: prefixes kept while compressing; more find better codes and cost encoding time alone."""
    quantiser_start: float = 0.15
    """Share of the training before an rvq's codebooks are placed; until then latents pass unquantised."""
    postfilter_width: int = 32
    """Channels of the network that keeps what lasts (networks/postfilter.py); 0: none."""
    postfilter_share: float = 1.0
    """Of a crop's frames, the first, that it and the mel distance learn from; a third costs a quarter less a step."""
    compand_power: float = 0.35
    mel_weight: float = 0.1
    commitment_weight: float = 1.0
    flow_width: int = 192
    flow_depth: int = 3
    flow_start: float = 0.35
    """Share of the training before the flow begins."""
    encoder: Literal["joint", "frozen", "absent"] = "joint"
    """frozen: from flow_start on, encoder, quantiser and direct decoder stop and the flow alone learns; joint: they
    go on, the flow beside them; either way the flow's gradient ends at the features. absent: there is no codec and no
    latent, the flow makes the data themselves from noise and class labels."""
    heard_weight: float = 10.0
    """Of the mel distance between the data and a one-step sample, the autoencoder's auxiliary loss on what is heard."""
    heard_temperature: float = 0.2
    """Of that sample; decode with a temperature near it."""
    heard_share: float = 1.0
    """Of a crop's frames, the first, that this distance is taken of."""
    condition_drop: float = 0.1
    """Share of clips that learn without their condition."""
    feature_drop: float = 0.0
    """With a codec: share of clips that learn y and w but not the features; what guidance leads away from."""
    fraction_uniform: float = 0.0
    """Share of clips whose times are uniform, not logit-normal: more come near the ends, which one step asks for."""
    least_std: float = 0.01
    """absent: a bin's standard deviation counts as at least this share of the largest; of rare pixels it is tiny."""

    def __post_init__(self) -> None:
        if found := problems(self):
            raise ValueError("\n".join(found))


@dataclass(frozen=True)
class MeanConfig(Config):
    """What both mean flows read besides: which jumps they learn, and how they are guided."""

    fraction_equal: float = 0.7
    """Share of clips with r = t, which learn the instantaneous velocity and need no JVP."""
    fraction_to_data: float = 0.0
    """Share of the other clips whose r is 0: they learn the jumps to the data, which are those of one step."""
    jump_start: float = 0.0
    """Share of the training before which all clips have r = t and no sample is heard: jumps are easier to learn once
    the velocities are. Choose weights after it (select_after)."""
    guidance_weight: float = 1.0
    """w: how much of the data's own velocity v~ holds; above 1 it leads away from the unconditional."""
    guidance_mix: float = 0.0
    """k: how much of the network's conditional velocity; the scale of guidance is w / (1 - k)."""
    guidance_low: float = 0.0
    guidance_high: float = 1.0
    """Guided are clips whose t lies from low to high."""

    def __post_init__(self) -> None:
        if found := problems(self) + mean_problems(self):
            raise ValueError("\n".join(found))


def problems(config: Config) -> list[str]:
    """What is wrong with the fields that all flows share."""
    found = [] if config.encoder == "absent" else codec.problems(config)
    found += not_shares(config, "postfilter_share", "heard_share", may_be_none=False)
    if config.encoder == "frozen" and config.quantiser == "rvq" and 0 < config.flow_start <= config.quantiser_start:
        late = f"quantiser_start = {config.quantiser_start}, which a frozen encoder would never reach"
        found.append(f"flow_start = {config.flow_start}: expected above {late}")
    for name in ("flow_width", "flow_depth"):
        if getattr(config, name) < 1:
            found.append(f"{name} = {getattr(config, name)}: expected at least 1")
    return found + not_shares(config, "flow_start", "condition_drop", "feature_drop", "fraction_uniform", "least_std")


def parts(config: Config) -> dict[str, dict[str, Any]]:
    """What other models may start from: the whole flow, or its codec where it has one."""
    own = {"network": config.network, "flow_width": config.flow_width, "flow_depth": config.flow_depth}
    if config.encoder == "absent":
        return {"flow": own}
    return {"flow": codec.form(config) | own} | codec.parts(config)


def missing(config: Config) -> list[str]:
    """Why a flow cannot do without another model to start from."""
    if config.encoder != "frozen" or config.flow_start > 0:
        return []
    return [
        "model.encoder = frozen with flow_start = 0 keeps the codec it starts from: name an experiment that has one"
    ]


def mean_problems(config: MeanConfig) -> list[str]:
    """What is wrong with the fields that the mean flows add."""
    found = not_shares(config, "fraction_equal", "fraction_to_data", "guidance_low", "guidance_high")
    if not 0 <= config.jump_start < 1:
        found.append(f"jump_start = {config.jump_start}: expected 0 to below 1, or no jump is ever learnt")
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
    temperature: float | None = None
    """Standard deviation of the noise a sample starts from; with a codec only when decoding, new clips start from 1.
    None: with a codec what was best on validation clips in one step, without one 1."""
    guidance: float = 1.0
    """Scale of classifier-free guidance, which asks the network twice; 1: none."""
    guidance_low: float = 0.0
    guidance_high: float = 1.0
    """Guided are the steps that start at a time from low to high; noise is at 1."""

    def __post_init__(self) -> None:
        if self.num_steps < 1 or (self.temperature is not None and self.temperature < 0):
            raise ValueError(f"{self}: expected num_steps at least 1 and temperature at least 0")
        if not 0 <= self.guidance_low <= self.guidance_high <= 1:
            raise ValueError(f"{self}: expected 0 <= guidance_low <= guidance_high <= 1")


Objective = Callable[[Lesson], Errors]
Sampler = Callable[[paths.AverageVelocity, Tensor, Any], Tensor]
"""sample(u, e [B, ...], the family's Sampling) -> x."""


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
        self.jump_start = config.jump_start if isinstance(config, MeanConfig) else 0.0
        self.flowing = self.jumping = True

    @property
    def codec(self) -> Codec:
        """Where there is one, which makes the latent."""
        assert isinstance(self.ground, Residual), "encoder: absent has no codec"
        return self.ground.codec

    def begin_step(self, step: int, num_steps: int) -> None:
        self.flowing = self.ground.begin_step(step, num_steps)
        self.velocity.requires_grad_(self.flowing)
        self.jumping = step >= int(self.jump_start * num_steps)

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
            raw = {"flow_error": errors.error, **errors.terms}
            raw = {name: per_cell(error, batch.data.mask, ground.whole) for name, error in raw.items()}
            nats = (raw["flow_error"] + 1e-9).log()
            terms |= {**raw, "flow_error_nats": nats}
            total, criterion = total + errors.loss, criterion + nats
            if self.jumping or not self.training:
                heard = self.ground.hear(self.asked, sample, batch, ground.frames.told)
                total, terms = total + heard.loss, {**terms, **heard.terms}
        return Loss(total, terms | {"validation_nats": criterion}, criterion="validation_nats")

    def pairs(self, config: MeanConfig, seeds: Tensor) -> times.Pairs:
        """The mean flows' times, one pair per clip: only r = t until jumps are learnt, in validation never only."""
        equal = config.fraction_equal if self.jumping or not self.training else 1.0
        return times.logit_normal_pairs(seeds, equal, TIMES, config.fraction_uniform, config.fraction_to_data)

    def calibrate(self, batches: Iterable[Batch], sample: OneStep) -> Mapping[str, float]:
        """Choose on validation clips what decoding starts from."""
        return self.ground.calibrate(self.asked, sample, batches)

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
        chosen = self.ground.temperature if sampling.temperature is None else sampling.temperature
        temperature = torch.where(decoding, chosen, 1.0).reshape(-1, 1, 1)
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
