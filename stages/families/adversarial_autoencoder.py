"""Adversarial autoencoder: the autoencoder, taught besides by a discriminator D that learns to tell y from data.

    D:      mean relu(1 - D(x)) + relu(1 + D(y))
    model:  L_autoencoder,  and balanced with it at y:  mean relu(1 - D(y)),  mean_l |D_l(x) - D_l(y)| / |D_l(x)|

D_l are the discriminator's layers; means are over its cells, then over its resolutions. The second player's losses pull
at y with fixed shares of the autoencoder's own strength (training/balancer.py). Both begin at `adversarial_start`, when
y is worth judging. Where clips are audio, the discriminator hears `signal`; else it sees what `signal` returns, step by
step. Afterwards decoding is the autoencoder's, a function of the codes.

High Fidelity Neural Audio Compression, Défossez et al., 2022, https://arxiv.org/abs/2210.13438; Geometric GAN, Lim and
Ye, 2017, https://arxiv.org/abs/1705.02894 (hinge loss); MelGAN, Kumar et al., 2019, https://arxiv.org/abs/1910.06711
(feature matching).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.networks.bottleneck import given_latent
from stages.networks.discriminator import FrameDiscriminator, SpectrogramDiscriminator, Verdict, as_steps
from stages.numerics.precision import wide
from stages.protocols.model import Batch, GenerativeModel, Loss, Masked, Request
from stages.protocols.spec import Spec, Statistics
from stages.training import balancer, codec

MODEL, DISCRIMINATOR = "model", "discriminator"
SMALLEST = 1.0e-8
"""Of a layer's mean size, which divides a distance."""


@dataclass(frozen=True)
class AdversarialAutoencoderConfig:
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
    postfilter_width: int = 0
    """Channels of networks/postfilter.py; 0: none. Adversarial gradients end at a filter, and would teach it alone."""
    compand_power: float = 0.35
    mel_weight: float = 0.1
    commitment_weight: float = 1.0
    adversarial_start: float = 0.3
    """Share of the training before the discriminator begins; keep it below train.select_after."""
    adversarial_share: float = 0.3
    """Strength of the adversarial loss at the output, relative to the autoencoder's own losses."""
    feature_share: float = 0.6
    """Strength of the feature matching, likewise."""

    def __post_init__(self) -> None:
        found = codec.problems(self)
        if not 0 <= self.adversarial_start <= 1:
            found.append(f"adversarial_start = {self.adversarial_start}: expected 0 to 1")
        for name in ("adversarial_share", "feature_share"):
            if not getattr(self, name) >= 0:
                found.append(f"{name} = {getattr(self, name)}: expected at least 0")
        if found:
            raise ValueError("\n".join(found))


class AdversarialAutoencoder(GenerativeModel):
    Config = AdversarialAutoencoderConfig

    @dataclass(frozen=True)
    class Sampling:
        """Decoding is a function of the codes: there is nothing to choose."""

    needs = frozenset({"latent"})
    parts = staticmethod(codec.parts)

    def __init__(
        self,
        config: AdversarialAutoencoderConfig,
        spec: Spec,
        statistics: Statistics,
        signal: Callable[[Masked], Masked],
    ) -> None:
        super().__init__(config, spec, statistics, signal)
        self.config, self.signal = config, signal
        self.codec = codec.Codec(config, spec, statistics, signal)
        self.latent, self.codes = self.codec.latent, self.codec.codes
        self.discriminator = discriminator_of(spec, signal)
        self.adversarial = True

    def players(self, step: int) -> tuple[str, ...]:
        return (MODEL, DISCRIMINATOR) if self.adversarial else (MODEL,)

    def parameters_of(self, player: str) -> Iterator[nn.Parameter]:
        return {MODEL: self.codec, DISCRIMINATOR: self.discriminator}[player].parameters()

    def begin_step(self, step: int, num_steps: int) -> None:
        if step >= int(self.config.quantiser_start * num_steps):
            self.codec.bottleneck.start()
        self.adversarial = step >= int(self.config.adversarial_start * num_steps)

    def loss(self, batch: Batch, player: str, step: int) -> Loss:
        self.codec.bottleneck.train(self.training and player == MODEL)  # the codebooks follow once a step
        if player == DISCRIMINATOR:
            return self.discriminator_loss(batch.data)
        return self.model_loss(batch.data)

    def model_loss(self, data: Masked) -> Loss:
        """The autoencoder's loss; the other player's terms add their gradient and leave its value alone."""
        learned = self.codec.learn(data)
        total, terms = learned.loss, dict(learned.terms)
        terms["validation_nats"] = learned.criterion
        if self.adversarial:
            with torch.no_grad():
                real = self.discriminator(self.signal(data))
            made = self.discriminator(self.heard(learned.guess, data.mask))
            fooled = average([hinge(1 - one.score.value, one.score.mask) for one in made])
            distance = features(real, made)
            terms |= {"adversarial_hinge": fooled.detach(), "feature_distance": distance.detach()}
            if torch.is_grad_enabled():
                parts = {
                    "adversarial": balancer.Part(fooled, self.config.adversarial_share),
                    "feature": balancer.Part(distance, self.config.feature_share),
                }
                total = total + balancer.pull(learned.guess, learned.loss, parts)
        return Loss(total, terms, criterion="validation_nats")

    def discriminator_loss(self, data: Masked) -> Loss:
        with torch.no_grad():
            made = self.heard(self.guess(data), data.mask)
            real = self.signal(data)
        hinges = []
        for x, y in zip(self.discriminator(real), self.discriminator(made), strict=True):
            hinges.append(hinge(1 - x.score.value, x.score.mask) + hinge(1 + y.score.value, y.score.mask))
        total = average(hinges)
        return Loss(total, {"discriminator_hinge": total.detach()}, criterion="discriminator_hinge")

    def guess(self, data: Masked) -> Tensor:
        """What the decoder makes of the data's quantised latent, standardised [B, T, F]."""
        codec = self.codec
        narrowed = codec.bottleneck(codec.encoder(codec.standardise(data.value), data.mask), data.mask)
        return codec.decoder(codec.decoder.features(narrowed.value, data.mask), data.mask)

    def heard(self, guess: Tensor, mask: Tensor) -> Masked:
        """The signal of standardised frames."""
        return self.signal(Masked(self.codec.standardise.inverse(guess), mask))

    def generate(self, request: Request, sampling: Sampling) -> Masked:
        latent = given_latent(request, self.config.latent_dim)
        decoder = self.codec.decoder
        guess = decoder(decoder.features(latent.value, latent.mask), latent.mask)
        return Masked(self.codec.standardise.inverse(guess), latent.mask)

    def encode(self, batch: Batch) -> Masked:
        return self.codec.encode(batch)

    def quantise(self, z: Masked) -> Masked:
        return super().quantise(z) if self.codes is None else self.codec.quantise(z)

    def dequantise(self, codes: Masked) -> Masked:
        return super().dequantise(codes) if self.codes is None else self.codec.dequantise(codes)


def discriminator_of(spec: Spec, signal: Callable[[Masked], Masked]) -> nn.Module:
    """The one that suits what `signal` makes of frames. ValueError where it cannot be learned from."""
    num_steps = spec.data.num_steps or 8
    frames = torch.zeros(1, num_steps, *spec.data.frame, requires_grad=True)
    found = signal(Masked(frames, torch.ones(1, num_steps, dtype=torch.bool)))
    value = found.value
    if not value.is_floating_point() or value.ndim < 2 or not value.requires_grad:
        raise ValueError(
            f"a discriminator needs a differentiable signal of real numbers [B, T, ...]; this representation "
            f"({spec.version}) gives {value.dtype} {list(value.shape)}; use the family autoencoder, which needs none"
        )
    if spec.clip == "audio":
        return SpectrogramDiscriminator()
    return FrameDiscriminator(as_steps(found)[0].shape[2])


def features(real: Sequence[Verdict], made: Sequence[Verdict]) -> Tensor:
    """The mean distance of layers, relative to the real ones' mean size, [B]."""
    distances = []
    for x, y in zip(real, made, strict=True):
        for a, b in zip(x.layers, y.layers, strict=True):
            distances.append(mean((a.value - b.value).abs(), a.mask) / (mean(a.value.abs(), a.mask) + SMALLEST))
    return average(distances)


def hinge(margin: Tensor, mask: Tensor) -> Tensor:
    """The mean of relu(margin) over the present cells, [B]."""
    return mean(functional.relu(margin) * mask, mask)


def mean(x: Tensor, mask: Tensor) -> Tensor:
    """Over the present cells of [B, C, H, W], 0 elsewhere; mask bool [B, 1, H, 1]; [B], 0 where there are none."""
    cells = mask.flatten(1).sum(1).clamp_min(1) * (x.shape[1] * x.shape[3])
    return wide(x).flatten(1).sum(1) / cells


def average(losses: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(losses)).mean(0)
