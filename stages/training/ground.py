"""Where a flow stands: data = s (y + w x), what x is and what is known of it; and the plainest of all grounds.

Whole: no codec. s is each bin's standard deviation and s y its mean in the training split, w = 1, and the condition is
the clip's class labels, each an embedding that joins the network's modulation; unknown is one more class.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stages.numerics.paths import AverageVelocity
from stages.protocols.model import Batch, Masked, Request
from stages.protocols.spec import Field, Spec, Statistics
from stages.training.velocity import MODULATION_WIDTH, Context

NOISE, TIMES, DROP, HEARD, HIDE = 1, 2, 4, 5, 6
"""Purposes of a clip's random streams (times takes two)."""
OneStep = Callable[[AverageVelocity, Tensor], Tensor]
"""A family's cheapest sampler, sample(u, e [B, ...]) -> x."""
Asked = Callable[[Context], AverageVelocity]
"""The network, told this."""


@dataclass(frozen=True)
class Frame:
    """data = s (mean + size x), and what the network is told of the clips."""

    mean: Tensor  # y, standardised [B, T, F]
    size: Tensor  # w [B, T, F]
    context: Context

    def first(self, mask: Tensor) -> "Frame":
        """The first steps of every clip, those of the mask, bool [B, T'] with T' <= T."""
        num = mask.shape[1]
        return Frame(self.mean[:, :num] * mask.unsqueeze(-1), self.size[:, :num], self.context.first(mask))

    def where(self, chosen: Tensor, other: "Frame") -> "Frame":
        """The `chosen` clips, bool [B], of this; the rest of the other."""
        pick = chosen.reshape(-1, 1, 1)
        mean, size = torch.where(pick, self.mean, other.mean), torch.where(pick, self.size, other.size)
        return Frame(mean, size, self.context.where(chosen, other.context))


@dataclass(frozen=True)
class Frames:
    """What may be told of the same clips."""

    told: Frame  # all that is known
    without: Context  # told's mean and size with the condition withheld: what guidance leads away from
    untold: Frame  # nothing is known


@dataclass(frozen=True)
class Ground:
    """A batch before the flow."""

    loss: Tensor  # [B], of what learns beside the flow
    terms: Mapping[str, Tensor]  # [B] each, detached
    criterion: Tensor  # [B], detached: its share in what validation ranks by
    whole: Tensor  # standardised data [B, T, F]
    frames: Frames | None  # None: the flow does not learn yet


@dataclass(frozen=True)
class Heard:
    """A loss on samples, [B], and its terms."""

    loss: Tensor
    terms: Mapping[str, Tensor]


def per_cell(total: Tensor, mask: Tensor, like: Tensor) -> Tensor:
    """Sums per clip [B] -> means over the cells of `like` [B, T, F] that exist."""
    return total / (mask.sum(1) * like.shape[-1]).clamp_min(1)


class Whole(nn.Module):
    """The data themselves, per-bin standardised, given class labels."""

    scale: Tensor
    mean: Tensor

    def __init__(self, least_std: float, spec: Spec, statistics: Statistics) -> None:
        super().__init__()
        if len(spec.data.frame) != 1 or spec.data.num_classes is not None:
            raise ValueError(f"a flow needs frames of real numbers, this representation has {spec.data}")
        assert statistics.std is not None and statistics.mean is not None, "real data have both"
        std, mean = (torch.from_numpy(one).double() for one in (statistics.std, statistics.mean))
        largest = float(std.max())
        scale = std.clamp_min(max(least_std, 1e-6) * largest if largest > 0 else 1.0)
        self.register_buffer("scale", scale.float())
        self.register_buffer("mean", (mean / scale).float())
        self.latent = self.codes = None
        self.num_features = 0
        self.temperature = torch.ones(())
        self.labels = Labels(spec.conditions) if spec.conditions else None

    @property
    def withholds(self) -> bool:
        """Whether there is a condition to withhold."""
        return self.labels is not None

    def begin_step(self, step: int, num_steps: int) -> bool:
        """The flow learns from the first step on."""
        return True

    def learn(self, batch: Batch, flowing: bool) -> Ground:
        nothing = batch.data.value.new_zeros(len(batch.data.value))
        frames = self.frames(batch.conditions, batch.data.mask)
        return Ground(nothing, {}, nothing, batch.data.value / self.scale, frames)

    def calibrate(self, asked: Asked, sample: OneStep, batches: Iterable[Batch]) -> Mapping[str, float]:
        """There is nothing to choose: noise as it was learned."""
        return {}

    def hear(self, asked: Asked, sample: OneStep, batch: Batch, told: Frame) -> Heard:
        """Nothing here is listened to."""
        return Heard(batch.data.value.new_zeros(len(batch.data.value)), {})

    def frames(self, conditions: Mapping[str, Masked], mask: Tensor) -> Frames:
        mean = self.mean.expand(*mask.shape, -1)
        size, unknown = torch.ones_like(mean), Context(mask)
        if self.labels is not None:
            unknown = Context(mask, label=self.labels({}, len(mask)))
            known = Context(mask, label=self.labels(conditions, len(mask)))
            return Frames(Frame(mean, size, known), unknown, Frame(mean, size, unknown))
        return Frames(Frame(mean, size, unknown), unknown, Frame(mean, size, unknown))

    def given(self, request: Request, mask: Tensor) -> Frames:
        return self.frames(request.conditions, mask)

    def decoding(self, request: Request) -> Tensor:
        """Bool [B]: every clip's noise follows the temperature."""
        return torch.ones(len(request.seeds), dtype=torch.bool)

    def data(self, frame: Frame, x: Tensor) -> Tensor:
        """Flowing x -> data, [B, T, F]; masked where the context says so."""
        return self.scale * (frame.mean + frame.size * x) * frame.context.mask.unsqueeze(-1)


class Labels(nn.Module):
    """Class labels of a clip -> what joins the modulation, [B, MODULATION_WIDTH]; the last row is "unknown"."""

    def __init__(self, fields: Mapping[str, Field]) -> None:
        super().__init__()
        tables = {}
        for name, field in fields.items():
            if field.frame != () or field.num_classes is None or field.num_steps not in (1, None):
                raise ValueError(f"condition {name!r} = {field}: a flow without a codec takes one class label per clip")
            tables[name] = nn.Embedding(field.num_classes + 1, MODULATION_WIDTH)
        self.tables = nn.ModuleDict(tables)

    def forward(self, conditions: Mapping[str, Masked], num: int) -> Tensor:
        rows = []
        for name, table in self.tables.items():
            assert isinstance(table, nn.Embedding)
            index = torch.full((num,), table.num_embeddings - 1, device=table.weight.device)
            if name in conditions:
                value, mask = conditions[name].value, conditions[name].mask
                index = torch.where(mask[:, 0], value[:, 0], index)
            rows.append(table(index))
        return torch.stack(rows).sum(0)
