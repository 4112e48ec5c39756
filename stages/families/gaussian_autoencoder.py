"""Gaussian autoencoder: the autoencoder's guess, and independent noise of the size that its errors usually have.

    y = D(q) as in the autoencoder;   m = exp(W(features of q)) the expected |error|,   sigma = m / 0.6745
    L = L_autoencoder + mean over bins of |ln m - ln(|data / s - y| + e^-7)| + heard_weight * mel(sample, data)
    sample = s (y + temperature sigma e),   e ~ N(0, I)

It is the control for every sampler of the residual: whatever is gained here needs no flow. y and the features are held
fixed in the terms that are new, so that the codec learns as alone. Absolute errors of logarithms make m the median of
|error|, which is 0.6745 standard deviations of a normal one (Hampel, "The influence curve and its role in robust
estimation", 1974, https://doi.org/10.1080/01621459.1974.10482962); it is how a flow here measures its residual, too.
The likelihood of N(y, sigma^2) would do without that step, but residuals have heavy tails: its gradient was 100 times
the codec's, and after 150 steps squared errors were still 36 times sigma^2.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from stages.networks.bottleneck import given_latent
from stages.numerics import times
from stages.numerics.precision import wide
from stages.protocols.model import Batch, GenerativeModel, Loss, Masked, Request
from stages.protocols.spec import Spec, Statistics
from stages.training import codec

NOISE, HEARD = 1, 5
"""Purposes of a clip's random streams."""
USUAL_SHARE = 0.1
"""Of a bin's standard deviation: where the expected error starts."""
LEAST_LOG = -7.0
"""Of errors, in standardised units: smaller ones are nothing."""
MOST_LOG = 7.0
NORMAL_MEDIAN = 0.67449
"""Of |e|, e ~ N(0, 1)."""


@dataclass(frozen=True)
class GaussianAutoencoderConfig:
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
    postfilter_share: float = 1.0
    """Of a crop's frames, the first, that it and the mel distance learn from; a third costs a quarter less a step."""
    compand_power: float = 0.35
    mel_weight: float = 0.1
    commitment_weight: float = 1.0
    heard_weight: float = 0.0
    """Of the mel distance between the data and a sample, where a flow to be compared learns from its own, too."""
    heard_temperature: float = 0.2
    """Of that sample."""

    def __post_init__(self) -> None:
        found = codec.problems(self) + codec.not_shares(self, "postfilter_share", may_be_none=False)
        for name in ("heard_weight", "heard_temperature"):
            if not getattr(self, name) >= 0:
                found.append(f"{name} = {getattr(self, name)}: expected at least 0")
        if found:
            raise ValueError("\n".join(found))


class GaussianAutoencoder(GenerativeModel):
    Config = GaussianAutoencoderConfig

    @dataclass(frozen=True)
    class Sampling:
        """How residuals are drawn."""

        temperature: float = 1.0
        """Times sigma: the standard deviation of the noise; 0 gives the guess itself."""

        def __post_init__(self) -> None:
            if not self.temperature >= 0:
                raise ValueError(f"temperature = {self.temperature}: expected at least 0")

    needs = frozenset({"latent"})
    parts = staticmethod(codec.parts)

    def __init__(
        self, config: GaussianAutoencoderConfig, spec: Spec, statistics: Statistics, signal: Callable[[Masked], Masked]
    ) -> None:
        super().__init__(config, spec, statistics, signal)
        self.config = config
        self.codec = codec.Codec(config, spec, statistics, signal)
        self.latent, self.codes = self.codec.latent, self.codec.codes
        self.log_size = nn.Linear(config.width, len(self.codec.standardise.std))
        with torch.no_grad():
            self.log_size.bias.copy_(torch.log(USUAL_SHARE * self.codec.standardise.std))

    def begin_step(self, step: int, num_steps: int) -> None:
        if step >= int(self.config.quantiser_start * num_steps):
            self.codec.bottleneck.start()

    def loss(self, batch: Batch, player: str, step: int) -> Loss:
        learned = self.codec.learn(batch.data, self.config.postfilter_share)
        y, log_size = self.codec.guess(learned, batch.data.mask), self.expected_log_size(learned.features.detach())
        present = batch.data.mask.unsqueeze(-1).expand_as(y)
        error = (self.codec.standardise(batch.data.value) - y).abs()
        surprise = (log_size - (error + math.exp(LEAST_LOG)).log()).abs() * present
        size_error = surprise.flatten(1).sum(1) / present.flatten(1).sum(1).clamp_min(1)
        total = learned.loss + size_error
        terms = dict(learned.terms) | {"residual_size_error_nats": size_error.detach()}
        terms["validation_nats"] = learned.criterion + terms["residual_size_error_nats"]
        if self.config.heard_weight:
            sigma = spread(log_size)
            sample = y + self.config.heard_temperature * sigma * self.noise(batch.seeds, sigma, HEARD)
            heard = self.codec.mel_distance(sample * present, batch.data)
            total = total + self.config.heard_weight * heard
            terms["mel_distance_sample"] = heard.detach()
        return Loss(total, terms, criterion="validation_nats")

    def expected_log_size(self, features: Tensor) -> Tensor:
        """Ln of the median of |error|, standardised, [B, T, F]."""
        return wide(self.log_size(features))

    def noise(self, seeds: Tensor, like: Tensor, purpose: int) -> Tensor:
        """Standard normal numbers from the clips' seeds, [B, T, F]."""
        return times.normal(seeds, tuple(like.shape[1:]), purpose).to(like)

    def generate(self, request: Request, sampling: Sampling) -> Masked:
        latent = given_latent(request, self.config.latent_dim)
        features, present = self.codec.decoder.features(latent.value, latent.mask), latent.mask.unsqueeze(-1)
        guess, sigma = self.codec.decoder(features, latent.mask), spread(self.expected_log_size(features))
        sample = guess + sampling.temperature * sigma * self.noise(request.seeds, sigma, NOISE)
        return Masked(self.codec.standardise.inverse(sample * present), latent.mask)

    def encode(self, batch: Batch) -> Masked:
        return self.codec.encode(batch)

    def quantise(self, z: Masked) -> Masked:
        return super().quantise(z) if self.codes is None else self.codec.quantise(z)

    def dequantise(self, codes: Masked) -> Masked:
        return super().dequantise(codes) if self.codes is None else self.codec.dequantise(codes)


def spread(log_size: Tensor) -> Tensor:
    """The standard deviation of normal errors whose absolute values have this median, given as its logarithm."""
    return log_size.clamp(max=MOST_LOG).exp() / NORMAL_MEDIAN
