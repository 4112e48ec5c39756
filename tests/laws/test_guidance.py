"""Classifier-free guidance in closed forms."""

from types import SimpleNamespace

import pytest
import torch

from stages.numerics import guidance
from stages.training.velocity import TrainingGuidance

WHOLE = guidance.Interval(0.0, 1.0)


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def test_scales_zero_one_and_two_are_known():
    c, u = double(2, 3), double(2, 3)
    torch.testing.assert_close(guidance.sharpen(c, u, 1.0), c)
    torch.testing.assert_close(guidance.sharpen(c, u, 0.0), u)
    torch.testing.assert_close(guidance.sharpen(c, u, 2.0), 2 * c - u)


def test_a_perfect_network_is_pulled_to_the_declared_scale():
    """Where u = v~ at r = t, solving v~ = w v + k v~ + (1 - w - k) v_0 gives v_0 + w / (1 - k) (v - v_0)."""
    v, unconditional, weight, mix = double(2, 3), double(2, 3), 1.4, 0.3
    fixed = unconditional + weight / (1 - mix) * (v - unconditional)
    torch.testing.assert_close(guidance.target(v, fixed, unconditional, weight, mix), fixed)
    torch.testing.assert_close(guidance.target(v, fixed, unconditional, 1.0, 0.0), v)


@pytest.mark.parametrize(("t", "calls"), [(0.1, 1), (0.2, 2), (0.5, 2), (0.8, 2), (0.9, 1)])
def test_only_the_interval_is_guided_and_pays_for_it(t, calls):
    asked = []

    def network(value):
        def u(z, r, t):
            asked.append(value)
            return torch.full_like(z, value)

        return u

    z, time = torch.zeros(2, 3), torch.full((2,), t, dtype=torch.float64)
    found = guidance.guide(network(5.0), network(2.0), 3.0, guidance.Interval(0.2, 0.8))(z, time, time)
    assert len(asked) == calls and bool((found == (11.0 if calls == 2 else 5.0)).all())
    asked.clear()
    guidance.guide(network(5.0), network(2.0), 1.0, WHOLE)(z, time, time)
    assert asked == [5.0]


def test_in_training_only_told_clips_in_the_interval_are_guided():
    t = torch.tensor([0.5, 0.5, 0.9]).double()
    lesson = SimpleNamespace(context="told", without="nothing", told=torch.tensor([True, False, True]))

    def network(z, r, t, context):
        assert torch.equal(r, t) and not torch.is_grad_enabled()
        return torch.full_like(z, {"told": 10.0, "nothing": 1.0}[context])

    v, z = torch.full((3, 2, 2), 3.0).double(), double(3, 2, 2)
    made = TrainingGuidance(2.0, 0.5, guidance.Interval(0.1, 0.8)).velocity(network, lesson, z, t, v)
    assert made[:, 0, 0].tolist() == [2 * 3 + 0.5 * 10 - 1.5 * 1, 3, 3]
    assert TrainingGuidance(1.0, 0.0, WHOLE).velocity(None, lesson, z, t, v) is v
