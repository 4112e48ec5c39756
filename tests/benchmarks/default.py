"""The first experiment of params.yaml, ready to train on noise: its model and numbers, in float32, on one thread.

Without Muon, whose time does not depend on the batch: it would hide part of what is compared here.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from stages import train
from stages.media import audio
from stages.pipeline import params, plugins, shards
from stages.training import loop
from stages.training.loader import Dataset, Loader
from tests.benchmarks import table

NAME, RATE_HZ = "autoencoder_mdct", 24_000


def config() -> train.Config:
    """With every step logged, which asks most of tracking."""
    tree = params.read(table.ROOT / "params.yaml")
    needs = train.configure(tree, NAME)
    assert needs is not None, tree.problems
    found: train.Config = needs.config
    plain = {"precision": "float32", "optimizer": "adamw"}
    return replace(found, train=replace(found.train, num_threads=1, log_every=1, **plain))


def ready(folder: Path, listen=lambda row: None) -> tuple[loop.Run, Loader]:
    """A run at its first step, and its batches, from four clips of five seconds."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    chosen = config()
    kind = plugins.load("representations", chosen.representation)
    representation = kind(kind.Config())
    spec, codes = representation.spec, []
    for number in range(4):
        samples = np.random.Generator(np.random.Philox(number)).uniform(-0.5, 0.5, 5 * RATE_HZ)
        codes.append(representation.encode(audio.Clip(str(number), samples.astype(np.float32), RATE_HZ)))
    shards.write_index(folder, spec.version, [shards.write_shard(folder, 0, codes)])
    family = plugins.load("families", chosen.family)
    settings = params.parse(family.Config, chosen.model, where="model")
    statistics = shards.statistics(shards.sums(codes, spec.data))
    model = family(settings, spec, statistics, representation.signal).train()
    nothing = Dataset([], spec, representation.view)
    run = loop.Run(model, nothing, chosen.train, folder / "work", listen)
    data = Dataset(shards.Shards(folder, spec.version), spec, representation.view)
    return run, Loader(data, chosen.train.batch_size, chosen.train.crop_steps, chosen.train.seed)
