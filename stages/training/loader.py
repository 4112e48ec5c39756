"""The training data as a function of the step: no state, so that a resumed run sees what it would have seen.

A clip of T steps counts as ceil(T / crop_steps) examples, so that every second of the corpus is equally likely. The
examples are shuffled anew each epoch (Philox of seed and epoch); step s takes the places s B to (s + 1) B of the
endless sequence of epochs, of which each of several ranks reads its share. One thread reads ahead.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from stages.pipeline import ranks
from stages.protocols.model import Batch
from stages.protocols.spec import Code, Spec
from stages.training import batches, seeds

LONGEST = 2**62
"""More steps than any clip has: the crop that takes it whole."""


@dataclass(frozen=True)
class Dataset:
    """Encoded clips and how to look at them."""

    codes: Sequence[Code]
    spec: Spec
    view: Callable[[Code, int, int], Code]
    """Representation.view: (code, num_steps, seed) -> one example."""


class Loader:
    """Batches of one split, by step."""

    def __init__(self, dataset: Dataset, batch_size: int, crop_steps: int, seed: int) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.crop_steps = crop_steps if crop_steps and dataset.spec.data.num_steps is None else LONGEST
        self.seed = seed
        lengths = np.array([len(code.data) for code in dataset.codes], dtype=np.int64)
        self.clip_of = np.repeat(np.arange(len(lengths)), -(-lengths // self.crop_steps))

    def __len__(self) -> int:
        """Examples in an epoch."""
        return len(self.clip_of)

    def batch(self, step: int) -> Batch:
        """The batch of a training step, or this rank's share of it."""
        if not len(self):
            raise ValueError("no clip to train on: the train split is empty; add pieces or lower the other fractions")
        own = ranks.share(self.batch_size)
        return self._collate(seeds.positions(self.seed, step * self.batch_size + own.start, len(own), len(self)))

    def fixed(self, num: int) -> list[Batch]:
        """The first `num` examples of epoch 0 in batches, the same whenever asked: what validation looks at."""
        chosen = seeds.positions(self.seed, 0, min(num, len(self)), len(self)) if len(self) else []
        return [self._collate(chosen[i : i + self.batch_size]) for i in range(0, len(chosen), self.batch_size)]

    def _collate(self, places: list[tuple[int, int]]) -> Batch:
        codes = [self.dataset.codes[int(self.clip_of[example])] for _, example in places]
        own = [
            seeds.derive(self.seed, epoch, example - int(np.searchsorted(self.clip_of, self.clip_of[example])), code.id)
            for (epoch, example), code in zip(places, codes, strict=True)
        ]
        views = [self.dataset.view(code, self.crop_steps, seed) for code, seed in zip(codes, own, strict=True)]
        return batches.collate(views, own, self.dataset.spec)


def ahead(make: Callable[[int], Batch], steps: range, depth: int = 2) -> Generator[Batch]:
    """make(step) for each step, computed up to `depth` steps early in a thread; its errors appear at their step."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="loader")
    try:
        pending = deque(pool.submit(make, step) for step in steps[:depth])
        for step in steps:
            batch = pending.popleft().result()
            if step + depth in steps:
                pending.append(pool.submit(make, step + depth))
            yield batch
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
