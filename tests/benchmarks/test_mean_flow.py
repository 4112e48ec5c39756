"""What mean flows cost: decoding on one thread, and a training step's time and memory against plain flow matching.

A training step here is the flow alone (no codec, which would hide the difference): loss and gradient of the same
network on the same batch of 16 x 2 s, float32, without the optimiser.
"""

import subprocess
import sys

import numpy as np
import pytest
import torch

from stages.pipeline import plugins
from stages.protocols.model import Batch, Masked, Request
from stages.protocols.spec import Statistics
from stages.representations.mdct import Mdct
from tests.benchmarks import table

pytestmark = pytest.mark.bench
BINS, DURATION_S, BATCH, STEPS, WIDTH, DEPTH = 320, 10, 16, 150, 192, 4
VARIANTS = {"boundary": {}, "head": {"velocity": "head"}}


def model_of(family, **changes):
    """The default model, untrained: its speed does not depend on the weights."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    representation, kind = Mdct(Mdct.Config()), plugins.load("families", family)
    statistics = Statistics(np.full(BINS, 99), np.zeros(BINS), np.geomspace(1.0, 1e-3, BINS), None)
    config = kind.Config("convnext", latent_dim=64, width=192, depth=3, flow_start=0.0, **changes)
    return kind(config, representation.spec, statistics, representation.signal)


def step_of(family, batch=BATCH, **changes):
    """Loss and gradient of the flow alone."""
    model = model_of(family, encoder="absent", flow_width=WIDTH, flow_depth=DEPTH, **changes).train()
    data = clips(batch)

    def step():
        model.zero_grad()
        model.loss(data, "model", 0).total.mean().backward()

    return step


def clips(num):
    """So many crops of two seconds, of noise."""
    data = torch.randn(num, STEPS, BINS, generator=torch.Generator().manual_seed(1))
    present = torch.ones(num, STEPS, dtype=torch.bool)
    return Batch(tuple(map(str, range(num))), torch.arange(num), Masked(data, present), {})


def test_decoding_with_the_flow(figure):
    model, steps = model_of("improved_mean_flow").eval(), 75 * DURATION_S
    latent = Masked(torch.randn(1, steps, 64), torch.ones(1, steps, dtype=torch.bool))
    request = Request(torch.tensor([1]), torch.tensor([steps]), {"latent": latent})

    @torch.no_grad()
    def decode():
        model.generate(request, model.Sampling())

    decode()
    factors = [DURATION_S / table.seconds(decode) for _ in range(21)]
    figure(table.of("decode_with_flow", factors, "x real time (latent to MDCT, float32, 1 thread)", 60.0, 250.0))


@pytest.mark.parametrize("variant", VARIANTS)
def test_step_time_against_flow_matching(variant, figure):
    pairs = table.pairs(step_of("improved_mean_flow", **VARIANTS[variant]), step_of("flow_matching"), 21)
    unit = "of flow matching's CPU time (16 x 2 s, float32, 1 thread)"
    figure(table.of(f"improved_mean_flow_step_{variant}", [a / b for a, b in pairs], unit, 2.2, 1.5))


MEMORY = """
import re
from pathlib import Path
from tests.benchmarks.test_mean_flow import step_of

def peak():  # getrusage's would begin at that of the process that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

step_of("flow_matching", batch=1)()
before, step = peak(), step_of({family!r}, **{changes!r})
for _ in range(3):
    step()
print(peak() - before)
"""


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_memory_against_flow_matching(variant, figure):
    """What three steps add to a process's peak, each in a process of its own."""

    def measured(family, **changes):
        code = MEMORY.format(family=family, changes=changes)
        done = subprocess.run([sys.executable, "-c", code], cwd=table.ROOT, capture_output=True, text=True, check=True)
        return int(done.stdout)

    ratios = [measured("improved_mean_flow", **VARIANTS[variant]) / measured("flow_matching") for _ in range(3)]
    figure(table.of(f"improved_mean_flow_memory_{variant}", ratios, "of flow matching's peak, 16 x 2 s", 2.0, 1.3))
