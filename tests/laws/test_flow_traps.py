"""Traps that others fell into while training flows; each law fails when its trap is set.

Further ones: h = 0 and steps past t = 0 in test_flow_families.py, other tangents in test_mean_flow.py, statistics of
test data in tests/unit/test_cache.py.
"""

import os
from dataclasses import replace

import pytest
import torch
import torch.distributed
from torch.nn.parallel import DistributedDataParallel

from stages.numerics import jvp, times
from stages.protocols.model import Masked
from stages.training import batches
from stages.training.ground import NOISE, TIMES
from tests.faults import processes
from tests.laws.test_families import FLOWS
from tests.laws.test_flow_families import MEAN_FLOWS, every_case, prepared

TANGENTS = [("mean_flow", {}), ("improved_mean_flow", {}), ("improved_mean_flow", {"velocity": "head"})]
GROUNDS = ("codec", "absent")
every_tangent = pytest.mark.parametrize(
    ("name", "changes", "ground"),
    [(name, changes, ground) for name, changes in TANGENTS for ground in GROUNDS],
    ids=["-".join([name, *changes, ground]) for name, changes in TANGENTS for ground in GROUNDS],
)


@every_case(FLOWS)
def test_logged_errors_are_raw(name, ground, monkeypatch):
    """Trap: logging the weighted loss, which is about 1 whatever happens."""
    model, batch = prepared(name, ground, condition_drop=0.0)
    model.train(False)
    terms = model.loss(batch, "model", 9).terms
    learned = model.flow.ground.learn(batch, True)
    told, present = learned.frames.told, batch.data.mask.unsqueeze(-1)
    x = (learned.whole - told.mean) / told.size * present
    e = times.normal(batch.seeds, tuple(x.shape[1:]), NOISE).to(x) * present
    if name == "flow_matching":
        t = times.logit_normal(batch.seeds, TIMES).to(x)
        instant = torch.ones_like(t, dtype=torch.bool)
    else:
        pairs = times.logit_normal_pairs(batch.seeds, model.config.fraction_equal, TIMES)
        t, instant = pairs.t.to(x), pairs.r == pairs.t
        assert torch.equal(terms["flow_error_r_before_t"].isnan(), instant)
    time = t.reshape(-1, 1, 1)
    u = model.flow.velocity((1 - time) * x + time * e, t, t, told.context)
    expected = ((u - (e - x)) ** 2).sum((1, 2)) / (batch.data.mask.sum(1) * x.shape[2])
    torch.testing.assert_close(terms["flow_error"][instant], expected[instant])
    torch.testing.assert_close(terms["flow_error_nats"][instant], (expected[instant] + 1e-9).log())
    monkeypatch.setattr(jvp, "adaptive", lambda error: 0 * error)
    again = model.loss(batch, "model", 9).terms
    torch.testing.assert_close(again, terms, equal_nan=True, rtol=0, atol=0)


@every_case(MEAN_FLOWS)
def test_the_adaptive_weight_sees_sums_over_a_clip(name, ground, monkeypatch):
    """Trap: with means its offset 0.01 would swallow the weight."""
    model, batch = prepared(name, ground)
    honest, seen = jvp.adaptive, []
    monkeypatch.setattr(jvp, "adaptive", lambda error: honest(seen.append(error.detach()) or error))
    raw = model.loss(batch, "model", 9).terms["flow_error"]
    cells = batch.data.mask.sum(1) * batch.data.value.shape[2]
    torch.testing.assert_close(torch.cat(seen).sort().values, (raw * cells).sort().values)


@every_tangent
def test_the_derivative_is_taken_along_the_velocity_where_r_is_before_t(name, ground, changes, monkeypatch):
    """Trap: another order of the tangent. Its first part: the data's velocity, u's own, or the head's."""
    model, batch = prepared(name, ground, condition_drop=0.0, **changes)
    honest, seen = torch.func.jvp, []

    def watched(u, primals, tangents):
        seen.append((primals, tangents))
        return honest(u, primals, tangents)

    monkeypatch.setattr(torch.func, "jvp", watched)
    model.loss(batch, "model", 9)
    (((z, r, t, *_), (along, along_r, along_t, *still)),) = seen
    assert not any(value.any() for one in still for value in one.values())
    pairs = times.logit_normal_pairs(batch.seeds, model.config.fraction_equal, TIMES)
    rows = (pairs.r < pairs.t).nonzero()[:, 0]
    assert torch.equal(r, pairs.r[rows].to(r)) and torch.equal(t, pairs.t[rows].to(t))
    assert not along_r.any() and bool((along_t == 1).all())
    learned = model.flow.ground.learn(batch, True)
    told, present = learned.frames.told, batch.data.mask.unsqueeze(-1)
    x = ((learned.whole - told.mean) / told.size * present)[rows]
    e = (times.normal(batch.seeds, tuple(batch.data.value.shape[1:]), NOISE).to(x) * present)[rows]
    torch.testing.assert_close(z, (1 - t).reshape(-1, 1, 1) * x + t.reshape(-1, 1, 1) * e)
    context = told.context.of(rows)
    if changes:
        expected = model.head(*model.flow.velocity.inside(z, r, t, context), z, context)
    else:
        expected = e - x if name == "mean_flow" else model.flow.velocity(z, t, t, context)
    torch.testing.assert_close(along, expected)


@every_tangent
def test_u_and_its_derivative_have_one_dropout(name, ground, changes, monkeypatch):
    """Trap: the derivative of one function taken for another's."""
    model, batch = prepared(name, ground, dropout=0.5, **changes)
    derived, learned = [], []
    along = jvp.along_path

    def watched(*arguments):
        derived.append(along(*arguments))
        return derived[-1]

    monkeypatch.setattr(jvp, "along_path", watched)
    monkeypatch.setattr(jvp, "instantaneous", lambda u, rate, r, t: learned.append((u, r, t)) or u * 1)
    monkeypatch.setattr(jvp, "mean_flow_target", lambda d, v, r, t: learned.append((d.value, r, t)) or v * 1)
    torch.manual_seed(4)
    model.loss(batch, "model", 9)
    (u,) = [u for u, r, t in learned if bool((r < t).all())]
    torch.testing.assert_close(derived[0].value, u, rtol=1e-12, atol=1e-12)
    monkeypatch.setattr(jvp, "rewind", lambda device: lambda: None)  # set the trap: it must be seen
    derived.clear(), learned.clear()
    model.loss(batch, "model", 9)
    (u,) = [u for u, r, t in learned if bool((r < t).all())]
    assert not torch.allclose(derived[0].value, u)


@every_case(MEAN_FLOWS)
def test_the_derivative_is_computed_in_full_precision(name, ground, monkeypatch):
    """Trap: low precision in the JVP. Autocast is on around it, and off within."""
    model, batch = prepared(name, ground)
    model = model.float()
    value = batch.data.value.float()
    batch = replace(batch, data=Masked(value, batch.data.mask))
    inside, seen, along = [], {True: set(), False: set()}, jvp.along_path
    for part in model.flow.velocity.modules():
        if isinstance(part, torch.nn.Linear | torch.nn.Conv1d):
            part.register_forward_hook(lambda one, given, found: seen[bool(inside)].add(found.dtype))

    def watched(*arguments):
        inside.append(1)
        found = along(*arguments)
        inside.clear()
        assert found.rate.dtype == torch.float32
        return found

    monkeypatch.setattr(jvp, "along_path", watched)
    with torch.autocast("cpu", torch.bfloat16):
        model.loss(batch, "model", 9)
    assert torch.bfloat16 in seen[False] and seen[True] == {torch.float32}


@pytest.mark.parametrize("ground", ["codec", "absent"])
def test_with_equal_tangents_both_mean_flows_have_one_gradient(ground):
    gradients, raw = [], []
    state = prepared("mean_flow", ground)[0].state_dict()
    for name in MEAN_FLOWS:
        model, batch = prepared(name, ground, fraction_equal=0.5)
        model.load_state_dict(state)
        if name == "improved_mean_flow":
            model.boundary = lambda lesson, z, r, t: lesson.e - lesson.x
        loss = model.loss(batch, "model", 9)
        loss.total.mean().backward()
        gradients.append({key: value.grad for key, value in model.named_parameters()})
        raw.append(loss.terms["flow_error"])
    torch.testing.assert_close(raw[1], raw[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-12)


def test_the_heads_error_is_its_own_and_teaches_the_network():
    model, batch = prepared("improved_mean_flow", "absent", velocity="head")
    loss = model.loss(batch, "model", 9)
    assert bool((loss.terms["velocity_error"] > 0).all())
    gradient = torch.autograd.grad(loss.total.sum(), [*model.head.parameters()])
    assert all(bool(one.any()) for one in gradient)


def on_one_rank(rank, folder):
    """The gradients of half a batch, through the wrapper and past it."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        for ground in GROUNDS:
            model, batch = prepared("improved_mean_flow", ground)
            half = batches.split(batch, 2)[rank]
            wrapper = DistributedDataParallel(model)
            for way, forward in {"wrapper": wrapper, "past": wrapper.module}.items():
                model.zero_grad()
                forward(half, "model", 9).total.mean().backward()
                found = {name: value.grad.clone() for name, value in model.named_parameters()}
                torch.save(found, folder / f"{ground}-{way}-{rank}.pt")
            del wrapper
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch was built without gloo")
def test_two_processes_have_the_gradient_of_the_double_batch(tmp_path):
    """Trap: torch.func.jvp refuses the wrapper, and a loss asked of `.module` silently leaves gradients apart.

    Here the wrapper's forward is the whole loss, and the JVP within it sees the bare network, without gradient.
    """
    both = [processes.start(on_one_rank, tmp_path / f"told_{rank}", rank, tmp_path) for rank in (0, 1)]
    with processes.ending(*both):
        codes = [processes.finish(one) for one in both]
    assert codes == [0, 0], [(tmp_path / f"told_{rank}").read_text() for rank in (0, 1)]
    for ground in GROUNDS:
        model, batch = prepared("improved_mean_flow", ground)
        model.loss(batch, "model", 9).total.mean().backward()
        whole = {name: value.grad for name, value in model.named_parameters()}
        for rank in (0, 1):
            found, past = (torch.load(tmp_path / f"{ground}-{way}-{rank}.pt") for way in ("wrapper", "past"))
            torch.testing.assert_close(found, whole, rtol=1e-8, atol=1e-12)
            with pytest.raises(AssertionError):
                torch.testing.assert_close(past, whole, rtol=1e-2, atol=1e-4)
