"""What holds for every generative model, tried on fakes of every kind: the protocols carry all of them.

Float64 where numbers are compared: the tolerances are its rounding through a few hundred additions.
"""

from dataclasses import replace

import pytest
import torch

from stages.pipeline import plugins
from stages.protocols.model import Batch, GenerativeModel, Masked, Request
from stages.training import batches, loop, model_folder
from stages.training.config import TrainConfig
from stages.training.loader import Loader
from tests import fakes

CONFIG = TrainConfig(
    num_steps=4, batch_size=6, learning_rate=1e-2, num_threads=1, seed=0, crop_steps=7, num_warmup_steps=1
)
FAMILIES = sorted(fakes.FAMILIES)
every_family = pytest.mark.parametrize("family", FAMILIES)


def wide(batch: Batch) -> Batch:
    """The batch in float64."""

    def widen(masked: Masked) -> Masked:
        return replace(masked, value=masked.value.double()) if masked.value.is_floating_point() else masked

    conditions = {name: widen(masked) for name, masked in batch.conditions.items()}
    return replace(batch, data=widen(batch.data), conditions=conditions)


def prepared(family: str) -> tuple[GenerativeModel, Batch]:
    """A model in float64 after one training step, which starts what starts from data, and a batch."""
    case = fakes.case(family)
    model = case.model().double()
    loader = Loader(case.dataset(), 6, 7, 0)
    model.begin_step(0, 9)
    torch.manual_seed(0)
    model.loss(wide(loader.batch(0)), model.players(0)[0], 0)
    model.begin_step(1, 9)
    return model, wide(loader.batch(1))


@every_family
def test_players_partition_the_parameters_and_all_move(family, tmp_path):
    case = fakes.case(family)
    model = case.model()
    owned = [p for player in model.players(0) for p in model.parameters_of(player)]
    assert sorted(map(id, owned)) == sorted(map(id, model.parameters()))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    loop.fit(model, case.dataset(), case.dataset(), CONFIG, tmp_path)
    still = [name for name, value in model.named_parameters() if torch.equal(value, before[name])]
    assert not still


@every_family
@pytest.mark.parametrize("training", [True, False])
def test_permuting_the_batch_permutes_the_loss(family, training):
    model, batch = prepared(family)
    model.train(training)
    order = [4, 2, 0, 5, 1, 3]
    for player in model.players(1):
        one, other = (model.loss(b, player, 1) for b in (batch, batches.select(batch, order)))
        torch.testing.assert_close(other.total, one.total[order], rtol=1e-13, atol=1e-13)
        for name, value in one.terms.items():
            torch.testing.assert_close(other.terms[name], value[order], rtol=1e-13, atol=1e-13, equal_nan=True)
            assert not value.requires_grad and value.shape == (6,)
        assert one.criterion in one.terms


@every_family
@pytest.mark.parametrize("num", [2, 4, 6])
def test_micro_batches_have_the_gradient_of_the_whole(family, num, tmp_path):
    case = fakes.case(family)
    found = []
    for config in (CONFIG, replace(CONFIG, num_micro_batches=num)):
        model, batch = prepared(family)
        run = loop.Run(model, replace(case.dataset(), codes=[]), config, tmp_path / str(len(found)), print)
        for player in model.players(1):
            run.update(player, batch, 1)
        found.append({name: value.grad for name, value in model.named_parameters()})
    torch.testing.assert_close(found[1], found[0], rtol=1e-7, atol=1e-12)


@every_family
def test_a_player_leaves_the_others_alone(family, tmp_path):
    model, batch = prepared(family)
    run = loop.Run(model, replace(fakes.case(family).dataset(), codes=[]), CONFIG, tmp_path, print)
    for player in model.players(1):
        before = {id(p): p.detach().clone() for p in model.parameters()}
        run.update(player, batch, 1)
        own = set(map(id, model.parameters_of(player)))
        assert {id(p) for p in model.parameters() if not torch.equal(p, before[id(p)])} <= own


@every_family
def test_same_seed_same_bytes(family, tmp_path):
    case = fakes.case(family)
    states = []
    for name in ("one", "two"):
        model = case.model()
        loop.fit(model, case.dataset(), case.dataset(), replace(CONFIG, log_every=1), tmp_path / name)
        states.append(model.state_dict())
    assert (tmp_path / "one/log.jsonl").read_bytes() == (tmp_path / "two/log.jsonl").read_bytes()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    other = case.model()
    loop.fit(other, case.dataset(), case.dataset(), replace(CONFIG, seed=1), tmp_path / "other")
    assert any(not torch.equal(value, states[0][name]) for name, value in other.state_dict().items())


@every_family
def test_a_saved_model_has_the_same_loss_and_generates_the_same(family, tmp_path, monkeypatch):
    monkeypatch.setattr(plugins, "load", fakes.load)
    case = fakes.case(family)
    model = case.model()
    loop.fit(model, case.dataset(), case.dataset(), CONFIG, tmp_path / "work")
    facts = model_folder.Facts("fake", family, fakes.PAIRS[family], {})
    (tmp_path / "model").mkdir()
    model_folder.save(tmp_path / "model", model, case.representation, case.statistics, facts)
    loaded = model_folder.load(tmp_path / "model")
    batch = Loader(case.dataset(), 6, 7, 0).batch(0)
    for player in model.players(0):
        assert torch.equal(loaded.model.loss(batch, player, 0).total, model.loss(batch, player, 0).total)
    request = asked(model, batch)
    made, again = (m.generate(request, m.Sampling()) for m in (model, loaded.model))
    assert torch.equal(made.value, again.value) and torch.equal(made.mask, again.mask)
    assert loaded.representation.spec == case.representation.spec
    assert loaded.facts["num_parameters"] == sum(p.numel() for p in model.parameters())


def asked(model: GenerativeModel, batch: Batch) -> Request:
    """A request as long as the batch, with the conditions the family cannot do without and those the batch has."""
    conditions = dict(batch.conditions)
    if "latent" in model.needs:
        conditions["latent"] = model.encode(batch)
    return Request(batch.seeds, steps(batch.data), conditions)


def steps(masked: Masked) -> torch.Tensor:
    """How many steps each clip has."""
    return masked.mask.flatten(2).any(-1).sum(1) if masked.mask.ndim > 2 else masked.mask.sum(1)


@every_family
def test_generation_fits_the_request_and_each_clip_depends_on_its_own_seed(family):
    case = fakes.case(family)
    model = case.model().eval()
    batch = Loader(case.dataset(), 6, 7, 0).batch(0)
    order = [3, 1, 5, 0, 4, 2]
    with torch.no_grad():
        made, other = (model.generate(asked(model, b), model.Sampling()) for b in (batch, batches.select(batch, order)))
    assert made.value.shape[0] == 6 and made.value.shape[2:] == case.representation.spec.data.frame
    spread = made.mask.reshape(made.mask.shape + (1,) * (made.value.ndim - made.mask.ndim))
    assert not (made.value * ~spread).any(), "beyond a clip's end data is 0"
    assert (steps(made) <= steps(batch.data)).all()
    torch.testing.assert_close(other.value, made.value[order], rtol=1e-5, atol=1e-6)
    assert torch.equal(other.mask, made.mask[order])


@pytest.mark.parametrize("family", ["quantised", "two_players"])
def test_the_latent_has_latent_dim_channels(family):
    model, batch = prepared(family)
    z = model.encode(batch)
    assert model.latent is not None and model.latent.frame == (model.config.latent_dim,)
    assert z.value.shape == (*batch.data.mask.shape, model.config.latent_dim)


def test_codes_are_classes_and_their_latent_is_a_fixed_point():
    model, batch = prepared("quantised")
    codes = model.quantise(model.encode(batch))
    assert model.codes is not None and codes.value.shape[2:] == model.codes.frame
    assert codes.value.dtype == torch.int64 and 0 <= codes.value.min() and codes.value.max() < model.codes.num_classes
    assert torch.equal(model.quantise(model.dequantise(codes)).value, codes.value)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"quantised", "two_players"}))
def test_a_family_without_latent_says_so(family):
    model, batch = prepared(family)
    with pytest.raises(TypeError, match="no latent"):
        model.encode(batch)


def test_generation_obeys_prompt_and_grammar():
    case = fakes.case("recurrent")
    model = case.model().eval()
    grammar = case.representation.grammar({})
    prompt = torch.tensor([[3, 2], [5, 0], [1, 0]])[..., None]
    given = Masked(prompt, torch.tensor([[True, True], [True, False], [False, False]]))
    request = Request(torch.arange(3), torch.tensor([12, 12, 5]), {}, given, grammar)
    made = model.generate(request, model.Sampling())
    assert torch.equal(made.value[given.mask.nonzero(as_tuple=True)], prompt[given.mask])
    for tokens, mask in zip(made.value[..., 0], made.mask, strict=True):
        kept = tokens[mask].tolist()
        body = [token for token in kept if token != fakes.END]
        assert all(a % 2 != b % 2 for a, b in zip(body, body[1:], strict=False))
        assert fakes.END not in kept[:-1] and (fakes.END not in kept or body[-1] % 2 == 0)


def test_likelihoods_are_those_of_the_model():
    """All short token sequences together have probability 1; a flow's density is the noise's by the Jacobian."""
    model, _ = prepared("recurrent")
    length = 3
    every = torch.cartesian_prod(*[torch.arange(fakes.NUM_TOKENS)] * length)[..., None]
    data = Masked(every, torch.ones(every.shape[:2], dtype=torch.bool))
    batch = Batch(tuple(map(str, range(len(every)))), torch.arange(len(every)), data, {})
    assert model.log_likelihood(batch).exp().sum().item() == pytest.approx(1, abs=1e-9)
    flow, batch = prepared("coupling")
    x = batch.data.value[:, :1]
    one = Batch(batch.ids, batch.seeds, Masked(x, torch.ones(6, 1, dtype=torch.bool)), {})
    for row in range(6):
        jacobian = torch.autograd.functional.jacobian(lambda v: flow.to_noise(v)[0], x[row, 0])
        e = flow.to_noise(x[row, 0])[0]
        expected = torch.distributions.Normal(0, 1).log_prob(e).sum() + torch.linalg.slogdet(jacobian)[1]
        assert flow.log_likelihood(one)[row].item() == pytest.approx(expected.item(), rel=1e-9)
