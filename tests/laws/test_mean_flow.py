"""The MeanFlow identity, its derivative against finite differences, and what improved mean flows change."""

import pytest
import torch
from torch import nn

from stages.networks.convnext import ConvNeXt
from stages.numerics import jvp, paths
from tests.laws.test_flow import RATE, double, linear_u

R, T = torch.tensor([0.1, 0.3, 0.5]).double(), torch.tensor([0.8, 0.9, 0.5]).double()


class Velocity(nn.Module):
    """A small u(z, r, t) on the real network, in float64."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.network = ConvNeXt(6, 2, 0.0, 4)
        self.embed = nn.Linear(2, 4)
        self.double()

    def forward(self, z, r, t):
        return self.network(z, self.embed(torch.stack([t, t - r], dim=-1)), None)


def difference(u, z, r, t, v, h=1e-5):
    """du/dt along the path by central differences: z moves with v, t with 1, r stays."""
    return (u(z + h * v, r, t + h) - u(z - h * v, r, t - h)) / (2 * h)


def test_derivative_agrees_with_finite_differences():
    u, z, v = Velocity(), double(3, 5, 6), double(3, 5, 6)
    found = jvp.along_path(u, z, R, T, v)
    torch.testing.assert_close(found.value, u(z, R, T))
    torch.testing.assert_close(found.rate, difference(u, z, R, T, v), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("tangent", [(1, 0), (1, 1), (0, 0)])
def test_any_other_tangent_is_seen(tangent, monkeypatch):
    """Mutation: (v, 1, 0), (v, 1, 1), (v, 0, 0) in place of (v, 0, 1) must fail the test above."""
    honest = torch.func.jvp

    def swapped(u, primals, tangents):
        ones = torch.ones_like(primals[1])
        return honest(u, primals, (tangents[0], tangent[0] * ones, tangent[1] * ones))

    monkeypatch.setattr(torch.func, "jvp", swapped)
    with pytest.raises(AssertionError):
        test_derivative_agrees_with_finite_differences()


def test_identity_holds_for_a_linear_ode_in_closed_form():
    z = double(3, 4)
    found = jvp.along_path(linear_u, z, R, T, RATE * z)
    torch.testing.assert_close(jvp.mean_flow_target(found, RATE * z, R, T), linear_u(z, R, T), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(jvp.instantaneous(found.value, found.rate, R, T), RATE * z, rtol=1e-10, atol=1e-12)


def test_with_equal_tangents_the_improved_gradient_is_mean_flows():
    u, x, e = Velocity(), double(3, 5, 6), double(3, 5, 6)
    z, target = paths.point(x, e, T), paths.velocity(x, e, T)
    found = jvp.along_path(u, z, R, T, target)
    old = (u(z, R, T) - jvp.mean_flow_target(found, target, R, T)).square().sum()
    new = (jvp.instantaneous(u(z, R, T), found.rate, R, T) - target).square().sum()
    torch.testing.assert_close(new, old)
    for a, b in zip(*(torch.autograd.grad(loss, list(u.parameters())) for loss in (new, old)), strict=True):
        torch.testing.assert_close(a, b)


def test_no_gradient_flows_through_the_derivative():
    u, z, v = Velocity(), double(3, 5, 6), double(3, 5, 6)
    found = jvp.along_path(u, z, R, T, v)
    assert found.rate.requires_grad
    implied = jvp.instantaneous(found.value.detach(), found.rate, R, T)
    assert not implied.requires_grad


def test_adaptive_weights_make_every_error_about_one_and_keep_its_direction():
    error = torch.tensor([1e-1, 1.0, 100.0], dtype=torch.float64, requires_grad=True)
    weighted = jvp.adaptive(error)
    torch.testing.assert_close(weighted, error / (error + 0.01))
    weighted.sum().backward()
    torch.testing.assert_close(error.grad, 1 / (error.detach() + 0.01))
