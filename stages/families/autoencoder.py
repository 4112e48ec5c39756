"""Autoencoder: frames -> quantised latent -> frames, the best single guess.

    z = E(x / s),   q = Q(z),   y = s D(q)
    L = ln(|y - x|^2 / |x|^2) + mel_weight * mel(y, x) + commitment_weight * |z - sg[q]|^2 / |z|^2

s is std^0.35 per bin, so that loud bins count more without hiding the weak ones. The first term is the error in the
data's own units, whose negative is the signal-to-distortion ratio; mel is heard through `signal`. Squared errors make y
the mean of what q leaves open: faint, noisy bins are reproduced as silence. High Fidelity Neural Audio Compression,
Défossez et al., 2022, https://arxiv.org/abs/2210.13438; MDCTCodec, Jiang et al., 2024, https://arxiv.org/abs/2411.00464.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch

from stages.networks.bottleneck import Bottleneck, Coding, Decoder, Encoder, given_latent
from stages.networks.standardise import Standardise
from stages.pipeline import plugins
from stages.protocols.model import Batch, GenerativeModel, Loss, Masked, Request
from stages.protocols.spec import Field, Spec, Statistics
from stages.training import losses


@dataclass(frozen=True)
class AutoencoderConfig:
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
    beam_size: int = 16
    """rvq: prefixes kept while compressing; 0.6 dB of SI-SDR over 1, for encoding alone."""
    quantiser_start: float = 0.15
    """Share of the training before an rvq's codebooks are placed; until then latents pass unquantised."""
    compand_power: float = 0.35
    mel_weight: float = 0.1
    commitment_weight: float = 1.0

    def __post_init__(self) -> None:
        names = ("latent_dim", "width", "depth", "num_codebooks", "frames_per_code", "code_dim", "beam_size")
        problems = [f"{name} = {getattr(self, name)}: expected at least 1" for name in names if getattr(self, name) < 1]
        if self.codebook_size < 2:
            problems.append(f"codebook_size = {self.codebook_size}: expected at least 2")
        if not 0 <= self.quantiser_start <= 1:
            problems.append(f"quantiser_start = {self.quantiser_start}: expected 0 to 1")
        if problems:
            raise ValueError("\n".join(problems))


class Autoencoder(GenerativeModel):
    Config = AutoencoderConfig

    @dataclass(frozen=True)
    class Sampling:
        """Decoding is a function of the codes: there is nothing to choose."""

    needs = frozenset({"latent"})

    def __init__(
        self, config: AutoencoderConfig, spec: Spec, statistics: Statistics, signal: Callable[[Masked], Masked]
    ) -> None:
        super().__init__(config, spec, statistics, signal)
        if len(spec.data.frame) != 1 or spec.data.num_classes is not None:
            raise ValueError(f"autoencoder codes frames of real numbers, this representation has {spec.data}")
        self.config, self.signal, (frame,) = config, signal, spec.data.frame
        rate = spec.data.rate_hz
        self.sample_rate_hz = None if rate is None or spec.clip != "audio" else rate * frame
        network = plugins.load("networks", config.network)
        size = (config.width, config.depth, config.dropout, None)
        self.standardise = Standardise(statistics, config.compand_power)
        self.encoder = Encoder(frame, config.width, config.latent_dim, network(*size))
        self.bottleneck = Bottleneck(
            Coding(
                config.latent_dim,
                config.frames_per_code,
                config.code_dim,
                config.quantiser,
                config.num_codebooks,
                config.codebook_size,
                config.beam_size,
            )
        )
        self.decoder = Decoder(config.latent_dim, config.width, frame, network(*size))
        self.power_per_step = float((statistics.std**2 + statistics.mean**2).sum())  # pyright: ignore
        self.latent = Field((config.latent_dim,), rate_hz=rate)
        codes = self.bottleneck.codes
        self.codes = codes and replace(codes, rate_hz=rate and rate / config.frames_per_code)

    def begin_step(self, step: int, num_steps: int) -> None:
        if step >= int(self.config.quantiser_start * num_steps):
            self.bottleneck.start()

    def loss(self, batch: Batch, player: str, step: int) -> Loss:
        x, mask = batch.data.value, batch.data.mask
        narrowed = self.bottleneck(self.encoder(self.standardise(x), mask), mask)
        y = self.decode(narrowed.value, mask)
        distortion = losses.distortion(y, x, self.power_per_step)
        mel = self.mel_distance(y, batch.data)
        total = distortion.loss + self.config.mel_weight * mel + self.config.commitment_weight * narrowed.commitment
        terms = {"noise_to_signal_db": distortion.noise_to_signal_db, "mel_distance": mel.detach()}
        terms |= {"commitment": narrowed.commitment.detach(), **narrowed.terms}
        return Loss(total, terms, criterion="noise_to_signal_db")

    def mel_distance(self, y: torch.Tensor, data: Masked) -> torch.Tensor:
        """Between what y and the data sound like, [B]; 0 where the data are not audio."""
        if self.sample_rate_hz is None:
            return y.new_zeros(len(y))
        with torch.no_grad():
            target = self.signal(data)
        return losses.mel_distance(
            self.signal(Masked(y, data.mask)).value, target.value, target.mask, self.sample_rate_hz
        )

    def decode(self, z: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Latents [B, T, latent_dim] -> data [B, T, F]."""
        return self.standardise.inverse(self.decoder(self.decoder.features(z, mask), mask))

    def generate(self, request: Request, sampling: Sampling) -> Masked:
        latent = given_latent(request, self.config.latent_dim)
        return Masked(self.decode(latent.value, latent.mask), latent.mask)

    def encode(self, batch: Batch) -> Masked:
        mask = batch.data.mask
        return Masked(self.encoder(self.standardise(batch.data.value), mask), mask)

    def quantise(self, z: Masked) -> Masked:
        if self.codes is None:
            return super().quantise(z)
        return Masked(self.bottleneck.quantise(z.value, z.mask), self.bottleneck.stack_mask(z.mask))

    def dequantise(self, codes: Masked) -> Masked:
        if self.codes is None:
            return super().dequantise(codes)
        value = self.bottleneck.dequantise(codes.value, codes.mask)
        return Masked(value, codes.mask.repeat_interleave(self.config.frames_per_code, dim=1))
