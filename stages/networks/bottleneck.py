"""The narrow place: encoder -> latent of `latent_dim` per frame -> projection -> quantiser.

`frames_per_code` latents are projected together to one vector of `code_dim`, which the quantiser writes as
`num_codebooks` indices. So the bitrate is

    kbps = frame rate / frames_per_code * num_codebooks * log2(codebook_size) / 1000

and `latent_dim` is not in it. Quantisers:

    rvq    each codebook codes what the ones before left over; codebooks follow their members by moving averages, an
           entry that nobody uses starts again at a random member. Autoregressive Image Generation using Residual
           Quantization, Lee et al., 2022, https://arxiv.org/abs/2203.01941
    fsq    coordinates are bounded and rounded, without a learned codebook. Finite Scalar Quantization, Mentzer et al.,
           2023, https://arxiv.org/abs/2309.15505
    none   the latent itself

State and maintenance of the codebooks are vector-quantize-pytorch's (https://github.com/lucidrains/
vector-quantize-pytorch); looking up and summing is done here by index, since its one-hot products cost four times a
training step's network on a CPU. An rvq passes the latent unquantised until `start` lets it place its codebooks by
k-means: it then finds a latent worth coding. Ranks that train together (pipeline/ranks.py) keep one codebook: members
and their sums are added up over ranks, and what is drawn at random is drawn by rank 0 from the rows of all.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stages.networks.postfilter import Postfilter
from stages.numerics.precision import wide
from stages.pipeline import ranks
from stages.protocols.model import Masked, Request
from stages.protocols.network import Network
from stages.protocols.spec import Field

FSQ_LEVELS = {256: (8, 6, 5), 1000: (8, 5, 5, 5), 1024: (4, 4, 4, 4, 4), 4096: (7, 5, 5, 5, 5)}
"""Levels per coordinate by number of codes (at most; Mentzer et al., section 4.1)."""


@dataclass(frozen=True)
class Coding:
    """How a latent becomes codes."""

    latent_dim: int
    frames_per_code: int
    code_dim: int
    quantiser: str
    num_codebooks: int
    codebook_size: int
    beam_size: int = 1
    """rvq: how many partial codes are kept while a clip is encoded for good; training always keeps one."""


@dataclass(frozen=True)
class Narrowed:
    """A latent after the quantiser, with the gradient of the latent before it."""

    value: Tensor  # [B, T, latent_dim]
    commitment: Tensor  # [B]: squared distance to the codes, relative to the latent's own power
    terms: Mapping[str, Tensor]  # [B] each, for the log


class Encoder(nn.Module):
    """Standardised frames [B, T, F] -> latent [B, T, latent_dim]."""

    def __init__(self, frame: int, width: int, latent_dim: int, network: Network) -> None:
        super().__init__()
        self.enter = nn.Linear(frame, width)
        self.network = network
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, latent_dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return wide(self.leave(self.norm(self.network(self.enter(x), None, mask)))) * mask.unsqueeze(-1)


class Decoder(nn.Module):
    """Latent [B, T, latent_dim] -> features [B, T, width] -> standardised frames [B, T, F], rough and filtered."""

    def __init__(self, latent_dim: int, width: int, frame: int, network: Network, postfilter_width: int = 0) -> None:
        super().__init__()
        self.enter = nn.Linear(latent_dim, width)
        self.network = network
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, frame)
        self.postfilter = Postfilter(frame, postfilter_width) if postfilter_width else None

    def features(self, z: Tensor, mask: Tensor) -> Tensor:
        return self.norm(self.network(self.enter(z), None, mask))

    def rough(self, features: Tensor, mask: Tensor) -> Tensor:
        """What a network per frame says, [B, T, F]."""
        return wide(self.leave(features)) * mask.unsqueeze(-1)

    def refined(self, rough: Tensor, mask: Tensor) -> Tensor:
        """The rough frames filtered, without a gradient to them: a codec that leaned on the filter codes worse."""
        return rough if self.postfilter is None else self.postfilter(rough.detach(), mask)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        return self.refined(self.rough(features, mask), mask)


class Bottleneck(nn.Module):
    """Projection, quantiser and projection back."""

    COMMITMENT_FLOOR = 1.0e-8
    DECAY = 0.99
    """Of the codebooks' moving averages, per forward pass in training."""
    KMEANS_ITERATIONS = 4
    ROWS_AT_ONCE = 512
    """Of a beam search, whose costs fill beam_size * codebook_size numbers per row."""
    DEAD_SHARE = 0.03
    """An entry restarts when its average number of members falls below this share of an even one."""

    def __init__(self, coding: Coding) -> None:
        super().__init__()
        self.coding = coding
        stacked = coding.latent_dim * coding.frames_per_code
        width = stacked if coding.quantiser == "none" else coding.code_dim
        self.fsq: Any
        self.rvq: Any
        if coding.quantiser == "fsq":
            levels = fsq_levels(coding.codebook_size)
            width = len(levels) * coding.num_codebooks
            from vector_quantize_pytorch import FSQ  # its import takes longer than torch's

            self.fsq = FSQ(list(levels), num_codebooks=coding.num_codebooks, keep_num_codebooks_dim=True)
        if coding.quantiser == "rvq":
            self.rvq = residual_quantiser(coding)
        same = width == stacked
        self.enter = nn.Identity() if same else nn.Linear(stacked, width)
        self.leave = nn.Identity() if same else nn.Linear(width, stacked)
        self.starting = False

    @property
    def codes(self) -> Field | None:
        """The field of the codes, but for the rate, which is the data's divided by frames_per_code."""
        if self.coding.quantiser == "none":
            return None
        size = math.prod(fsq_levels(self.coding.codebook_size)) if self.coding.quantiser == "fsq" else None
        return Field(frame=(self.coding.num_codebooks,), num_classes=size or self.coding.codebook_size)

    @property
    def active(self) -> bool:
        """Whether latents are quantised: an rvq only is once its codebooks were placed."""
        return self.coding.quantiser != "none" and (self.starting or self.placed)

    @property
    def placed(self) -> bool:
        """Whether the codebooks are where latents are; always, but for an rvq that has not started."""
        return self.coding.quantiser != "rvq" or bool(self.codebooks[0].initted)

    @property
    def codebooks(self) -> list[Any]:
        """The library's codebooks: embed [1, C, D], cluster_size, embed_avg, initted."""
        return [layer._codebook for layer in self.rvq.layers]

    def start(self) -> None:
        """From the next training step on, quantise; the codebooks are placed by k-means on its latents."""
        self.starting = True

    def forward(self, z: Tensor, mask: Tensor) -> Narrowed:
        """Latents [B, T, latent_dim] as the decoder will get them."""
        nothing = z.new_zeros(len(z))
        if not self.active:
            return Narrowed(self.unstack(self.leave(self.stack(z)), z.shape[1]), nothing, {})
        vector, present = self.stack(z), self.stack_mask(mask)
        if self.coding.quantiser == "fsq":
            rounded, indices = self.fsq(vector)
            terms = {"codebook_usage": nothing + share_used(indices[present], self.fsq.codebook_size)}
            return Narrowed(self.unstack(self.leave(rounded), z.shape[1]), nothing, terms)
        quantised, terms = self.quantise_residually(vector, present)
        inside = present.unsqueeze(-1)
        error = ((vector - quantised).square() * inside).sum((1, 2))
        power = (vector.detach().square() * inside).sum((1, 2))
        through = vector + (quantised - vector).detach()
        value = self.unstack(self.leave(through), z.shape[1]) * mask.unsqueeze(-1)
        terms = {name: nothing + term for name, term in terms.items()}
        return Narrowed(value, error / (power + self.COMMITMENT_FLOOR), terms)

    def quantise_residually(self, vector: Tensor, present: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of one entry of each codebook [B, T', code_dim]; in training the codebooks follow."""
        rows = wide(vector.detach()[present])
        residual = rows
        used, restarted = [], []
        for codebook in self.codebooks:
            if self.training:
                place(codebook, residual)
            entries = codebook.embed[0]
            indices = nearest(residual, entries)
            if self.training:
                followed = follow(codebook, residual, indices)
                restarted.append(followed.restarted)
                used.append(followed.used)
            else:
                used.append(share_used(indices, len(entries)))
            residual = residual - entries[indices]
        quantised = torch.zeros_like(vector, dtype=rows.dtype)
        quantised[present] = rows - residual
        terms = {"codebook_usage": torch.stack(used).mean()}
        if restarted:
            terms["dead_code_restarts"] = torch.stack(restarted).sum()
        return quantised, terms

    @torch.no_grad()
    def quantise(self, z: Tensor, mask: Tensor) -> Tensor:
        """Indices int64 [B, T', num_codebooks] of latents, 0 where there is no frame."""
        vector, present = self.stack(z), self.stack_mask(mask)
        if self.coding.quantiser == "fsq":
            return self.fsq(vector)[1].long() * present.unsqueeze(-1)
        indices = torch.zeros(*present.shape, self.coding.num_codebooks, dtype=torch.int64, device=z.device)
        parts = wide(vector[present]).split(self.ROWS_AT_ONCE)
        found = [beam_search(rows, self.rvq.codebooks, self.coding.beam_size) for rows in parts]
        indices[present] = torch.cat(found) if found else indices[present]
        return indices

    @torch.no_grad()
    def dequantise(self, indices: Tensor, mask: Tensor) -> Tensor:
        """Latents [B, T' * frames_per_code, latent_dim] of indices [B, T', num_codebooks]; mask bool [B, T']."""
        if self.coding.quantiser == "fsq":
            vector = self.fsq.indices_to_codes(indices).to(next(self.parameters(), self.fsq.implicit_codebook).dtype)
        else:
            books = range(self.coding.num_codebooks)
            vector = torch.stack([self.rvq.codebooks[book][indices[..., book]] for book in books]).sum(0)
        stacked = self.leave(vector) * mask.unsqueeze(-1)
        return self.unstack(stacked, stacked.shape[1] * self.coding.frames_per_code)

    def stack(self, z: Tensor) -> Tensor:
        """[B, T, latent_dim] -> [B, ceil(T / frames_per_code), code_dim], zeros beyond the end."""
        group = self.coding.frames_per_code
        padded = nn.functional.pad(z, (0, 0, 0, -z.shape[1] % group))
        return wide(self.enter(padded.reshape(len(z), -1, group * z.shape[2])))

    def stack_mask(self, mask: Tensor) -> Tensor:
        """Which codes hold any frame, bool [B, T']."""
        group = self.coding.frames_per_code
        return nn.functional.pad(mask, (0, -mask.shape[1] % group)).reshape(len(mask), -1, group).any(-1)

    def unstack(self, vector: Tensor, num_steps: int) -> Tensor:
        """[B, T', frames_per_code * latent_dim] -> [B, num_steps, latent_dim]."""
        return wide(vector).reshape(len(vector), -1, self.coding.latent_dim)[:, :num_steps]


def residual_quantiser(coding: Coding) -> nn.Module:
    from vector_quantize_pytorch import ResidualVQ

    return ResidualVQ(
        dim=coding.code_dim,
        num_quantizers=coding.num_codebooks,
        codebook_size=coding.codebook_size,
        kmeans_init=True,
        kmeans_iters=Bottleneck.KMEANS_ITERATIONS,
        decay=Bottleneck.DECAY,
        sync_codebook=False,
        rotation_trick=False,
    )


def fsq_levels(codebook_size: int) -> tuple[int, ...]:
    if codebook_size not in FSQ_LEVELS:
        raise ValueError(f"codebook_size = {codebook_size}: with fsq expected one of {sorted(FSQ_LEVELS)}")
    return FSQ_LEVELS[codebook_size]


def nearest(rows: Tensor, entries: Tensor) -> Tensor:
    """Index of the entry closest to each row, int64 [N]."""
    with torch.autocast(rows.device.type, enabled=False):
        return torch.addmm(entries.square().sum(1), rows, entries.T, alpha=-2.0).argmin(1)


def place(codebook: Any, rows: Tensor) -> None:
    """Put the entries where the rows of all ranks are, by k-means, unless they have their places."""
    if codebook.initted:
        return
    codebook.init_embed_(ranks.gathered(rows).unsqueeze(0))
    ranks.from_first(list(codebook.buffers()))


@dataclass(frozen=True)
class Followed:
    """What became of a codebook's entries."""

    used: Tensor  # share that had members
    restarted: Tensor  # how many


@torch.no_grad()
def follow(codebook: Any, rows: Tensor, indices: Tensor) -> Followed:
    """Move the entries towards the means of their members on all ranks, restart unused ones."""
    own = torch.bincount(indices, minlength=codebook.codebook_size).to(rows.dtype)
    sums = torch.zeros_like(codebook.embed[0]).index_add_(0, indices, rows)
    seen = ranks.total(torch.cat([own.unsqueeze(1), sums], dim=1))
    members, total = seen[:, 0], seen[:, 1:]
    codebook.cluster_size[0].lerp_(members, 1 - Bottleneck.DECAY)
    codebook.embed_avg[0].lerp_(total, 1 - Bottleneck.DECAY)
    even = float(members.sum()) / codebook.codebook_size
    codebook.reset_cluster_size = even
    dead = codebook.cluster_size < Bottleneck.DEAD_SHARE * even
    if dead.any():
        codebook.replace(ranks.gathered(rows).unsqueeze(0), batch_mask=dead)
        ranks.from_first(list(codebook.buffers()))
    codebook.update_ema()
    return Followed(members.gt(0).float().mean(), dead.sum())


def share_used(indices: Tensor, codebook_size: int) -> Tensor:
    """The share of entries that some row uses."""
    return torch.bincount(indices.reshape(-1).long(), minlength=codebook_size).gt(0).float().mean()


def beam_search(rows: Tensor, codebooks: Tensor, beam_size: int) -> Tensor:
    """Indices [N, num_codebooks] whose entries sum up closest to each row, keeping the `beam_size` best prefixes.

    One prefix is greedy residual quantisation. |r - c|^2 - |r|^2 = |c|^2 - 2 r.c is added up per prefix.
    """
    residual = rows.unsqueeze(1)  # [N, K, D]
    score = rows.new_zeros(len(rows), 1)
    chosen = torch.zeros(len(rows), 1, 0, dtype=torch.int64, device=rows.device)
    for entries in codebooks:
        cost = entries.square().sum(1) - 2 * residual @ entries.T + score.unsqueeze(-1)  # [N, K, C]
        size = cost.shape[2]
        score, flat = cost.flatten(1).topk(min(beam_size, cost[0].numel()), dim=1, largest=False)
        prefix, entry = flat // size, flat % size
        residual = gather(residual, prefix) - entries[entry]
        chosen = torch.cat([gather(chosen, prefix), entry.unsqueeze(-1)], dim=-1)
    return chosen[:, 0]


def gather(values: Tensor, index: Tensor) -> Tensor:
    """Values [N, K, D] at index [N, K'] -> [N, K', D]."""
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[2]))


def given_latent(request: Request, latent_dim: int) -> Masked:
    """The request's latent at its exact lengths: value [B, T, latent_dim], mask bool [B, T]."""
    steps = request.num_steps.to(request.conditions["latent"].value.device)
    mask = torch.arange(int(steps.max()) if len(steps) else 0, device=steps.device) < steps.unsqueeze(1)
    latent = request.conditions["latent"]
    value = (latent.value * latent.mask.unsqueeze(-1))[:, : mask.shape[1]]
    assert value.shape[1] == mask.shape[1] and value.shape[2] == latent_dim, "a latent per step"
    return Masked(value * mask.unsqueeze(-1), mask)
