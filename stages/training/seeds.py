"""Randomness without state: seeds and orders are functions of what they are for, so nothing of them is ever saved."""

import hashlib
import json
from functools import lru_cache

import numpy as np


def derive(*parts: int | str) -> int:
    """A seed in [0, 2^63) of these parts alone: a hash, equal on every machine, unlike Python's own."""
    text = json.dumps(parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, length: int) -> np.ndarray:
    """The order of `length` examples in an epoch. int64 [length], read-only.

    Kept until two others were asked for: every batch asks, and shuffling a large corpus takes longer than a step.
    """
    key = np.array([seed, epoch], dtype=np.uint64)
    order = np.random.Generator(np.random.Philox(key=key)).permutation(length)
    order.flags.writeable = False
    return order


def positions(seed: int, first: int, num: int, length: int) -> list[tuple[int, int]]:
    """(epoch, example) at `num` places from `first` of the endless sequence of shuffled epochs."""
    places = range(first, first + num)
    orders = {epoch: permutation(seed, epoch, length) for epoch in {place // length for place in places}}
    return [(place // length, int(orders[place // length][place % length])) for place in places]
