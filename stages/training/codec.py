"""What codec families share: frames -> quantised latent -> the best single guess, and the loss that teaches it.

    z = E(x / s),   q = Q(z),   y' = D(q),   y = P(sg[y']),   s = std^compand_power per bin
    L = ln(|s y - x|^2 / |x|^2) + mel_weight * mel(s y, x) + commitment_weight * |z - sg[q]|^2 / |z|^2
        + ln(|s y' - x|^2 / |x|^2)

P is networks/postfilter.py; its gradient ends at y', so that E, Q and D learn to be exact by themselves, and mel is the
filter's to learn (where there is none, y = y' learns both and the last term falls away).
s makes loud bins count more without hiding the weak ones. The first term is the error in the data's own units, whose
negative is the signal-to-distortion ratio; mel is heard through `signal`. Squared errors make y the mean of what q
leaves open: faint, noisy bins are reproduced as silence.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from stages.networks.bottleneck import Bottleneck, Coding, Decoder, Encoder
from stages.networks.standardise import Standardise
from stages.pipeline import plugins
from stages.protocols.model import Batch, Masked
from stages.protocols.spec import Field, Spec, Statistics
from stages.training import losses

COUNTS = ("latent_dim", "width", "depth", "num_codebooks", "frames_per_code", "code_dim", "beam_size")
FORM = (
    "network",
    "width",
    "depth",
    "latent_dim",
    "quantiser",
    "num_codebooks",
    "codebook_size",
    "frames_per_code",
    "code_dim",
    "postfilter_width",
    "compand_power",
)
"""The fields that decide what weights there are, and what they are made for."""


def form(config: Any) -> dict[str, Any]:
    """The fields of a family's Config in which two codecs must agree to exchange weights."""
    return {name: getattr(config, name) for name in FORM}


def parts(config: Any) -> dict[str, dict[str, Any]]:
    """What other models may start from."""
    return {"codec": form(config)}


def problems(config: Any) -> list[str]:
    """What is wrong with the codec fields of a family's Config."""
    found = [f"{name} = {getattr(config, name)}: expected at least 1" for name in COUNTS if getattr(config, name) < 1]
    if config.codebook_size < 2:
        found.append(f"codebook_size = {config.codebook_size}: expected at least 2")
    if config.postfilter_width < 0:
        found.append(f"postfilter_width = {config.postfilter_width}: expected at least 0")
    if not 0 <= config.quantiser_start < 1:
        found.append(f"quantiser_start = {config.quantiser_start}: expected 0 to below 1")
    return found


def not_shares(config: Any, *names: str, may_be_none: bool = True) -> list[str]:
    """Which of these fields do not lie within 0 and 1, or are 0 where there must be something to learn from."""
    values = {name: getattr(config, name) for name in names}
    expected = "0 to 1" if may_be_none else "above 0, to 1"
    wrong = {name: value for name, value in values.items() if not 0 <= value <= 1 or (value == 0 and not may_be_none)}
    return [f"{name} = {value}: expected {expected}" for name, value in wrong.items()]


@dataclass(frozen=True)
class Decoded:
    """A batch through a codec that rests."""

    features: Tensor  # of the quantised latent [B, T, width]
    guess: Tensor  # y, standardised [B, T, F]


@dataclass(frozen=True)
class Learned:
    """A batch through the codec."""

    loss: Tensor  # [B]
    terms: Mapping[str, Tensor]  # [B] each, detached
    criterion: Tensor  # [B], detached: what validation compares
    features: Tensor  # of the quantised latent [B, T, width]
    rough: Tensor  # y', standardised [B, T, F]
    guess: Tensor  # y of the frames that the filter learned from [B, T', F]


class Codec(nn.Module):
    """Encoder, bottleneck and direct decoder on frames of real numbers; `config` is the family's."""

    def __init__(self, config: Any, spec: Spec, statistics: Statistics, signal: Callable[[Masked], Masked]) -> None:
        super().__init__()
        if len(spec.data.frame) != 1 or spec.data.num_classes is not None:
            raise ValueError(f"a codec needs frames of real numbers, this representation has {spec.data}")
        self.config, self.signal, (frame,) = config, signal, spec.data.frame
        rate = spec.data.rate_hz
        self.frame_rate_hz = rate if spec.clip == "audio" else None
        network = plugins.load("networks", config.network)
        size = (config.width, config.depth, config.dropout, None)
        self.standardise = Standardise(statistics, config.compand_power)
        self.encoder = Encoder(frame, config.width, config.latent_dim, network(*size))
        coding = {name: getattr(config, name) for name in Coding.__dataclass_fields__}
        self.bottleneck = Bottleneck(Coding(**coding))
        self.decoder = Decoder(config.latent_dim, config.width, frame, network(*size), config.postfilter_width)
        assert statistics.std is not None and statistics.mean is not None, "real data have both"
        self.power_per_step = float((statistics.std**2 + statistics.mean**2).sum())
        self.latent = Field((config.latent_dim,), rate_hz=rate)
        codes = self.bottleneck.codes
        self.codes = codes and replace(codes, rate_hz=rate and rate / config.frames_per_code)

    def learn(self, data: Masked, share: float = 1.0) -> Learned:
        """The loss, and what a decoder on top needs; in training the filter learns from this share of the frames."""
        narrowed = self.bottleneck(self.encoder(self.standardise(data.value), data.mask), data.mask)
        features = self.decoder.features(narrowed.value, data.mask)
        rough = self.decoder.rough(features, data.mask)
        loss = self.config.commitment_weight * narrowed.commitment
        part = data
        if self.decoder.postfilter is not None:
            loss = loss + self.distortion(rough, data).loss
            part = first(data, share if self.training else 1.0)
        heard = rough[:, : part.mask.shape[1]] * part.mask.unsqueeze(-1)
        guess = self.decoder.refined(heard, part.mask)
        distortion, mel = self.distortion(guess, part), self.mel_distance(guess, part)
        criterion = distortion.loss + self.config.mel_weight * mel
        terms = {
            "noise_to_signal_db": distortion.noise_to_signal_db,
            "noise_to_signal_nats": distortion.loss.detach(),
            "mel_distance": mel.detach(),
            "commitment": narrowed.commitment.detach(),
            **narrowed.terms,
        }
        return Learned(loss + criterion, terms, criterion.detach(), features, rough, guess)

    @torch.no_grad()
    def decoded(self, data: Masked) -> Decoded:
        """What a decoder on top needs, where the codec itself learns nothing."""
        narrowed = self.bottleneck(self.encoder(self.standardise(data.value), data.mask), data.mask)
        features = self.decoder.features(narrowed.value, data.mask)
        return Decoded(features, self.decoder(features, data.mask))

    def guess(self, learned: Learned, mask: Tensor) -> Tensor:
        """The guess for all frames, without a gradient."""
        if learned.guess.shape == learned.rough.shape:
            return learned.guess.detach()
        with torch.no_grad():
            return self.decoder.refined(learned.rough, mask)

    def distortion(self, standardised: Tensor, data: Masked) -> losses.Distortion:
        """Of standardised frames, in the data's own units."""
        return losses.distortion(
            self.standardise.inverse(standardised), data.value, data.mask.sum(1), self.power_per_step
        )

    def mel_distance(self, standardised: Tensor, data: Masked) -> Tensor:
        """Between what standardised frames and the data sound like, [B]; 0 where the data are not audio."""
        if self.frame_rate_hz is None:
            return standardised.new_zeros(len(standardised))
        with torch.no_grad():
            target = self.signal(data)
        sound = self.signal(Masked(self.standardise.inverse(standardised), data.mask))
        rate_hz = self.frame_rate_hz * target.value.shape[1] / data.value.shape[1]
        return losses.mel_distance(sound.value, target.value, target.mask, rate_hz)

    def encode(self, batch: Batch) -> Masked:
        mask = batch.data.mask
        return Masked(self.encoder(self.standardise(batch.data.value), mask), mask)

    def quantise(self, z: Masked) -> Masked:
        return Masked(self.bottleneck.quantise(z.value, z.mask), self.bottleneck.stack_mask(z.mask))

    def dequantise(self, codes: Masked) -> Masked:
        value = self.bottleneck.dequantise(codes.value, codes.mask)
        return Masked(value, codes.mask.repeat_interleave(self.config.frames_per_code, dim=1))


def first(frames: Masked, share: float) -> Masked:
    """The beginning of every clip, so great a share of its frames [B, T, F]."""
    if share == 1:
        return frames
    length = (share * frames.mask.sum(1)).ceil().long()
    steps = torch.arange(int(length.max()), device=length.device)
    mask = steps < length.unsqueeze(1)
    return Masked(frames.value[:, : len(steps)] * mask.unsqueeze(-1), mask)
