"""From the records of a cache to what a model sees: padded, masked, with every condition of the spec.

Shapes: B clips, T the longest clip's steps, *F one step's frame. Real values become float32, classes int64.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from stages.protocols.model import Batch, Masked
from stages.protocols.spec import Code, Field, Spec


def collate(codes: Sequence[Code], seeds: Sequence[int], spec: Spec) -> Batch:
    """One batch of the codes, in their order; a condition that a clip lacks is masked."""
    data = pad([code.data for code in codes], [code.mask for code in codes], spec.data)
    conditions = {}
    for name, field in spec.conditions.items():
        values = [code.conditions.get(name, np.zeros((0, *field.frame))) for code in codes]
        padded = pad(values, [np.ones(len(value), dtype=bool) for value in values], field)
        conditions[name] = padded if padded.value.shape[1] else unknown(len(codes), field)
    return Batch(tuple(code.id for code in codes), torch.tensor(seeds, dtype=torch.int64), data, conditions)


def pad(values: Sequence[np.ndarray], masks: Sequence[np.ndarray], field: Field) -> Masked:
    """Arrays [T_i, *F] as one [B, T, *F], zero and masked beyond each one's end."""
    num_steps = max(map(len, values))
    dtype = np.float32 if field.num_classes is None else np.int64
    value = np.zeros((len(values), num_steps, *field.frame), dtype)
    mask = np.zeros((len(values), num_steps, *masks[0].shape[1:]), bool)
    for row, (one, present) in enumerate(zip(values, masks, strict=True)):
        value[row, : len(one)] = one
        mask[row, : len(one)] = present
    return Masked(torch.from_numpy(value), torch.from_numpy(mask))


def unknown(num: int, field: Field) -> Masked:
    """A condition that no clip has: `num` times nothing. Masked [B, T, *F], T = 1 where the field leaves it open."""
    num_steps = field.num_steps or 1
    dtype = torch.float32 if field.num_classes is None else torch.int64
    value = torch.zeros((num, num_steps, *field.frame), dtype=dtype)
    return Masked(value, torch.zeros((num, num_steps), dtype=torch.bool))


def select(batch: Batch, rows: Sequence[int]) -> Batch:
    """The clips at these rows, in this order, at their padded length."""
    index = torch.tensor(rows, dtype=torch.int64)

    def part(masked: Masked) -> Masked:
        place = index.to(masked.value.device)
        return Masked(masked.value[place], masked.mask[place])

    conditions = {name: part(masked) for name, masked in batch.conditions.items()}
    return Batch(tuple(batch.ids[row] for row in rows), batch.seeds[index], part(batch.data), conditions)


def split(batch: Batch, num: int) -> list[Batch]:
    """The batch as `num` micro-batches of nearly equal size, in order; fewer where it has fewer clips."""
    if num == 1:
        return [batch]
    return [select(batch, rows.tolist()) for rows in np.array_split(np.arange(len(batch.ids)), num) if len(rows)]


def to(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device; seeds stay on the CPU, where generators are made."""
    if device.type == "cpu":
        return batch

    def move(masked: Masked) -> Masked:
        return Masked(masked.value.to(device, non_blocking=True), masked.mask.to(device, non_blocking=True))

    conditions = {name: move(masked) for name, masked in batch.conditions.items()}
    return replace(batch, data=move(batch.data), conditions=conditions)
