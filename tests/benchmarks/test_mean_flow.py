"""What a mean flow costs: decoding with it on one thread, and its training step against plain flow matching."""

import numpy as np
import pytest
import torch

from stages.families.improved_mean_flow import ImprovedMeanFlow
from stages.protocols.model import Batch, Masked, Request
from stages.protocols.spec import Statistics
from stages.representations.mdct import Mdct
from tests.benchmarks import table

pytestmark = pytest.mark.bench
BINS, DURATION_S = 320, 10


def flow(**changes):
    """The default model, untrained: its speed does not depend on the weights."""
    torch.manual_seed(0)
    representation = Mdct(Mdct.Config())
    statistics = Statistics(np.full(BINS, 99), np.zeros(BINS), np.geomspace(1.0, 1e-3, BINS), None)
    config = ImprovedMeanFlow.Config("convnext", latent_dim=64, width=192, depth=3, flow_start=0.0, **changes)
    return ImprovedMeanFlow(config, representation.spec, statistics, representation.signal)


def test_decoding_with_the_flow(figure):
    torch.set_num_threads(1)
    model, steps = flow().eval(), 75 * DURATION_S
    latent = Masked(torch.randn(1, steps, 64), torch.ones(1, steps, dtype=torch.bool))
    request = Request(torch.tensor([1]), torch.tensor([steps]), {"latent": latent})

    @torch.no_grad()
    def decode():
        model.generate(request, model.Sampling())

    decode()
    factors = [DURATION_S / table.cpu_seconds(decode) for _ in range(21)]
    figure(table.of("decode_with_flow", factors, "x real time (latent to MDCT, float32, 1 thread)", 60.0, 250.0))


def test_training_step_against_plain_flow_matching(figure):
    """Only the flow's part of the step; plain: r = t for all clips, which needs no JVP."""
    torch.set_num_threads(1)
    mask = torch.ones(8, 75, dtype=torch.bool)
    batch = Batch(tuple("abcdefgh"), torch.arange(8), Masked(torch.randn(8, 75, BINS), mask), {})
    features, y = torch.randn(8, 75, 192), torch.randn(8, 75, BINS)

    def step(model):
        def run():
            loss, _ = model.flow_loss(batch, y, features)
            loss.mean().backward()

        return run

    pairs = table.pairs(step(flow(fraction_equal=0.5)), step(flow(fraction_equal=1.0)), 21)
    figure(table.of("mean_flow_step", [a / b for a, b in pairs], "of plain flow matching's CPU time, r < t in half"))
