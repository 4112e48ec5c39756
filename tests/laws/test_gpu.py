"""What must hold on a GPU besides; skipped where there is none."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stages.numerics import times
from stages.pipeline import plugins
from stages.protocols.model import Masked
from stages.protocols.spec import Code
from stages.training import batches, device, loop, velocity
from stages.training.loader import Dataset
from tests.laws.test_families import BINS, FAMILIES, FLOWS, batch_of, fitted, model_of, request, rest_codebooks
from tests.laws.test_training import CONFIG

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
GPU = torch.device("cuda")


def seeded():
    return torch.Generator().manual_seed(0)


def on_gpu(model, batch):
    return model.to(GPU), batches.to(batch, GPU)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("training", [True, False])
def test_losses_and_gradients_are_the_cpus(name, training):
    found = []
    for place in (lambda *both: both, on_gpu):
        model, batch = place(fitted(name).train(training), batch_of(seed=60))
        rest_codebooks(model)
        loss = model.loss(batch, "model", 9)
        parameters = [parameter for parameter in model.parameters_of("model") if parameter.requires_grad]
        gradients = torch.autograd.grad(loss.total.sum(), parameters, allow_unused=True)
        found.append((loss.total.detach().cpu(), [None if g is None else g.cpu() for g in gradients]))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", FLOWS)
def test_the_jvp_is_computed_in_float32_under_autocast(name):
    model, batch = on_gpu(fitted(name).float(), batch_of(seed=61))
    network, seeds = model.flow.velocity, batch.seeds
    t = times.logit_normal(seeds, 0).to(GPU)
    data = batch.data.value.float()
    context = velocity.Context(
        batch.data.mask, torch.randn(*data.shape[:2], model.flow.ground.num_features, generator=seeded()).to(GPU)
    )
    noise = times.normal(seeds, tuple(data.shape[1:]), 5).to(GPU)

    def found(halves):
        with torch.autocast("cuda", torch.bfloat16, enabled=halves), torch.no_grad():
            rate = velocity.rate(network, context, data, t / 3, t, noise)
            return rate, network(data, t / 3, t, context)

    (full, once), (halved, again) = found(False), found(True)
    assert halved.dtype == torch.float32 and torch.equal(halved, full)
    assert not torch.equal(again, once)  # as it would be if autocast did nothing here at all


@pytest.mark.parametrize("name", ["adversarial_autoencoder", "improved_mean_flow"])
@pytest.mark.parametrize(("precision", "optimizer"), [("float32", "adamw"), ("bfloat16", "muon")])
def test_a_training_that_breaks_off_ends_in_the_same_bytes(name, precision, optimizer, tmp_path):
    config = replace(CONFIG, precision=precision, optimizer=optimizer, crop_steps=20)
    mdct = plugins.load("representations", "mdct")
    representation = mdct(mdct.Config(num_bins=BINS))
    codes = [
        Code(str(row), data.float().numpy(), np.ones(len(data), bool)) for row, data in enumerate(batch_of().data.value)
    ]
    data = Dataset(codes, representation.spec, representation.view)

    class BreakOff(Exception):
        pass

    def at_step_16(row):
        if row["step"] == 16:
            raise BreakOff

    def fit(work, listen=lambda row: None):
        model = model_of(name).float().to(GPU)
        with device.repeatable(1):
            loop.fit(model, data, data, config, tmp_path / work, listen)
        return model.state_dict(), (tmp_path / work / loop.LOG).read_bytes()

    unbroken, log = fit("unbroken")
    with pytest.raises(BreakOff):
        fit("broken", at_step_16)
    again, same_log = fit("broken")
    assert same_log == log
    assert all(torch.equal(value, again[key]) for key, value in unbroken.items())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_loss_in_bfloat16_is_nearly_that_in_float32(name):
    model, batch = on_gpu(fitted(name).float().train(), batch_of(seed=62))
    batch = replace(batch, data=replace(batch.data, value=batch.data.value.float()))
    rest_codebooks(model)
    found = []
    for halves in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cuda", torch.bfloat16, enabled=halves):
            found.append(model.loss(batch, "model", 9).total.mean())
    assert found[1].dtype == torch.float32 and found[0] != found[1]
    torch.testing.assert_close(found[1], found[0], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_latent_decodes_as_on_the_cpu(name):
    latent = Masked(torch.randn(2, 5, 6, dtype=torch.float64, generator=seeded()), torch.ones(2, 5, dtype=torch.bool))
    found = []
    for place in (torch.device("cpu"), GPU):
        model = fitted(name).eval().to(place)
        moved = Masked(latent.value.to(place), latent.mask.to(place))
        with torch.no_grad():
            found.append(model.generate(request(moved, [5, 4], [7, 8]), model.Sampling()).value.cpu())
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-8)
