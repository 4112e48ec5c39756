"""Paths, times and samplers, against closed forms in float64."""

import numpy as np
import pytest
import torch

from stages.numerics import paths, solvers, times

torch.manual_seed(0)
RATE = 1.7


def linear_u(z, r, t):
    """The average velocity of dz/dt = RATE z in closed form: z_r = z exp(-RATE (t - r))."""
    h = paths.per_clip(t - r, z)
    safe = torch.where(h == 0, torch.ones_like(h), h)
    return torch.where(h == 0, RATE * z, z * (1 - torch.exp(-RATE * h)) / safe)


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def test_schedule_rates_are_the_schedules_derivatives():
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64, requires_grad=True)
    for value, rate in ((paths.alpha, paths.alpha_rate), (paths.sigma, paths.sigma_rate)):
        (slope,) = torch.autograd.grad(value(t).sum(), t, retain_graph=True)
        torch.testing.assert_close(rate(t.detach()), slope)


def test_the_path_has_data_and_noise_at_its_ends_and_moves_with_its_velocity():
    x, e = double(3, 4, 5), double(3, 4, 5)
    torch.testing.assert_close(paths.point(x, e, torch.zeros(3, dtype=torch.float64)), x)
    torch.testing.assert_close(paths.point(x, e, torch.ones(3, dtype=torch.float64)), e)
    t = torch.tensor([0.2, 0.5, 0.7], dtype=torch.float64)
    _, moved = torch.func.jvp(lambda time: paths.point(x, e, time), (t,), (torch.ones_like(t),))
    torch.testing.assert_close(paths.velocity(x, e, t), moved)


def test_average_velocity_times_interval_is_the_integral_of_the_velocity():
    z, r, t = double(2, 3), torch.tensor([0.1, 0.4]).double(), torch.tensor([0.9, 0.6]).double()
    nodes = 20001
    tau = torch.stack(
        [torch.linspace(float(a), float(b), nodes, dtype=torch.float64) for a, b in zip(r, t, strict=True)]
    )
    along = z.unsqueeze(-1) * torch.exp(-RATE * (t.unsqueeze(1) - tau)).unsqueeze(1)
    integral = torch.trapezoid(RATE * along, tau.unsqueeze(1).expand_as(along), dim=-1)
    torch.testing.assert_close(paths.per_clip(t - r, z) * linear_u(z, r, t), integral, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_a_linear_ode_is_sampled_exactly_in_any_number_of_steps(num_steps):
    e = double(4, 3, 2)
    found = paths.follow(linear_u, e, num_steps)
    torch.testing.assert_close(found, e * torch.exp(torch.tensor(-RATE, dtype=torch.float64)), rtol=1e-12, atol=1e-13)


def test_one_step_asks_for_the_whole_interval():
    asked = []

    def u(z, r, t):
        asked.append((r.tolist(), t.tolist()))
        return torch.zeros_like(z)

    paths.follow(u, double(2, 1), 1)
    assert asked == [([0.0, 0.0], [1.0, 1.0])]
    asked.clear()
    paths.follow(u, double(1, 1), 2)
    assert asked == [([0.5], [1.0]), ([0.0], [0.5])]


def test_noise_depends_on_the_clips_seed_alone_and_longer_noise_begins_with_shorter():
    one = times.normal(torch.tensor([5, 9]), (7, 3), 1)
    other = times.normal(torch.tensor([9, 5]), (4, 3), 1)
    assert torch.equal(one.flip(0)[:, :4], other)
    assert not torch.equal(one, times.normal(torch.tensor([5, 9]), (7, 3), 2))
    large = times.normal(torch.tensor([1]), (200000,), 1)
    assert abs(float(large.mean())) < 0.01 and abs(float(large.std()) - 1) < 0.01


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1, -3])
def test_a_clips_stream_is_philox_with_its_seed_and_purpose_as_key(seed):
    """Streams that were written hold the seed alone, so this may never change."""
    key = np.array([seed % 2**64, 5], np.uint64)
    others = [1, seed, 2]
    expected = np.random.Generator(np.random.Philox(key=key)).standard_normal((3, 3), dtype=np.float32)
    assert times.normal(torch.tensor(others), (3, 3), 5)[1].numpy().tolist() == expected.tolist()
    expected = np.random.Generator(np.random.Philox(key=key)).random(3).astype(np.float32)
    assert times.uniform(torch.tensor(others), 5, 3)[1].numpy().tolist() == expected.tolist()


def test_time_pairs_are_ordered_logit_normal_and_equal_as_often_as_asked():
    pairs = times.logit_normal_pairs(torch.arange(4000), 0.25, 3)
    assert bool((pairs.r <= pairs.t).all()) and bool((pairs.r >= 0).all()) and bool((pairs.t <= 1).all())
    share = float((pairs.r == pairs.t).double().mean())
    assert abs(share - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5
    apart = pairs.r < pairs.t
    both = torch.cat([torch.logit(pairs.r[apart]), torch.logit(pairs.t[apart])])
    assert abs(float(both.mean()) + 0.4) < 0.06 and abs(float(both.std()) - 1) < 0.05


def test_jumps_to_the_data_are_as_many_as_asked_and_change_no_other_time():
    seeds = torch.arange(4000)
    usual, some = (times.logit_normal_pairs(seeds, 0.25, 3, fraction_to_data=share) for share in (0.0, 0.4))
    whole = some.r == 0
    assert abs(float(whole.double().mean()) - 0.75 * 0.4) < 4 * (0.3 * 0.7 / 4000) ** 0.5
    assert torch.equal(some.t, usual.t) and torch.equal(some.r[~whole], usual.r[~whole])
    assert bool((usual.r[whole] < usual.t[whole]).all())
    evenly = times.logit_normal_pairs(seeds, 0.25, 3, fraction_uniform=0.4).t != usual.t  # another choice of its own
    assert abs(float((whole & evenly).double().mean()) - 0.3 * 0.4) < 4 * (0.12 * 0.88 / 4000) ** 0.5


def riccati(z, t):
    """dz/dt of z' = RATE z t + sin t: nothing that any step solves exactly."""
    return RATE * z * paths.per_clip(t, z) + torch.sin(paths.per_clip(t, z))


@pytest.mark.parametrize(("solver", "order"), [(solvers.euler, 1), (solvers.heun, 2)])
def test_a_solvers_order_is_the_declared_one(solver, order):
    """Halving the step divides the error by 2^order; the reference is a far finer run of Heun's method."""
    e = double(3, 2)
    exact = solvers.heun(riccati, e, 4000)
    errors = [float((solver(riccati, e, num) - exact).norm()) for num in (40, 80, 160)]
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert abs(torch.log2(torch.tensor(coarse / fine)).item() - order) < 0.1


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 25, 50])
@pytest.mark.parametrize("solver", [solvers.euler, solvers.heun])
def test_no_step_goes_past_the_data(solver, num_steps):
    """Times fall strictly from 1, the steps add up to 1 to the last bit, and t = 0 is never asked for."""
    asked = []

    def v(z, t):
        asked.append(float(t[0]))
        return torch.ones_like(z)

    found = solver(v, torch.zeros(1, 1, dtype=torch.float64), num_steps)
    torch.testing.assert_close(found, -torch.ones(1, 1, dtype=torch.float64), rtol=0, atol=1e-15)
    assert asked[0] == 1 and min(asked) > 0 and max(asked) <= 1
    assert len(asked) == (num_steps if solver is solvers.euler else 2 * num_steps - 1)
    assert len(set(asked)) == num_steps


@pytest.mark.parametrize("num_steps", [1, 2, 7, 50])
def test_no_jump_goes_past_the_data(num_steps):
    asked = []

    def u(z, r, t):
        asked.append((float(r[0]), float(t[0])))
        return torch.ones_like(z)

    found = paths.follow(u, torch.zeros(1, 1, dtype=torch.float64), num_steps)
    torch.testing.assert_close(found, -torch.ones(1, 1, dtype=torch.float64), rtol=0, atol=1e-15)
    assert asked[0][1] == 1 and asked[-1][0] == 0 and all(0 <= r < t <= 1 for r, t in asked)
    assert all(one[0] == next_[1] for one, next_ in zip(asked, asked[1:], strict=False))


def test_times_of_plain_flows_are_logit_normal():
    t = torch.logit(times.logit_normal(torch.arange(4000), 3).double())
    assert abs(float(t.mean()) + 0.4) < 0.06 and abs(float(t.std()) - 1) < 0.05


def test_a_share_of_the_times_is_uniform():
    """Independent of which pairs are equal; a tenth of uniform times, but not 1 in 100 of the others, is below 0.1."""
    seeds = torch.arange(4000)
    for t in (times.logit_normal(seeds, 3, 1.0), times.logit_normal_pairs(seeds, 1.0, 3, 1.0).t.square()):
        assert abs(float(t.mean()) - 0.5) < 0.02 and abs(float((t < 0.1).float().mean()) - 0.1) < 0.02
    usual, mixed = (times.logit_normal_pairs(seeds, 0.3, 3, share) for share in (0.0, 0.4))
    changed = usual.t != mixed.t
    assert abs(float(changed.float().mean()) - 0.4) < 0.04
    assert torch.equal(usual.r == usual.t, mixed.r == mixed.t)
    share = (usual.r == usual.t)[changed].float().mean()
    assert abs(float(share) - 0.3) < 0.05
