"""What a training step waits for: a batch of 16 random two-second crops out of mapped shards of an hour of audio."""

import itertools

import numpy as np
import pytest

from stages.pipeline import shards
from stages.protocols.spec import Code
from stages.representations.mdct import Mdct
from stages.training.loader import Dataset, Loader
from tests.benchmarks import table

pytestmark = pytest.mark.bench
NUM_SHARDS, NUM_CLIPS, NUM_STEPS = 10, 9, 3000  # 90 clips of 40 s: an hour


@pytest.fixture
def folder(tmp_path):
    data = np.random.Generator(np.random.Philox(0)).standard_normal((NUM_STEPS, 320)).astype(np.float16)
    mask, side = np.ones(NUM_STEPS, bool), {"num_samples": np.array([NUM_STEPS * 320])}
    entries = [
        shards.write_shard(tmp_path, k, [Code(f"{k}-{i}", data + i, mask, side=side) for i in range(NUM_CLIPS)])
        for k in range(NUM_SHARDS)
    ]
    shards.write_index(tmp_path, "v", entries)
    return tmp_path


def test_a_batch_of_crops(figure, folder):
    representation = Mdct(Mdct.Config())
    dataset = Dataset(shards.Shards(folder), representation.spec, representation.view)
    loader = Loader(dataset, batch_size=16, crop_steps=150, seed=0)
    steps = itertools.count()
    loader.batch(next(steps))
    found = [1000 * table.cpu_seconds(lambda: loader.batch(next(steps))) for _ in range(101)]
    figure(table.of("batch_of_16_crops", found, "ms (float16 shards to float32 tensors)", must=2.0, aim=1.0))


def test_crops_alone(figure, folder):
    """Without the loader's order and padding: find, map and cut."""
    representation, codes = Mdct(Mdct.Config()), shards.Shards(folder)
    random = np.random.Generator(np.random.Philox(1))

    def crops():
        for seed in random.integers(2**62, size=16):
            np.array(representation.view(codes[int(seed) % len(codes)], 150, int(seed)).data)

    crops()
    figure(table.of("16_crops", [1000 * table.cpu_seconds(crops) for _ in range(101)], "ms"))


def test_against_raw_mapped_reading(figure, folder):
    """The same bytes out of the same mapped files, without records, digests and views: whole clips, and crops of 2 s."""
    codes = shards.Shards(folder)
    raw = [shards.mapped(path)["data"] for path in sorted(folder.glob("*.safetensors"))]
    random = np.random.Generator(np.random.Philox(2))
    places = [(int(clip), int(start)) for clip, start in zip(random.integers(len(codes), size=256), random.integers(0, NUM_STEPS - 150, 256), strict=True)]

    def ours(num_steps, places):
        for clip, start in places:
            np.array(codes[clip].data[start : start + num_steps])

    def bare(num_steps, places):
        for clip, start in places:
            first = clip % NUM_CLIPS * NUM_STEPS + start
            np.array(raw[clip // NUM_CLIPS][first : first + num_steps])

    whole = [(clip, 0) for clip in range(len(codes))]
    for name, num_steps, chosen in (("clips", NUM_STEPS, whole), ("crops", 150, places)):
        pairs = table.pairs(lambda: bare(num_steps, chosen), lambda: ours(num_steps, chosen), 41)
        figure(table.of(f"shard_reading_{name}", [one / other for one, other in pairs], "of raw mapped reading", 0.6, 0.9))
