"""What a training step costs on a GPU: mean flow against plain flow matching, bfloat16, torch.compile, and the floor.

The floor of a step is the time of the network's matrix products alone, forward and backward, in bfloat16 as training
computes them: three products of the same size for each weight matrix. What lies above it are the launches of small
kernels, noise and losses.
"""

import time

import pytest
import torch

from stages.training import batches
from tests.benchmarks import table
from tests.benchmarks.test_mean_flow import STEPS, VARIANTS, clips, model_of

pytestmark = [pytest.mark.bench, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]
GPU = torch.device("cuda")
SIZES = {"small": (16, 192, 4), "large": (64, 512, 8)}
"""Clips of two seconds, width and depth of the flow."""
NUM = 21


def step_of(family, size, halves=True, compiled=False, **changes):
    """Loss and gradient of the flow alone, awaited."""
    batch, width, depth = SIZES[size]
    model = model_of(family, encoder="absent", flow_width=width, flow_depth=depth, **changes).train().to(GPU)
    data = batches.to(clips(batch), GPU)
    if compiled:
        model.flow.velocity.network.compile()

    def step():
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=halves):
            loss = model.loss(data, "model", 0).total.mean()
        loss.backward()
        torch.cuda.synchronize()

    return step


def floor_of(size):
    """The matrix products of the network's blocks, in one pass forward and backward."""
    batch, width, depth = SIZES[size]
    rows = torch.randn(batch * STEPS, width, device=GPU, dtype=torch.bfloat16)
    wide = torch.randn(batch * STEPS, 4 * width, device=GPU, dtype=torch.bfloat16)
    matrix = torch.randn(width, 4 * width, device=GPU, dtype=torch.bfloat16)

    def products():
        for _ in range(2 * depth):
            rows @ matrix  # forward
            wide @ matrix.T  # the gradient of what came in
            rows.T @ wide  # the gradient of the matrix
        torch.cuda.synchronize()

    return products


def ratios(one, other):
    """Wall time of one to the other's: what the GPU does is no CPU time. Both are warmed up twice."""
    one(), other()
    return [a / b for a, b in table.pairs(one, other, NUM, time.perf_counter)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_step_time_against_flow_matching(size, variant, figure):
    found = ratios(step_of("improved_mean_flow", size, **VARIANTS[variant]), step_of("flow_matching", size))
    figure(table.of(f"gpu_{size}_step_{variant}", found, "of flow matching's time (bfloat16)", 2.2, 1.5))


@pytest.mark.parametrize("size", SIZES)
def test_step_time_in_bfloat16_against_float32(size, figure):
    found = ratios(step_of("improved_mean_flow", size), step_of("improved_mean_flow", size, halves=False))
    figure(table.of(f"gpu_{size}_step_bfloat16", found, "of float32's time (improved mean flow)"))


@pytest.mark.parametrize("size", SIZES)
def test_step_time_against_its_matrix_products(size, figure):
    found = ratios(step_of("improved_mean_flow", size), floor_of(size))
    figure(table.of(f"gpu_{size}_step_floor", found, "times the matrix products of a plain step"))
    own = step_of("improved_mean_flow", size)
    own(), own()
    figure(
        table.of(
            f"gpu_{size}_step",
            [1000 * table.seconds(own, time.perf_counter) for _ in range(NUM)],
            "ms (improved mean flow, bfloat16)",
        )
    )


@pytest.mark.parametrize("size", SIZES)
def test_training_memory_against_flow_matching(size, figure):
    def peak(step):
        step()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before

    found = [peak(step_of("improved_mean_flow", size)) / peak(step_of("flow_matching", size))]
    figure(table.of(f"gpu_{size}_memory", found, "of flow matching's peak", 2.0, 1.3))


@pytest.mark.parametrize("size", SIZES)
def test_step_time_compiled(size, figure):
    found = ratios(step_of("improved_mean_flow", size, compiled=True), step_of("improved_mean_flow", size))
    figure(table.of(f"gpu_{size}_step_compiled", found, "of the time without torch.compile (improved mean flow)"))
