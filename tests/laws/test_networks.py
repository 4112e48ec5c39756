"""What every network holds, and the standardisation by training statistics."""

import numpy as np
import pytest
import torch

from stages.networks.convnext import ConvNeXt
from stages.networks.standardise import Standardise
from stages.protocols.spec import Statistics


def network(modulation_width=None):
    torch.manual_seed(0)
    return ConvNeXt(8, 2, 0.0, modulation_width).double().eval()


@pytest.mark.parametrize("modulation_width", [None, 4])
def test_shape_gradients_and_order_of_clips(modulation_width):
    model = network(modulation_width)
    x = torch.randn(3, 11, 8, dtype=torch.float64)
    modulation = None if modulation_width is None else torch.randn(3, 4, dtype=torch.float64)
    y = model(x, modulation, None)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    order = [2, 0, 1]
    permuted = model(x[order], None if modulation is None else modulation[order], None)
    torch.testing.assert_close(permuted, y[order], rtol=1e-13, atol=1e-13)


def test_padding_does_not_change_a_clip():
    model, x = network(), torch.randn(1, 9, 8, dtype=torch.float64)
    alone = model(x, None, torch.ones(1, 9, dtype=torch.bool))
    padded = torch.cat([x, torch.randn(1, 30, 8, dtype=torch.float64)], dim=1)
    mask = torch.arange(39).unsqueeze(0) < 9
    found = model(padded, None, mask)
    torch.testing.assert_close(found[:, :9], alone, rtol=1e-12, atol=1e-12)
    assert not found[:, 9:].any()
    torch.testing.assert_close(model(x, None, None), alone, rtol=1e-12, atol=1e-12)


def test_modulation_changes_what_a_network_computes():
    model, x = network(4), torch.randn(2, 5, 8, dtype=torch.float64)
    one, other = (model(x, torch.full((2, 4), value, dtype=torch.float64), None) for value in (0.0, 1.0))
    assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("power", [0.0, 0.35, 1.0])
def test_standardised_data_have_unit_power_and_come_back(power):
    std = np.array([3.0, 1.0, 0.01])
    layer = Standardise(Statistics(np.full(3, 9), np.zeros(3), std, None), power).double()
    x = torch.randn(50000, 3, dtype=torch.float64) * torch.from_numpy(std)
    assert abs(float(layer(x).square().mean()) - 1) < 0.05
    torch.testing.assert_close(layer.inverse(layer(x)), x)
    if power == 1.0:
        torch.testing.assert_close(layer(x).std(0), torch.ones(3).double(), rtol=0.02, atol=0)
    ratio = layer.scale[0] / layer.scale[1]
    assert abs(float(ratio) - 3.0**power) < 1e-6


def test_a_bin_that_is_always_zero_stays_zero():
    layer = Standardise(Statistics(np.full(2, 9), np.zeros(2), np.array([1.0, 0.0]), None), 1.0)
    x = torch.tensor([[2.0, 0.0]])
    assert layer(x)[0, 1] == 0 and bool(layer(x).isfinite().all())
