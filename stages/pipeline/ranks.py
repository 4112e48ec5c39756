"""Processes that train one model together: who this one is, and what they tell each other by torch.distributed.

A rank is one of several processes, numbered from 0; torchrun says which by RANK, WORLD_SIZE and LOCAL_RANK. Rank 0
alone writes. A process of its own is rank 0 of 1, and then everything here is the identity and costs nothing.

What every rank must decide alike is computed from sums over all ranks, which have the same bits everywhere (each part
of a sum is added up in one place and handed round), or is rank 0's. gloo carries it between CPUs, nccl between GPUs.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MEETING = "PARTITA_MEETING"
"""A file by which the ranks of one machine find each other; without it they do by MASTER_ADDR and MASTER_PORT."""
PATIENCE = timedelta(hours=2)
"""The longest that others wait while rank 0 validates and writes. Whoever starts the ranks ends those of a dead one."""

_apart = False


class Lost(RuntimeError):
    """Another rank has gone; whoever started them starts all again."""


def launched() -> bool:
    """Whether somebody started this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def rank() -> int:
    return int(os.environ["RANK"]) if launched() else 0


def first() -> bool:
    """Whether this is the rank that writes."""
    return rank() == 0


def local() -> int:
    """Which of this machine's ranks, hence which of its visible GPUs."""
    return int(os.environ.get("LOCAL_RANK", rank())) if launched() else 0


def count() -> int:
    """How many ranks work together now."""
    from torch import distributed

    together = not _apart and distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if together else 1


@contextmanager
def joined(num: int) -> Iterator[None]:
    """Inside, this is one of `num` ranks, which all enter and leave together. ValueError where others were started."""
    found = int(os.environ["WORLD_SIZE"]) if launched() else 1
    if found != num:
        raise ValueError(
            f"train.processes = {num}, but WORLD_SIZE says that {found} were started: results depend on the number, "
            "so make both the same"
        )
    if num == 1:
        yield
        return
    import torch
    from torch import distributed

    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(local())
    meeting = os.environ.get(MEETING)
    with talking():
        distributed.init_process_group(
            "nccl" if gpu else "gloo", f"file://{meeting}" if meeting else "env://", PATIENCE, num, rank()
        )
    yield
    barrier()  # nobody leaves while rank 0 writes: if it dies, all begin again
    distributed.destroy_process_group()  # not after an error, where the others may never answer


@contextmanager
def talking() -> Iterator[None]:
    """Inside, what torch.distributed fails with becomes Lost."""
    try:
        yield
    except RuntimeError as problem:
        raise Lost(f"rank {rank()} lost another: {str(problem).splitlines()[0][:200]}") from problem


@contextmanager
def apart() -> Iterator[None]:
    """Inside, this rank works as if alone: for what the ranks do not do in step."""
    global _apart
    _apart = True
    try:
        yield
    finally:
        _apart = False


@contextmanager
def first_alone() -> Iterator[None]:
    """Rank 0 goes through the block before all others: it mends what it finds broken."""
    if not first():
        barrier()
    yield
    if first():
        barrier()


def share(num: int) -> range:
    """Which of `num` things are this rank's: a run of them, as long as the others' give or take one, in rank order."""
    ranks = count()
    return range(num * rank() // ranks, num * (rank() + 1) // ranks) if ranks > 1 else range(num)


def barrier() -> None:
    most(0)


def most(value: int) -> int:
    """The largest that any rank says."""
    if count() == 1:
        return value
    import torch
    from torch import distributed

    said = torch.tensor(value, device=device())
    with talking():
        distributed.all_reduce(said, distributed.ReduceOp.MAX)
    return int(said)


def total(values: "Tensor") -> "Tensor":
    """The sum over ranks, of one shape everywhere; in place."""
    if count() > 1:
        from torch import distributed

        with talking():
            distributed.all_reduce(values)
    return values


def gathered(rows: "Tensor") -> "Tensor":
    """The rows [N, ...] of all ranks, in rank order; each rank has its own N."""
    if count() == 1:
        return rows
    import torch
    from torch import distributed

    nums = torch.zeros(count(), dtype=torch.int64, device=rows.device)
    nums[rank()] = len(rows)
    longest = int(total(nums).max())
    padded = rows.new_zeros(longest, *rows.shape[1:])
    padded[: len(rows)] = rows
    found = [torch.empty_like(padded) for _ in range(count())]
    with talking():
        distributed.all_gather(found, padded)
    return torch.cat([part[:num] for part, num in zip(found, nums.tolist(), strict=True)])


def told(value: Any) -> list[Any]:
    """What every rank says, in rank order: small things that pickle."""
    if count() == 1:
        return [value]
    from torch import distributed

    found: list[Any] = [None] * count()
    with talking():
        distributed.all_gather_object(found, value)
    return found


def from_first(tensors: "Sequence[Tensor]") -> None:
    """Overwrite with rank 0's."""
    if count() > 1:
        from torch import distributed

        with talking():
            for tensor in tensors:
                distributed.broadcast(tensor, 0)


def require_same(tensors: "Mapping[str, Tensor]") -> None:
    """RuntimeError naming the tensors that are not the same on all ranks, bit by bit."""
    if count() == 1:
        return
    digests = told({name: digest(tensor) for name, tensor in tensors.items()})
    differing = sorted(name for name in digests[0] if any(other.get(name) != digests[0][name] for other in digests))
    if differing:
        raise RuntimeError(
            f"these differ between ranks, so their training has come apart: {', '.join(differing[:5])}"
            f"{' ...' if len(differing) > 5 else ''}. What follows the data in a family must go through pipeline/ranks"
        )


def digest(tensor: "Tensor") -> bytes:
    import torch

    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.blake2b(raw.numpy().tobytes(), digest_size=8).digest()


def device() -> "torch.device":
    """Where nccl or gloo wants its numbers."""
    import torch
    from torch import distributed

    return torch.device("cuda", local()) if distributed.get_backend() == "nccl" else torch.device("cpu")
