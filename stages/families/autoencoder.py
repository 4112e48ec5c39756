"""Autoencoder: frames -> quantised latent -> frames, the best single guess (training/codec.py has its loss).

High Fidelity Neural Audio Compression, Défossez et al., 2022, https://arxiv.org/abs/2210.13438; MDCTCodec, Jiang et
al., 2024, https://arxiv.org/abs/2411.00464.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from stages.networks.bottleneck import given_latent
from stages.protocols.model import Batch, GenerativeModel, Loss, Masked, Request
from stages.protocols.spec import Spec, Statistics
from stages.training import codec


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

    def __post_init__(self) -> None:
        if found := codec.problems(self) + codec.not_shares(self, "postfilter_share", may_be_none=False):
            raise ValueError("\n".join(found))


class Autoencoder(GenerativeModel):
    Config = AutoencoderConfig

    @dataclass(frozen=True)
    class Sampling:
        """Decoding is a function of the codes: there is nothing to choose."""

    needs = frozenset({"latent"})
    parts = staticmethod(codec.parts)

    def __init__(
        self, config: AutoencoderConfig, spec: Spec, statistics: Statistics, signal: Callable[[Masked], Masked]
    ) -> None:
        super().__init__(config, spec, statistics, signal)
        self.config = config
        self.codec = codec.Codec(config, spec, statistics, signal)
        self.latent, self.codes = self.codec.latent, self.codec.codes

    def begin_step(self, step: int, num_steps: int) -> None:
        if step >= int(self.config.quantiser_start * num_steps):
            self.codec.bottleneck.start()

    def loss(self, batch: Batch, player: str, step: int) -> Loss:
        learned = self.codec.learn(batch.data, self.config.postfilter_share)
        return Loss(learned.loss, learned.terms, criterion="noise_to_signal_db")

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
