"""The real families on a small MDCT: the laws of every generative model, and those of their own schedules."""

import copy
from dataclasses import fields, replace
from functools import lru_cache

import numpy as np
import pytest
import torch

from stages.pipeline import plugins
from stages.protocols.model import Batch, Masked, Request
from stages.protocols.spec import Statistics
from stages.training import batches

torch.set_num_threads(1)  # tiny tensors: threads only wait for each other


def known(config, values):
    """The values that the config has fields for."""
    return {field.name: values[field.name] for field in fields(config) if field.name in values}


FAMILIES = [
    name for name in plugins.names("families") if known(plugins.load("families", name).Config, {"quantiser": 0})
]
"""Those that are codecs."""
FLOWS = ["flow_matching", "mean_flow", "improved_mean_flow"]
every_family = pytest.mark.parametrize("name", FAMILIES)
every_flow = pytest.mark.parametrize("name", FLOWS)
BINS, STEPS = 32, 24
SMALL = {"network": "convnext", "latent_dim": 6, "width": 16, "depth": 1, "num_codebooks": 3, "codebook_size": 16}
SMALL |= {"code_dim": 8, "frames_per_code": 2}
LATER = {"flow_width": 12, "flow_depth": 1, "flow_start": 0.0, "adversarial_start": 0.0}


def model_of(name, **changes):
    torch.manual_seed(0)
    family, mdct = plugins.load("families", name), plugins.load("representations", "mdct")
    representation = mdct(mdct.Config(num_bins=BINS))
    statistics = Statistics(np.full(BINS, 99), np.zeros(BINS), np.linspace(1.0, 0.05, BINS), None)
    config = family.Config(**(SMALL | known(family.Config, LATER) | changes))
    return family(config, representation.spec, statistics, representation.signal).double()


def batch_of(num=6, steps=STEPS, seed=0):
    draw = torch.Generator().manual_seed(seed)
    scale = torch.linspace(1.0, 0.05, BINS, dtype=torch.float64)
    data = torch.randn(num, steps, BINS, dtype=torch.float64, generator=draw) * scale
    mask = torch.arange(steps).unsqueeze(0) < torch.tensor([steps, steps - 5] * num)[:num].unsqueeze(1)
    ids = tuple(f"clip{i}" for i in range(num))
    return Batch(ids, torch.arange(num) + 100 * seed, Masked(data * mask.unsqueeze(-1), mask), {})


def fitted(name, **changes):
    """A model some steps old, with its quantiser at work; a fresh copy each time."""
    return copy.deepcopy(trained(name, **changes))


def shares(name, value):
    """The fields of a family that say which share of a crop is listened to."""
    return known(plugins.load("families", name).Config, {"postfilter_share": value, "heard_share": value})


@lru_cache
def trained(name, num=4, **changes):
    model = model_of(name, **changes).train()
    optimisers = {player: torch.optim.Adam(model.parameters_of(player), lr=3e-3) for player in model.players(0)}
    for step in range(num):
        model.begin_step(step, num)
        torch.manual_seed(step)
        for player in model.players(step):
            model.zero_grad()
            model.loss(batch_of(seed=step), player, step).total.mean().backward()
            optimisers[player].step()
    return model.eval()


def codec_of(model):
    return model.flow.codec if hasattr(model, "flow") else model.codec


def rest_codebooks(model):
    """Frozen, whatever the mode."""
    bottleneck = codec_of(model).bottleneck
    for codebook in bottleneck.codebooks:
        codebook.train(False)
    bottleneck.train(False)
    bottleneck.train = lambda mode=True: bottleneck


def request(latent, steps, seeds):
    return Request(torch.as_tensor(seeds), torch.as_tensor(steps), {} if latent is None else {"latent": latent})


@every_family
def test_every_parameter_moves(name):
    before = {key: value.clone() for key, value in model_of(name).named_parameters()}
    after = dict(fitted(name).named_parameters())
    assert [key for key, value in before.items() if torch.equal(value, after[key])] == []


@every_family
@pytest.mark.parametrize("training", [True, False])
def test_permuting_the_batch_permutes_the_loss(name, training):
    model = fitted(name).train(training)
    rest_codebooks(model)
    order = [4, 2, 0, 5, 1, 3]
    batch = batch_of(seed=50)
    one, other = (model.loss(b, "model", 9) for b in (batch, batches.select(batch, order)))
    torch.testing.assert_close(other.total, one.total[order], rtol=1e-10, atol=1e-12)
    assert one.criterion in one.terms
    for value in one.terms.values():
        assert value.shape == (6,) and not value.requires_grad


@every_family
def test_micro_batches_have_the_gradient_of_the_whole(name):
    model = fitted(name).train()
    rest_codebooks(model)
    batch, gradients = batch_of(seed=51), []
    for num in (1, 3):
        model.zero_grad()
        for part in batches.split(batch, num):
            (model.loss(part, "model", 9).total.sum() / 6).backward()
        gradients.append({key: value.grad for key, value in model.named_parameters()})
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-7, atol=1e-11)


@every_family
@pytest.mark.parametrize("share", [1.0, 0.6])
def test_the_loss_of_a_clip_does_not_depend_on_padding(name, share):
    """But for the mel frames that reach beyond the clip's end, so without that term; a share is of the clip's own."""
    model = fitted(name, mel_weight=0.0, **shares(name, share)).train(share < 1)
    rest_codebooks(model)
    batch = batch_of(seed=52)
    alone = batches.select(batch, [1])
    short = Masked(alone.data.value[:, : STEPS - 5], alone.data.mask[:, : STEPS - 5])
    one, other = model.loss(batch, "model", 9), model.loss(replace(alone, data=short), "model", 9)
    for term in ("noise_to_signal_db", "noise_to_signal_nats"):
        torch.testing.assert_close(other.terms[term][0], one.terms[term][1], rtol=1e-9, atol=1e-9)


@every_family
def test_a_filter_learns_from_its_share_of_the_frames_alone(name):
    """And what is heard of a sample from its own; the codec learns from all."""
    if not shares(name, 0.5):
        pytest.skip("its other player judges all of the filter's frames")
    model = fitted(name, mel_weight=1.0, **shares(name, 0.5)).train()
    rest_codebooks(model)
    batch = batch_of(seed=53)
    later = batch.data.value.clone()
    later[:, -2:] += batch.data.mask[:, -2:].unsqueeze(-1)
    one, other = (
        model.loss(replace(batch, data=replace(batch.data, value=v)), "model", 9) for v in (batch.data.value, later)
    )
    whole = batch.data.mask.all(1)
    assert whole.any()
    for term in {"noise_to_signal_db", "mel_distance", "mel_distance_sample"} & set(one.terms):
        torch.testing.assert_close(other.terms[term][whole], one.terms[term][whole], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(one.total[whole], other.total[whole], rtol=1e-3)
    seen = model.eval().loss(replace(batch, data=replace(batch.data, value=later)), "model", 9)
    assert not torch.allclose(
        seen.terms["noise_to_signal_db"][whole], one.terms["noise_to_signal_db"][whole], rtol=1e-3
    )


@every_family
@pytest.mark.parametrize("latent_dim", [4, 9])
def test_latent_has_latent_dim_channels_and_codes_do_not_know_it(name, latent_dim):
    model = fitted(name, latent_dim=latent_dim)
    latent = model.encode(batch_of())
    assert latent.value.shape == (6, STEPS, latent_dim) and model.latent.frame == (latent_dim,)
    assert model.codes == fitted(name).codes and model.codes.frame == (3,) and model.codes.num_classes == 16
    assert model.quantise(latent).value.shape == (6, STEPS // 2, 3)


@every_family
@pytest.mark.parametrize("quantiser", ["rvq", "fsq", "none"])
def test_decoding_codes_is_what_training_saw(name, quantiser):
    size = {"codebook_size": 256} if quantiser == "fsq" else {}
    model = fitted(name, quantiser=quantiser, beam_size=1, **size)
    batch = batch_of(seed=53)
    latent = model.encode(batch)
    if quantiser != "none":
        latent = model.dequantise(model.quantise(latent))
    sampling = model.Sampling(**known(model.Sampling, {"temperature": 0.0}))
    with torch.no_grad():
        found = model.generate(request(latent, batch.data.mask.sum(1), batch.seeds), sampling)
        decibels = model.loss(batch, "model", 9).terms["noise_to_signal_db"]
    assert torch.equal(found.mask, batch.data.mask) and not found.value[~found.mask].any()
    if "flow_width" not in known(model.config, LATER):  # a flow of no noise still adds something
        noise = (found.value - batch.data.value).square().sum((1, 2)) / batch.data.value.square().sum((1, 2))
        torch.testing.assert_close(10 * noise.log10(), decibels, rtol=1e-5, atol=1e-5)


def test_generation_is_a_function_of_the_seeds_alone():
    model = fitted("improved_mean_flow")
    with torch.no_grad():
        one = model.generate(request(None, [20, 11, 20], [7, 8, 9]), model.Sampling())
        torch.manual_seed(1234)
        other = model.generate(request(None, [11, 20], [8, 7]), model.Sampling())
    torch.testing.assert_close(other.value[0, :11], one.value[1, :11], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(other.value[1], one.value[0], rtol=1e-9, atol=1e-12)
    assert (one.value[0] - one.value[2]).abs().max() > 1e-3
    assert model.needs == frozenset()


def test_one_step_asks_the_network_once_for_the_whole_interval():
    model, asked = fitted("improved_mean_flow"), []
    honest = model.flow.velocity.forward

    def watched(z, r, t, context):
        asked.append((r.tolist(), t.tolist()))
        return honest(z, r, t, context)

    model.flow.velocity.forward = watched
    with torch.no_grad():
        model.generate(request(None, [8, 8], [1, 2]), model.Sampling())
        assert asked == [([0.0, 0.0], [1.0, 1.0])]
        model.generate(request(None, [8], [1]), model.Sampling(num_steps=3))
    assert len(asked) == 4 and model.num_function_evaluations(model.Sampling(num_steps=3)) == 3


@every_family
def test_a_quantiser_that_would_never_start_is_refused(name):
    with pytest.raises(ValueError, match="quantiser_start = 1"):
        model_of(name, quantiser_start=1.0)


@every_flow
def test_an_encoder_that_would_freeze_before_it_quantises_is_refused(name):
    with pytest.raises(ValueError, match="quantiser_start = 0.5"):
        model_of(name, encoder="frozen", flow_start=0.3, quantiser_start=0.5)


def test_a_frozen_encoder_rests_when_the_flow_starts():
    model = model_of("improved_mean_flow", encoder="frozen", flow_start=0.5).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    parts = {
        "codec": (codec_of(model).encoder, codec_of(model).bottleneck, codec_of(model).decoder),
        "flow": (model.flow.velocity, model.flow.ground.log_size),
    }
    for step in range(8):
        model.begin_step(step, 8)
        before = {part: [v.clone() for m in parts[part] for v in m.state_dict().values()] for part in parts}
        optimiser.zero_grad()
        model.loss(batch_of(seed=step), "model", step).total.mean().backward()
        optimiser.step()
        for part in parts:
            now = [v for m in parts[part] for v in m.state_dict().values()]
            moved = any(not torch.equal(a, b) for a, b in zip(before[part], now, strict=True))
            assert moved == ((step < 4) == (part == "codec")), (step, part)


def test_the_flow_does_not_pull_the_codec():
    """A joint codec learns exactly what it learns alone."""
    model, batch = fitted("improved_mean_flow").train(), batch_of(seed=60)
    rest_codebooks(model)
    codec = [*codec_of(model).encoder.parameters(), *codec_of(model).decoder.parameters()]
    gradients = []
    for flowing in (True, False):
        model.flow.flowing = flowing
        gradients.append(torch.autograd.grad(model.loss(batch, "model", 0).total.mean(), codec))
    torch.testing.assert_close(gradients[1], gradients[0])


def test_raw_flow_errors_are_logged_by_kind_of_pair():
    model = fitted("improved_mean_flow")
    terms = model.loss(batch_of(), "model", 9).terms
    equal, apart = terms["flow_error_r_equals_t"], terms["flow_error_r_before_t"]
    assert bool((equal.isnan() ^ apart.isnan()).all())
    assert bool((torch.where(equal.isnan(), apart, equal) > 0).all())


@every_family
def test_every_problem_of_a_config_at_once(name):
    with pytest.raises(ValueError) as found:
        wrong = {"depth": 0, "codebook_size": 1, "quantiser_start": 2.0} | shares(name, 0.0)
        plugins.load("families", name).Config(**(SMALL | wrong))
    assert all(key in str(found.value) for key in wrong)
