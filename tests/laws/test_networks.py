"""What every network holds, and the standardisation by training statistics."""

import numpy as np
import pytest
import torch

from stages.networks.standardise import Standardise
from stages.pipeline import plugins
from stages.protocols.spec import Statistics

NETWORKS = plugins.names("networks")
every_network = pytest.mark.parametrize("name", NETWORKS)
modulated_or_not = pytest.mark.parametrize("modulation_width", [None, 4])
LENGTHS = [1, 9, 16, 71, 200]
"""Within and beyond the windows, reaches and places of every network."""


def network(name, modulation_width=None, width=8, depth=2, dropout=0.0):
    torch.manual_seed(0)
    return plugins.load("networks", name)(width, depth, dropout, modulation_width).double().eval()


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def modulations(modulation_width, num):
    return None if modulation_width is None else normal(num, modulation_width)


def test_a_file_without_a_network_is_no_plugin():
    assert {"convnext", "mlp", "mixer", "transformer"} <= set(NETWORKS)
    assert not {"bottleneck", "standardise", "blocks"} & set(NETWORKS)


@every_network
@modulated_or_not
def test_shape_gradients_and_order_of_clips(name, modulation_width):
    model = network(name, modulation_width)
    x, modulation = normal(3, 11, 8), modulations(modulation_width, 3)
    y = model(x, modulation, None)
    assert y.shape == x.shape
    (y * normal(3, 11, 8)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    order = [2, 0, 1]
    permuted = model(x[order], None if modulation is None else modulation[order], None)
    torch.testing.assert_close(permuted, y[order], rtol=1e-13, atol=1e-13)


@every_network
@modulated_or_not
def test_near_the_identity_at_the_start(name, modulation_width):
    model = network(name, modulation_width, width=64, depth=3)
    x = normal(2, 30, 64)
    with torch.no_grad():
        change = (model(x, modulations(modulation_width, 2), None) - x).norm() / x.norm()
    assert 0.01 < float(change) < 0.3


@every_network
@pytest.mark.parametrize("length", LENGTHS)
def test_padding_does_not_change_a_clip(name, length):
    model, x = network(name), normal(1, length, 8)
    alone = model(x, None, torch.ones(1, length, dtype=torch.bool))
    padded = torch.cat([x, 100 * normal(1, 130, 8)], dim=1)
    mask = torch.arange(length + 130).unsqueeze(0) < length
    found = model(padded, None, mask)
    torch.testing.assert_close(found[:, :length], alone, rtol=1e-12, atol=1e-12)
    assert not found[:, length:].any()
    torch.testing.assert_close(model(x, None, None), alone, rtol=1e-12, atol=1e-12)


@every_network
def test_an_empty_clip_beside_another_is_nothing_and_finite(name):
    model, x = network(name), normal(2, 20, 8)
    mask = torch.stack([torch.zeros(20, dtype=torch.bool), torch.ones(20, dtype=torch.bool)])
    y = model(x, None, mask)
    assert not y[0].any() and bool(y.isfinite().all())
    y.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@every_network
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forward_mode_is_the_slope_along_a_direction(name, dtype):
    """Central differences at h = 1e-5 are right to h^2 = 1e-10 times a third derivative of order one."""
    model = network(name, 4)
    x, modulation, mask = normal(2, 70, 8), normal(2, 4), torch.arange(70) < torch.tensor([[70], [33]])
    along = (normal(2, 70, 8), normal(2, 4))

    def f(x, modulation):
        return model(x, modulation, mask)

    h = 1e-5
    expected = (f(x + h * along[0], modulation + h * along[1]) - f(x - h * along[0], modulation - h * along[1])) / 2 / h
    model = model.to(dtype)
    arguments = [part.to(dtype) for part in (x, modulation, *along)]
    _, found = torch.func.jvp(f, tuple(arguments[:2]), tuple(arguments[2:]))
    assert found.dtype == dtype
    tolerance = 1e-8 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


@every_network
def test_every_patch_of_a_small_grid_hears_every_other(name):
    """Three blocks see a whole grid of 4 x 4 patches."""
    model, x = network(name, depth=3), normal(1, 16, 8).requires_grad_()
    for patch in range(16):
        (slope,) = torch.autograd.grad(model(x, None, None)[0, patch].sum(), x)
        reach = 9 if name == "convnext" else 16
        heard = slope[0].abs().sum(-1) > 0
        assert bool(heard[max(0, patch - reach) : patch + reach + 1].all()), patch


@pytest.mark.parametrize("name", sorted({*NETWORKS} - {"convnext"}))
def test_equal_patches_are_told_apart_by_their_place(name):
    y = network(name)(torch.ones(1, 16, 8, dtype=torch.float64), None, None)[0]
    apart = (y.unsqueeze(0) - y.unsqueeze(1)).norm(dim=-1) + torch.eye(16)
    assert float(apart.min().detach()) > 1e-3


@every_network
def test_dropout_thins_training_alone(name):
    model, x = network(name, dropout=0.5), normal(1, 20, 8)
    assert torch.equal(model(x, None, None), network(name)(x, None, None))
    assert not torch.equal(model.train()(x, None, None), model.eval()(x, None, None))


@every_network
def test_modulation_changes_what_a_network_computes(name):
    model, x = network(name, 4), normal(2, 5, 8)
    one, other = (model(x, torch.full((2, 4), value, dtype=torch.float64), None) for value in (0.0, 1.0))
    assert (one - other).abs().max() > 1e-3


def test_attention_is_the_written_out_mean_over_the_frames_in_reach():
    """Against a loop over queries, blocks or not; and turning makes a score depend on the distance alone."""
    from stages.networks import transformer

    q, k, v = (normal(1, 2, 150, 4) for _ in range(3))
    mask = torch.arange(150).unsqueeze(0) < 140
    found = transformer.attended(q, k, v, mask)
    for i in (0, 5, 63, 64, 100, 139):
        near = slice(max(0, i - transformer.REACH), min(140, i + transformer.REACH + 1))
        weights = torch.softmax(torch.einsum("hd,hjd->hj", q[0, :, i], k[0, :, near]) / 2, -1)
        torch.testing.assert_close(found[0, :, i], torch.einsum("hj,hjd->hd", weights, v[0, :, near]))
    same = transformer.turned(normal(1, 1, 1, 6).expand(1, 1, 40, 6))[0, 0]
    scores = same @ same.T
    torch.testing.assert_close(scores.diagonal(7), scores[0, 7].expand(33))
    with pytest.raises(ValueError, match="even width"):
        network("transformer", width=7)


@pytest.mark.parametrize("number", [0, 1])
def test_a_mixer_block_mixes_the_frames_of_one_window(number):
    """Windows of 16 begin at frame 0, and half a window earlier in every other block."""
    block, h = network("mixer").blocks[number], normal(1, 37, 8).requires_grad_()
    place = (torch.arange(37) + 8 * number) // 16
    for frame in range(37):
        (slope,) = torch.autograd.grad(block.mix(h)[0, frame, 3], h)
        assert torch.equal(slope[0, :, 3] != 0, place == place[frame])
        assert not slope[0, :, :3].any()


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
