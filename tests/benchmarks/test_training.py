"""The training loop against a bare one, and how long it waits for its batches.

Against a bare one: the same model on the same batches, 1.9 million weights, float32, one thread.

The bare loop has its batches ready and does forward, backward and AdamW; the real one reads, crops, collates, checks,
clips, averages and logs besides.
"""

import time
from contextlib import closing

import numpy as np
import pytest
import torch

from stages.media import audio
from stages.pipeline import plugins, shards
from stages.training import loop
from stages.training.config import TrainConfig
from stages.training.loader import Dataset, Loader, ahead
from tests.benchmarks import default, table

pytestmark = pytest.mark.bench
RATE_HZ = 24000


def noise(number):
    generator = np.random.Generator(np.random.Philox(number))
    return audio.Clip(f"clip{number}", generator.uniform(-0.5, 0.5, 10 * RATE_HZ).astype(np.float32), RATE_HZ)


def test_throughput_of_training(figure, tmp_path):
    torch.set_num_threads(1)
    kind = plugins.load("representations", "mdct")
    representation = kind(kind.Config())
    spec = representation.spec
    codes = [representation.encode(noise(number)) for number in range(8)]
    shards.write_index(tmp_path, spec.version, [shards.write_shard(tmp_path, 0, codes)])
    statistics = shards.statistics(shards.sums(codes, spec.data))
    data = Dataset(shards.Shards(tmp_path, spec.version), spec, representation.view)
    family = plugins.load("families", "autoencoder")
    config = TrainConfig(num_steps=10_000, batch_size=16, learning_rate=1e-3, num_threads=1, seed=0, crop_steps=75)

    def model():
        torch.manual_seed(0)
        return family(family.Config("convnext", 64, 192, 3), spec, statistics, representation.signal)

    own, bare = model(), model()
    run = loop.Run(own, Dataset([], spec, representation.view), config, tmp_path / "work", lambda row: None)
    reader = Loader(data, config.batch_size, config.crop_steps, config.seed)
    steps = iter(range(config.num_steps))
    ready = [reader.batch(step) for step in range(8)]
    optimiser = torch.optim.AdamW(bare.parameters(), lr=1e-3, fused=True)

    def real_step():
        step = next(steps)
        run.step(step, reader.batch(step))

    def bare_step():
        optimiser.zero_grad()
        bare.loss(ready[0], "model", 0).total.mean().backward()
        optimiser.step()

    found = table.pairs(bare_step, real_step, num=31)
    ratios = [one / other for one, other in found]
    figure(table.of("training_throughput", ratios, "of a bare loop (autoencoder, 16 x 1 s)", must=0.9, aim=0.97))
    figure(table.of("training_step", [1000 * other for _, other in found], "ms CPU"))


def test_waiting_for_the_loader(figure, tmp_path):
    """The default training's share of wall time between asking for a batch and having it; one thread reads ahead."""
    run, reader = default.ready(tmp_path)
    shares = []
    with closing(ahead(reader.batch, range(36))) as upcoming:
        for step in range(36):
            asked = time.perf_counter()
            batch = next(upcoming)
            has = time.perf_counter()
            run.step(step, batch)
            shares.append((has - asked) / (time.perf_counter() - asked))
    figure(table.of("loader_wait", shares[5:], "of a training step (default experiment)", must=0.02, aim=0.005))
