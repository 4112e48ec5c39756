"""What the ranks of one training add up: gradients in one flat bucket, and the losses for the log.

    g = (1 / B) sum_r sum_{i in share r} d L_i / d theta       B clips in the whole batch, however they are shared

The bucket is summed after the micro-batches, in the open, instead of by DistributedDataParallel around the model. That
wrapper hooks `forward` and its backward; here several players own parts of the parameters and call
backward(inputs=...), schedules freeze and thaw parameters, and mean flows call the network by torch.func.jvp, which
refuses the wrapper, while a call of the module inside it leaves gradients unsynchronised without a word. A sum of what
backward left in `.grad` cannot be gone round: whatever made the gradient, it is in it.
"""

from collections.abc import Sequence

import torch
from torch import nn

from stages.pipeline import ranks
from stages.protocols.model import Loss


def over_ranks(parameters: Sequence[nn.Parameter], num: int) -> int:
    """Replace every gradient by its sum over ranks, and return the sum of `num`.

    A parameter that no rank has a gradient of is left without one, as with one process: an optimiser skips it.
    """
    if ranks.count() == 1:
        return num
    found = [parameter.grad is not None for parameter in parameters]
    parts = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
    counts = torch.tensor([*found, num], dtype=torch.float32, device=ranks.device())
    bucket = ranks.total(torch.cat([*(part.reshape(-1) for part in parts), counts]))
    *sums, counts = bucket.split([*(part.numel() for part in parts), len(counts)])
    *found, num = map(int, counts.tolist())
    for parameter, part, some in zip(parameters, sums, found, strict=True):
        parameter.grad = part.view_as(parameter).to(parameter.dtype) if some else None
    return num


def gathered(losses: Sequence[Loss]) -> list[Loss]:
    """The losses of all ranks' clips as one, in rank order; the same ones where there is one rank."""
    if ranks.count() == 1:
        return list(losses)
    names = list(losses[0].terms)
    rows = torch.cat([torch.stack([loss.total.detach(), *(loss.terms[name] for name in names)], 1) for loss in losses])
    total, *terms = ranks.gathered(rows).unbind(1)
    return [Loss(total, dict(zip(names, terms, strict=True)), losses[0].criterion)]
