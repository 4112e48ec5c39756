"""Small plugins of every kind that the protocols must carry, to run through the real training, coding and sampling.

Representations: `frames` (audio cut into frames), `songs` (tokens of varying length with a grammar), `scans` (codes
per scan of alternately four and five frames, beside measured responses), `digits` (labelled images, some without).

Families: `quantised` (autoencoder with a codebook), `two_players` (VAE-GAN), `coupling` (invertible, has a likelihood),
`energy` (its loss needs gradients even in validation), `recurrent` (tokens one by one), `responses_to_codes`,
`labelled_flow` (drops its condition). Each is as small as its kind can be.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.media import audio
from stages.pipeline import artifacts, params, shards
from stages.protocols.model import Batch, GenerativeModel, Grammar, Loss, Masked, Request
from stages.protocols.representation import Representation
from stages.protocols.spec import Code, Field, Spec, Statistics
from stages.training.loader import Dataset


def draws(seeds: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Normal noise [B, *shape], each clip's from its own seed alone."""
    rows = [torch.randn(shape, generator=torch.Generator().manual_seed(int(s)), dtype=torch.float64) for s in seeds]
    return torch.stack(rows).to(dtype)


def per_clip(value: Tensor, mask: Tensor) -> Tensor:
    """The mean over a clip's existing entries: value [B, T, ...], mask over its leading axes -> [B]."""
    weight = mask.reshape(mask.shape + (1,) * (value.ndim - mask.ndim)).expand_as(value).to(value.dtype)
    return (value * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)


# ---------------------------------------------------------------------------------------------------------------------
# Representations


@dataclass(frozen=True)
class NoConfig:
    pass


@dataclass(frozen=True)
class Series:
    """A clip that is no audio: rows of numbers, and what is known beside them."""

    id: str
    values: np.ndarray
    known: Mapping[str, np.ndarray] = field(default_factory=dict)


class Fake(Representation):
    """Saved as its version alone."""

    Config = NoConfig

    def __init__(self, config: NoConfig = NoConfig()) -> None:
        self.config = config

    @classmethod
    def fit(cls, config: Any, clips: Iterable[Any]) -> "Fake":
        return cls(config)

    def view(self, code: Code, num_steps: int, seed: int) -> Code:
        length = min(num_steps, len(code.data))
        start = np.random.Generator(np.random.Philox(key=seed)).integers(0, len(code.data) - length + 1)

        def cut(value: np.ndarray) -> np.ndarray:
            return value[start : start + length] if len(value) == len(code.data) else value

        conditions = {name: cut(value) for name, value in code.conditions.items()}
        return Code(code.id, cut(code.data), cut(code.mask), conditions, self.side(length))

    def encode(self, clip: Series) -> Code:
        return Code(clip.id, clip.values, np.ones(len(clip.values), bool), clip.known, self.side(len(clip.values)))

    def decode(self, code: Code) -> Series:
        return Series(code.id, code.data, code.conditions)

    def signal(self, data: Masked) -> Masked:
        return data

    def grammar(self, rules: Mapping[str, Any]) -> Grammar | None:
        return None

    def side(self, num_steps: int) -> Mapping[str, Any]:
        return {}

    def save(self, folder: Path) -> None:
        artifacts.write_json(folder / "representation.json", {"version": self.spec.version})

    @classmethod
    def load(cls, folder: Path) -> "Fake":
        loaded = cls()
        if artifacts.read_json(folder / "representation.json")["version"] != loaded.spec.version:
            raise ValueError(f"{folder} is of another version")
        return loaded


class Frames(Fake):
    """Audio as frames of four samples."""

    clip = "audio"
    spec = Spec("audio", Field((4,), rate_hz=2000.0), {}, "frames 1")

    def encode(self, clip: audio.Clip) -> Code:
        num_steps = -(-len(clip.samples) // 4)
        padded = np.zeros(num_steps * 4, np.float32)
        padded[: len(clip.samples)] = clip.samples
        side = {"num_samples": np.array([len(clip.samples)])}
        return Code(clip.id, padded.reshape(-1, 4), np.ones(num_steps, bool), side=side)

    def decode(self, code: Code) -> audio.Clip:
        samples = code.data.reshape(-1)[: int(code.side["num_samples"][0])]
        return audio.Clip(code.id, samples.astype(np.float32), 8000)

    def signal(self, data: Masked) -> Masked:
        return Masked(data.value.flatten(1), data.mask.repeat_interleave(4, 1))

    def side(self, num_steps: int) -> Mapping[str, Any]:
        return {"num_samples": np.array([num_steps * 4])}


END, NUM_TOKENS = 0, 7


class Songs(Fake):
    """Tokens 1 to 6 in which odd and even alternate, ended by END, which follows an even one."""

    clip = "score"
    spec = Spec("score", Field((1,), num_classes=NUM_TOKENS), {}, "songs 1")

    def grammar(self, rules: Mapping[str, Any]) -> "Alternation":
        return Alternation()


class Alternation:
    """The state is the last token; -1 at the start."""

    def start(self, batch: int) -> Tensor:
        return torch.full((batch,), -1)

    def allowed(self, state: Tensor) -> Tensor:
        tokens = torch.arange(NUM_TOKENS)
        turn = (tokens % 2 != state[:, None] % 2) & (tokens > 0)
        ends = (state[:, None] % 2 == 0) & (state[:, None] > 0) & (tokens == END)
        return torch.where(state[:, None] == END, tokens == END, turn | ends)

    def advance(self, state: Tensor, step: Tensor) -> Tensor:
        return step[:, 0]


NUM_CODES = 5


class Scans(Fake):
    """Codes of two codebooks for the four or five frames of a scan, beside three responses measured in it."""

    clip = "series"
    spec = Spec("series", Field((5, 2), num_classes=NUM_CODES), {"responses": Field((3,), rate_hz=0.5)}, "scans 1")

    def encode(self, clip: Series) -> Code:
        mask = np.ones(clip.values.shape[:2], bool)
        mask[::2, 4] = False  # a scan of 4.5 frames: every other one holds four
        return Code(clip.id, clip.values * mask[..., None], mask, clip.known)


class Digits(Fake):
    """Images of 4 x 4 pixels, most with a label."""

    clip = "image"
    spec = Spec(
        "image",
        Field((1,), num_steps=16, grid=(4, 4)),
        {"digit": Field((), num_classes=3, num_steps=1)},
        "digits 1",
    )


# ---------------------------------------------------------------------------------------------------------------------
# Families


@dataclass(frozen=True)
class WidthConfig:
    width: int = 8


@dataclass(frozen=True)
class LatentConfig:
    latent_dim: int = 3
    width: int = 8


@dataclass(frozen=True)
class NoSampling:
    pass


@dataclass(frozen=True)
class Steps:
    num_function_evaluations: int = 4


def latent_of(request: Request, width: int, dtype: torch.dtype) -> Masked:
    """The latent that is given, or noise in its place."""
    given = request.conditions.get("latent")
    if given is not None:
        return given
    num_steps = int(request.num_steps.max())
    mask = torch.arange(num_steps) < request.num_steps[:, None]
    return Masked(draws(request.seeds, (num_steps, width), dtype), mask)


class Quantised(GenerativeModel):
    """z = Wx, each z written as its nearest code; the codebook is a mean of the z that chose it, applied between steps.

    The first codebook is drawn from the first batch by torch's global generator, as libraries do.
    """

    Config = LatentConfig
    Sampling = NoSampling
    needs = frozenset({"latent"})
    num_codes: ClassVar[int] = 8

    def __init__(self, config: LatentConfig, spec: Spec, statistics: Statistics, signal: Any) -> None:
        super().__init__(config, spec, statistics, signal)
        (width,) = spec.data.frame
        self.latent = Field((config.latent_dim,), rate_hz=spec.data.rate_hz)
        self.codes = Field((1,), num_classes=self.num_codes, rate_hz=spec.data.rate_hz)
        self.register_buffer("std", torch.tensor(statistics.std, dtype=torch.float32))
        self.encoder = nn.Linear(width, config.latent_dim)
        self.decoder = nn.Sequential(
            nn.Linear(config.latent_dim, config.width), nn.Tanh(), nn.Linear(config.width, width)
        )
        self.register_buffer("started", torch.tensor(False))
        self.register_buffer("codebook", torch.zeros(self.num_codes, config.latent_dim))
        self.register_buffer("sums", torch.zeros(self.num_codes, config.latent_dim))
        self.register_buffer("counts", torch.zeros(self.num_codes))

    def begin_step(self, step: int, num_steps: int) -> None:
        chosen = self.counts > 0
        self.codebook[chosen] = 0.9 * self.codebook[chosen] + 0.1 * self.sums[chosen] / self.counts[chosen, None]
        self.sums.zero_()
        self.counts.zero_()

    def project(self, batch: Batch) -> Tensor:
        return self.encoder(batch.data.value / self.std) * batch.data.mask[..., None]

    def encode(self, batch: Batch) -> Masked:
        return Masked(self.project(batch), batch.data.mask)

    def quantise(self, z: Masked) -> Masked:
        distances = (z.value[:, :, None] - self.codebook).square().sum(-1)
        return Masked(distances.argmin(-1, keepdim=True) * z.mask[..., None], z.mask)

    def dequantise(self, codes: Masked) -> Masked:
        return Masked(self.codebook[codes.value[..., 0]] * codes.mask[..., None], codes.mask)

    def learn_codes(self, z: Masked) -> None:
        rows = z.value.detach()[z.mask].float()
        if not self.started:
            self.codebook.copy_(rows[torch.randint(len(rows), (self.num_codes,))])
            self.started.fill_(True)
        index = self.quantise(Masked(z.value.detach(), z.mask)).value[z.mask][:, 0]
        self.sums.index_add_(0, index, rows.to(self.sums.dtype))
        self.counts += torch.bincount(index, minlength=self.num_codes)

    def loss(self, batch: Batch, player: str, step: int) -> Loss:
        z = self.encode(batch)
        if self.training:
            self.learn_codes(z)
        rounded = self.dequantise(self.quantise(z))
        passed = z.value + (rounded.value - z.value).detach()
        error = per_clip((self.decoder(passed) - batch.data.value / self.std).square(), batch.data.mask)
        commitment = per_clip((z.value - rounded.value.detach()).square(), batch.data.mask)
        return Loss(error + 0.1 * commitment, {"squared_error": error.detach()}, "squared_error")

    def generate(self, request: Request, sampling: NoSampling) -> Masked:
        z = latent_of(request, self.config.latent_dim, self.std.dtype)
        return Masked(self.decoder(z.value) * self.std * z.mask[..., None], z.mask)


class TwoPlayers(GenerativeModel):
    """A VAE whose decoder also has to please a critic, which learns beside it."""

    Config = LatentConfig
    Sampling = NoSampling
    codes = None
    needs = frozenset({"latent"})

    def __init__(self, config: LatentConfig, spec: Spec, statistics: Statistics, signal: Any) -> None:
        super().__init__(config, spec, statistics, signal)
        (width,) = spec.data.frame
        self.latent = Field((config.latent_dim,), rate_hz=spec.data.rate_hz)
        self.encoder = nn.Linear(width, 2 * config.latent_dim)
        self.decoder = nn.Linear(config.latent_dim, width)
        self.critic = nn.Sequential(nn.Linear(width, config.width), nn.Tanh(), nn.Linear(config.width, 1))

    def players(self, step: int) -> tuple[str, ...]:
        return ("generator", "critic")

    def parameters_of(self, player: str) -> Iterator[nn.Parameter]:
        if player == "critic":
            yield from self.critic.parameters()
        else:
            yield from self.encoder.parameters()
            yield from self.decoder.parameters()

    def encode(self, batch: Batch) -> Masked:
        mean = self.encoder(batch.data.value).chunk(2, -1)[0]
        return Masked(mean * batch.data.mask[..., None], batch.data.mask)

    def loss(self, batch: Batch, player: str, step: int) -> Loss:
        x, mask = batch.data.value, batch.data.mask
        mean, log_std = self.encoder(x).chunk(2, -1)
        z = mean + log_std.exp() * draws(batch.seeds, tuple(mean.shape[1:]), mean.dtype)
        made = self.decoder(z)
        if player == "critic":
            real, fake = self.critic(x), self.critic(made.detach())
            nats = per_clip(functional.softplus(-real) + functional.softplus(fake), mask)
            return Loss(nats, {"critic_nats": nats.detach()}, "critic_nats")
        error = per_clip((made - x).square(), mask)
        kl = per_clip((mean.square() + (2 * log_std).exp() - 1) / 2 - log_std, mask)
        total = error + 0.01 * kl - 0.01 * per_clip(self.critic(made), mask)
        return Loss(total, {"squared_error": error.detach(), "kl_nats": kl.detach()}, "squared_error")

    def generate(self, request: Request, sampling: NoSampling) -> Masked:
        z = latent_of(request, self.config.latent_dim, self.decoder.weight.dtype)
        return Masked(self.decoder(z.value) * z.mask[..., None], z.mask)


class Coupling(GenerativeModel):
    """Two affine couplings per frame, so that log p(x) is exact."""

    Config = WidthConfig
    Sampling = NoSampling
    latent = None
    codes = None
    needs = frozenset()

    def __init__(self, config: WidthConfig, spec: Spec, statistics: Statistics, signal: Any) -> None:
        super().__init__(config, spec, statistics, signal)
        half = spec.data.frame[0] // 2
        self.half = half
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(half, config.width), nn.Tanh(), nn.Linear(config.width, 2 * half)) for _ in range(2)
        )

    def to_noise(self, x: Tensor) -> tuple[Tensor, Tensor]:
        volume = torch.zeros(x.shape[:-1], dtype=x.dtype)
        for net in self.nets:
            a, b = x.split(self.half, -1)
            log_scale, shift = net(a).chunk(2, -1)
            x = torch.cat([(b - shift) * torch.exp(-log_scale), a], -1)
            volume = volume - log_scale.sum(-1)
        return x, volume

    def to_data(self, e: Tensor) -> Tensor:
        for net in reversed(list(self.nets)):
            b, a = e.split(self.half, -1)
            log_scale, shift = net(a).chunk(2, -1)
            e = torch.cat([a, b * torch.exp(log_scale) + shift], -1)
        return e

    def log_likelihood(self, batch: Batch) -> Tensor:
        e, volume = self.to_noise(batch.data.value)
        log_density = volume - 0.5 * (e.square() + math.log(2 * math.pi)).sum(-1)
        return (log_density * batch.data.mask).sum(1)

    def loss(self, batch: Batch, player: str, step: int) -> Loss:
        nats = -self.log_likelihood(batch) / batch.data.mask.sum(1)
        return Loss(nats, {"nats_per_frame": nats.detach()}, "nats_per_frame")

    def generate(self, request: Request, sampling: NoSampling) -> Masked:
        e = latent_of(request, 2 * self.half, torch.get_default_dtype())
        return Masked(self.to_data(e.value) * e.mask[..., None], e.mask)


class Energy(GenerativeModel):
    """E(x) by denoising score matching: grad E(x + s n) should be n / s; sampling descends E with noise."""

    Config = WidthConfig
    Sampling = Steps
    latent = None
    codes = None
    needs = frozenset()

    def __init__(self, config: WidthConfig, spec: Spec, statistics: Statistics, signal: Any) -> None:
        super().__init__(config, spec, statistics, signal)
        self.width = spec.data.frame[0]
        self.net = nn.Sequential(nn.Linear(self.width, config.width), nn.Tanh(), nn.Linear(config.width, 1, bias=False))

    def score(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = self.net(x).sum() + 0.5 * x.square().sum()
            return -torch.autograd.grad(energy, x, create_graph=self.training)[0]

    def loss(self, batch: Batch, player: str, step: int) -> Loss:
        x = batch.data.value
        n = draws(batch.seeds, tuple(x.shape[1:]), x.dtype)
        error = per_clip((self.score(x + 0.5 * n) * 0.5 + n).square(), batch.data.mask)
        applies = torch.where(batch.data.mask.sum(1) > 3, error.detach(), torch.nan)
        return Loss(error, {"score_error": error.detach(), "score_error_of_long_clips": applies}, "score_error")

    def generate(self, request: Request, sampling: Steps) -> Masked:
        start = latent_of(request, self.width, torch.get_default_dtype())
        x = start.value
        for _ in range(sampling.num_function_evaluations):
            x = x + 0.1 * self.score(x)
        return Masked(x.detach() * start.mask[..., None], start.mask)

    def num_function_evaluations(self, sampling: Steps) -> int:
        return sampling.num_function_evaluations


class Recurrent(GenerativeModel):
    """p(token | tokens before) by a GRU; generation keeps what is given and obeys the grammar."""

    Config = WidthConfig
    Sampling = NoSampling
    latent = None
    codes = None
    needs = frozenset()

    def __init__(self, config: WidthConfig, spec: Spec, statistics: Statistics, signal: Any) -> None:
        super().__init__(config, spec, statistics, signal)
        assert spec.data.num_classes is not None
        self.num_classes = spec.data.num_classes
        self.embedding = nn.Embedding(self.num_classes + 1, config.width)
        self.gru = nn.GRU(config.width, config.width, batch_first=True)
        self.head = nn.Linear(config.width, self.num_classes)

    def logits(self, tokens: Tensor) -> Tensor:
        """[B, T] -> [B, T + 1, num_classes], each from the tokens before it."""
        begin = torch.full((len(tokens), 1), self.num_classes)
        return self.head(self.gru(self.embedding(torch.cat([begin, tokens], 1)))[0])

    def log_likelihood(self, batch: Batch) -> Tensor:
        tokens, mask = batch.data.value[..., 0], batch.data.mask
        logits = self.logits(tokens)[:, :-1].transpose(1, 2)
        return -(functional.cross_entropy(logits, tokens, reduction="none") * mask).sum(1)

    def loss(self, batch: Batch, player: str, step: int) -> Loss:
        nats = -self.log_likelihood(batch) / batch.data.mask.sum(1)
        return Loss(nats, {"nats_per_token": nats.detach()}, "nats_per_token")

    def generate(self, request: Request, sampling: NoSampling) -> Masked:
        num = len(request.seeds)
        generators = [torch.Generator().manual_seed(int(seed)) for seed in request.seeds]
        grammar = request.grammar
        state = grammar.start(num) if grammar else None
        tokens = torch.zeros((num, 0), dtype=torch.int64)
        for step in range(int(request.num_steps.max())):
            logits = self.logits(tokens)[:, -1]
            if grammar is not None and state is not None:
                logits = logits.masked_fill(~grammar.allowed(state), -torch.inf)
            rows = zip(logits.softmax(-1), generators, strict=True)
            drawn = torch.stack([torch.multinomial(row, 1, generator=generator) for row, generator in rows])
            if request.given is not None and step < request.given.value.shape[1]:
                drawn = torch.where(request.given.mask[:, step, None], request.given.value[:, step], drawn)
            state = grammar.advance(state, drawn) if grammar is not None and state is not None else None
            tokens = torch.cat([tokens, drawn], 1)
        ended = (tokens == END).cumsum(1) - (tokens == END).long() > 0
        mask = ~ended & (torch.arange(tokens.shape[1]) < request.num_steps[:, None])
        return Masked((tokens * mask)[..., None], mask)


class ResponsesToCodes(GenerativeModel):
    """A class per entry of a scan, by cross-entropy, from the responses measured in it."""

    Config = WidthConfig
    Sampling = NoSampling
    latent = None
    codes = None
    needs = frozenset({"responses"})

    def __init__(self, config: WidthConfig, spec: Spec, statistics: Statistics, signal: Any) -> None:
        super().__init__(config, spec, statistics, signal)
        assert spec.data.num_classes is not None
        self.shape = (*spec.data.frame, spec.data.num_classes)
        responses = spec.conditions["responses"].frame[0]
        self.net = nn.Sequential(
            nn.Linear(responses, config.width), nn.Tanh(), nn.Linear(config.width, math.prod(self.shape))
        )

    def loss(self, batch: Batch, player: str, step: int) -> Loss:
        logits = self.net(batch.conditions["responses"].value).unflatten(-1, self.shape)
        nats = functional.cross_entropy(logits.movedim(-1, 1), batch.data.value, reduction="none")
        each = per_clip(nats, batch.data.mask)
        return Loss(each, {"nats_per_code": each.detach()}, "nats_per_code")

    def generate(self, request: Request, sampling: NoSampling) -> Masked:
        responses = request.conditions["responses"]
        codes = self.net(responses.value).unflatten(-1, self.shape).argmax(-1)
        mask = responses.mask[..., None].expand(codes.shape[:3])
        return Masked(codes * mask[..., None], mask)


class LabelledFlow(GenerativeModel):
    """Flow matching on a whole image given its label, which is dropped for some clips by their seeds."""

    Config = WidthConfig
    Sampling = Steps
    latent = None
    codes = None
    needs = frozenset()

    def __init__(self, config: WidthConfig, spec: Spec, statistics: Statistics, signal: Any) -> None:
        super().__init__(config, spec, statistics, signal)
        label = spec.conditions["digit"].num_classes
        assert label is not None and spec.data.num_steps is not None
        self.num_pixels, self.num_labels = spec.data.num_steps, label
        self.label = nn.Embedding(label + 1, config.width)
        self.first = nn.Linear(self.num_pixels + 1, config.width)
        self.second = nn.Linear(config.width, self.num_pixels)

    def velocity(self, z: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(torch.cat([z, t[:, None]], 1)) + self.label(label)))

    def known(self, condition: Masked) -> Tensor:
        """The label, or the extra class that stands for none."""
        return torch.where(condition.mask[:, 0], condition.value[:, 0], self.num_labels)

    def loss(self, batch: Batch, player: str, step: int) -> Loss:
        x = batch.data.value[..., 0]
        drawn = draws(batch.seeds, (self.num_pixels + 2,), x.dtype)
        e, t, dropped = drawn[:, :-2], drawn[:, -2].sigmoid(), drawn[:, -1] > 1
        label = self.known(batch.conditions["digit"])
        label = torch.where(dropped & self.training, self.num_labels, label)
        z = (1 - t[:, None]) * x + t[:, None] * e
        error = (self.velocity(z, t, label) - (e - x)).square().mean(1)
        return Loss(error, {"velocity_error": error.detach()}, "velocity_error")

    def generate(self, request: Request, sampling: Steps) -> Masked:
        z = draws(request.seeds, (self.num_pixels,), torch.get_default_dtype())
        label = self.known(request.conditions["digit"])
        num = sampling.num_function_evaluations
        for step in range(num, 0, -1):
            t = torch.full((len(z),), step / num, dtype=z.dtype)
            z = z - self.velocity(z, t, label) / num
        return Masked(z[..., None], torch.ones(z.shape, dtype=torch.bool))

    def num_function_evaluations(self, sampling: Steps) -> int:
        return sampling.num_function_evaluations


# ---------------------------------------------------------------------------------------------------------------------
# Corpora of each kind, and the pairs


def sounds(num: int, seed: int = 0) -> list[audio.Clip]:
    rng = np.random.default_rng(seed)
    lengths = [int(n) for n in rng.integers(50, 150, num)]
    return [
        audio.Clip(f"sound{i}", (0.4 * np.sin(np.arange(n) * (0.1 + 0.1 * i))).astype(np.float32), 8000)
        for i, n in enumerate(lengths)
    ]


def songs(num: int, seed: int = 0) -> list[Series]:
    rng = np.random.default_rng(seed)
    made = []
    for i in range(num):
        pairs = int(rng.integers(1, 8))
        tokens = np.stack([rng.choice([1, 3, 5], pairs), rng.choice([2, 4, 6], pairs)], 1).reshape(-1)
        made.append(Series(f"song{i}", np.append(tokens, END)[:, None]))
    return made


def scans(num: int, seed: int = 0) -> list[Series]:
    rng = np.random.default_rng(seed)
    made = []
    for i in range(num):
        length = int(rng.integers(6, 20))
        responses = rng.standard_normal((length, 3)).astype(np.float32)
        codes = np.repeat((responses[:, :2] > 0)[:, None], 5, 1).astype(np.int64) * (NUM_CODES - 1)
        made.append(Series(f"scan{i}", codes, {"responses": responses}))
    return made


def digits(num: int, seed: int = 0) -> list[Series]:
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((num, 16, 1)).astype(np.float32)
    return [Series(f"digit{i}", image, {"digit": np.array([i % 3])} if i % 4 else {}) for i, image in enumerate(images)]


CORPORA = {"frames": sounds, "songs": songs, "scans": scans, "digits": digits}
REPRESENTATIONS = {"frames": Frames, "songs": Songs, "scans": Scans, "digits": Digits}
FAMILIES = {
    "quantised": Quantised,
    "two_players": TwoPlayers,
    "coupling": Coupling,
    "energy": Energy,
    "recurrent": Recurrent,
    "responses_to_codes": ResponsesToCodes,
    "labelled_flow": LabelledFlow,
}
PAIRS = {
    "quantised": "frames",
    "two_players": "frames",
    "coupling": "frames",
    "energy": "frames",
    "recurrent": "songs",
    "responses_to_codes": "scans",
    "labelled_flow": "digits",
}


@dataclass(frozen=True)
class Case:
    """A family with the representation and clips it is tried on."""

    family: str
    representation: Fake
    codes: list[Code]
    statistics: Statistics

    def model(self, seed: int = 0) -> GenerativeModel:
        kind = FAMILIES[self.family]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return kind(kind.Config(), self.representation.spec, self.statistics, self.representation.signal)

    def dataset(self) -> Dataset:
        return Dataset(self.codes, self.representation.spec, self.representation.view)


def case(family: str, num: int = 10) -> Case:
    representation = REPRESENTATIONS[PAIRS[family]]()
    codes = [representation.encode(clip) for clip in CORPORA[PAIRS[family]](num)]
    return Case(family, representation, codes, shards.statistics(shards.sums(codes, representation.spec.data)))


def load(kind: str, name: str) -> type:
    """In place of plugins.load."""
    return {"families": FAMILIES, "representations": REPRESENTATIONS}[kind][name]


def cache(folder: Path, family: str) -> Path:
    """What the cache stage would leave behind, in `folder`."""
    own = case(family)
    version = own.representation.spec.version
    for split, codes in (("train", own.codes[:6]), ("valid", own.codes[6:8]), ("test", own.codes[8:])):
        (folder / split).mkdir(parents=True)
        shards.write_index(folder / split, version, [shards.write_shard(folder / split, 0, codes)])
    shards.save_statistics(folder / "statistics.safetensors", own.statistics)
    own.representation.save(folder / "representation")
    return folder


def plain(family: str) -> Any:
    return params.plain(FAMILIES[family].Config())
