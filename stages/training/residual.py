"""What a codec leaves open, as the ground of a flow: in units of its expected size, told the codec's features.

    y = D(q), features of q;   x = (data / s - y) / w,   w = exp(W features): its usual size
    L_size = |ln w - ln a|,   a = |data / s - y|       least where w is the median of a
    L_heard = heard_weight * mel(s (y + w x^), data)     x^ a one-step sample from heard_temperature * noise

The codec learns exactly as alone: the flow's gradient ends at the features. Where the condition is dropped nothing is
known: no features, y = 0, w the data's own size; so the flow also generates from noise alone.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from stages.networks.bottleneck import given_latent
from stages.numerics import times
from stages.numerics.precision import wide
from stages.protocols.model import Batch, Masked, Request
from stages.protocols.spec import Spec, Statistics
from stages.training.codec import Codec, first
from stages.training.ground import HEARD, Asked, Frame, Frames, Ground, Heard, OneStep, per_cell
from stages.training.velocity import Context

USUAL_SHARE = 0.1
"""Of a bin's standard deviation: where the residual's expected size starts; most cells are far below their bin's."""
TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
MOST_LOST_DB = 1.2
"""Of the signal-to-distortion ratio, for what temperature brings to the ear."""
NEVER_PLACED = (
    "encoder = frozen, but its codebooks were never placed: start from an experiment with a codec, or let flow_start "
    "be above quantiser_start"
)
LOG_SIZE_RANGE = 7.0
"""The expected size of a residual stays within e^+-7 of standardised data."""


class Residual(nn.Module):
    """x = (data / s - y) / w, what a codec's guess leaves open in units of its expected size."""

    temperature: Tensor
    """Of decoding, unless Sampling says another."""

    def __init__(self, config: Any, spec: Spec, statistics: Statistics, signal: Callable[[Masked], Masked]) -> None:
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
        self.register_buffer("temperature", torch.ones(()))
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
        if not (self.guessing or self.codec.bottleneck.placed):
            raise ValueError(NEVER_PLACED)
        self.codec.requires_grad_(self.guessing)
        self.log_size.requires_grad_(flowing)
        self.nothing.requires_grad_(flowing)
        return flowing

    def learn(self, batch: Batch, flowing: bool) -> Ground:
        """The codec's loss and, where the flow learns, the loss of the expected size and the flow's frames.

        Of a codec that rests validation alone knows the loss, which never changes: training saves its time.
        """
        mask, whole = batch.data.mask, self.codec.standardise(batch.data.value)
        self.codec.train(self.training and self.guessing)  # frozen: the codebooks rest too
        if self.training and not self.guessing:
            decoded = self.codec.decoded(batch.data)
            nothing = whole.new_zeros(len(whole))
            return self.left_open(Ground(nothing, {}, nothing, whole, None), decoded.features, decoded.guess, mask)
        learned = self.codec.learn(batch.data, self.config.postfilter_share)
        ground = Ground(learned.loss, learned.terms, learned.criterion, whole, None)
        if not flowing:
            return ground
        return self.left_open(ground, learned.features.detach(), self.codec.guess(learned, mask), mask)

    def left_open(self, before: Ground, features: Tensor, y: Tensor, mask: Tensor) -> Ground:
        """What the codec leaves open: the loss of its expected size beside the codec's own, and the flow's frames."""
        log_size = self.expected_log_size(features)
        actual = ((before.whole - y).abs() + math.exp(-LOG_SIZE_RANGE)).log()
        surprise = per_cell(((log_size - actual).abs() * mask.unsqueeze(-1)).flatten(1).sum(1), mask, before.whole)
        told = surprise.detach()
        return Ground(
            before.loss + surprise,
            {**before.terms, "residual_size_error_nats": told},
            before.criterion + told,
            before.whole,
            self.frames(y, log_size.detach().exp(), features, mask),
        )

    def expected_log_size(self, features: Tensor) -> Tensor:
        """Ln of the median of the residual's absolute value, [B, T, F]."""
        return wide(self.log_size(features)).clamp(-LOG_SIZE_RANGE, LOG_SIZE_RANGE)

    def frames(self, y: Tensor, size: Tensor, features: Tensor, mask: Tensor) -> Frames:
        """With the features, with the guess alone, and with nothing."""
        nothing, usual = self.nothing.to(features.dtype).expand_as(features), self.codec.standardise.std.expand_as(y)
        untold = Context(mask, torch.cat([nothing, torch.zeros_like(y)], dim=-1))
        told = Context(mask, torch.cat([features, y / size], dim=-1))
        without = Context(mask, torch.cat([nothing, y / size], dim=-1))
        return Frames(Frame(y, size, told), without, Frame(torch.zeros_like(y), usual, untold))

    def calibrate(self, asked: Asked, sample: OneStep, batches: Iterable[Batch]) -> Mapping[str, float]:
        """Set the temperature of the least mel distance among those that cost at most MOST_LOST_DB over the guess."""
        heard, noise_db = dict.fromkeys(TEMPERATURES, 0.0), dict.fromkeys(TEMPERATURES, 0.0)
        guess_db, num_clips = 0.0, 0
        for batch in batches:
            ground = self.learn(batch, flowing=True)
            assert ground.frames is not None, "the flow is asked for"
            guess_db += float(ground.terms["noise_to_signal_db"].sum())
            num_clips += len(batch.ids)
            for temperature in TEMPERATURES:
                sound = self.sound(asked, sample, batch, ground.frames.told, temperature)
                heard[temperature] += float(self.codec.mel_distance(sound, batch.data).sum())
                noise_db[temperature] += float(self.codec.distortion(sound, batch.data).noise_to_signal_db.sum())
        if not num_clips or self.codec.frame_rate_hz is None:  # nothing was heard
            return {}
        most_db = guess_db + MOST_LOST_DB * num_clips
        allowed = [temperature for temperature in TEMPERATURES if noise_db[temperature] <= most_db]
        self.temperature.fill_(min(allowed or TEMPERATURES[:1], key=lambda temperature: heard[temperature]))
        return {"temperature": round(float(self.temperature), 6)}

    def hear(self, asked: Asked, sample: OneStep, batch: Batch, told: Frame) -> Heard:
        """The mel distance of a one-step sample at `heard_temperature` to the data, weighted; of the first frames."""
        config = self.config
        if self.training and config.heard_weight == 0:
            return Heard(batch.data.value.new_zeros(len(batch.ids)), {})
        data = first(batch.data, config.heard_share if self.training else 1.0)
        sound = self.sound(asked, sample, replace(batch, data=data), told.first(data.mask), config.heard_temperature)
        heard = self.codec.mel_distance(sound, data)
        return Heard(config.heard_weight * heard, {"mel_distance_sample": heard.detach()})

    def sound(self, asked: Asked, sample: OneStep, batch: Batch, told: Frame, temperature: float) -> Tensor:
        """One-step samples from so much noise, standardised [B, T, F]."""
        e = times.normal(batch.seeds, tuple(told.mean.shape[1:]), HEARD).to(told.mean) * batch.data.mask.unsqueeze(-1)
        return told.mean + told.size * sample(asked(told.context), temperature * e)

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
