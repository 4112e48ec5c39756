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
    found = [1000 * table.seconds(lambda: loader.batch(next(steps))) for _ in range(101)]
    figure(table.of("batch_of_16_crops", found, "ms (float16 shards to float32 tensors)", must=2.0, aim=1.0))


def test_crops_alone(figure, folder):
    """Without the loader's order and padding: find, map and cut."""
    representation, codes = Mdct(Mdct.Config()), shards.Shards(folder)
    random = np.random.Generator(np.random.Philox(1))

    def crops():
        for seed in random.integers(2**62, size=16):
            np.array(representation.view(codes[int(seed) % len(codes)], 150, int(seed)).data)

    crops()
    figure(table.of("16_crops", [1000 * table.seconds(crops) for _ in range(101)], "ms"))


@pytest.mark.parametrize(("what", "num_steps"), [("clips", NUM_STEPS), ("crops", 150)])
def test_against_raw_mapped_reading(figure, folder, what, num_steps):
    """The same bytes of the same mapped files, without records and views: clips in order, or random crops of 2 s."""
    codes = shards.Shards(folder)
    raw = [shards.mapped(path)["data"] for path in sorted(folder.glob("*.safetensors"))]
    random = np.random.Generator(np.random.Philox(2))
    clips = np.arange(len(codes)) if what == "clips" else random.integers(len(codes), size=256)
    places = list(zip(clips.tolist(), random.integers(0, NUM_STEPS - num_steps + 1, len(clips)).tolist(), strict=True))

    def ours():
        for clip, start in places:
            np.array(codes[clip].data[start : start + num_steps])

    def bare():
        for clip, start in places:
            first = clip % NUM_CLIPS * NUM_STEPS + start
            np.array(raw[clip // NUM_CLIPS][first : first + num_steps])

    ratios = [one / other for one, other in table.pairs(bare, ours, 41)]
    figure(table.of(f"shard_reading_{what}", ratios, "of raw mapped reading", must=0.6, aim=0.9))
