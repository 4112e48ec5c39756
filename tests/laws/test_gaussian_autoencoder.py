"""What the control for flows promises: a calibrated size, and a codec that learns as alone."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

from stages.families.gaussian_autoencoder import spread
from stages.protocols.model import Masked
from stages.training import codec
from tests.laws.test_families import batch_of, fitted, model_of, request

NAME = "gaussian_autoencoder"


def test_the_expected_size_becomes_the_spread_of_normal_errors():
    """Against scipy's robust estimate of the standard deviation; half of a bin's errors lie below the median."""
    model, batch = fitted(NAME), batch_of(num=20, seed=3)
    guess = torch.randn_like(batch.data.value) * batch.data.mask.unsqueeze(-1)
    data = guess + torch.randn_like(guess) * torch.linspace(0.1, 3.0, 32, dtype=torch.float64)
    data = model.codec.standardise.inverse(data * batch.data.mask.unsqueeze(-1))
    batch = replace(batch, data=Masked(data, batch.data.mask))
    features = torch.zeros(20, 24, 16, dtype=torch.float64)
    zero = torch.zeros(20, dtype=torch.float64)
    model.codec.learn = lambda data, share: codec.Learned(zero, {}, zero, features, guess, guess)
    model.codec.guess = lambda learned, mask: learned.guess
    optimiser = torch.optim.Adam([model.log_size.bias], lr=3e-2)
    for _ in range(300):
        optimiser.zero_grad()
        model.loss(batch, "model", 9).total.mean().backward()
        optimiser.step()
    errors = (model.codec.standardise(data) - guess)[batch.data.mask].numpy()
    both = np.concatenate([errors, -errors])  # whose median is 0
    expected = scipy.stats.median_abs_deviation(both, axis=0, scale="normal")
    found = spread(model.expected_log_size(features))[0, 0].detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=0.05)
    np.testing.assert_allclose(found, np.linspace(0.1, 3.0, 32), rtol=0.2)


def test_the_codec_learns_exactly_as_an_autoencoder():
    model, alone, batch = fitted(NAME), model_of("autoencoder"), batch_of(seed=3)
    alone.codec.load_state_dict(model.codec.state_dict())
    alone.eval()
    gradients = []
    for one in (model, alone):
        weights = [*one.codec.encoder.parameters(), *one.codec.decoder.parameters()]
        gradients.append(torch.autograd.grad(one.loss(batch, "model", 9).total.mean(), weights))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


def test_a_sample_is_the_guess_and_scaled_noise_of_its_own_seed():
    model, latent = fitted(NAME), torch.randn(3, 20, 6, dtype=torch.float64)
    given = Masked(latent, torch.ones(3, 20, dtype=torch.bool))

    def made(temperature, rows=(0, 1, 2), steps=(20, 11, 20)):
        part = Masked(given.value[list(rows)], given.mask[list(rows)])
        seeds = [7 + row for row in rows]
        with torch.no_grad():
            sampling = model.Sampling(temperature=temperature)
            return model.generate(request(part, [steps[row] for row in rows], seeds), sampling).value

    guess, one, half = made(0.0), made(1.0), made(0.5)
    torch.testing.assert_close(half - guess, 0.5 * (one - guess), rtol=1e-9, atol=1e-12)
    torch.manual_seed(5)
    assert torch.equal(made(1.0), one)
    torch.testing.assert_close(made(1.0, rows=(2, 1)), one[[2, 1]], rtol=1e-12, atol=1e-12)
    assert not one[1, 11:].any()
    features = model.codec.decoder.features(given.value[:1], given.mask[:1])
    drawn = (one - guess)[:1] / model.codec.standardise.inverse(spread(model.expected_log_size(features)))
    assert drawn.std().item() == pytest.approx(1, abs=0.1) and abs(drawn.mean().item()) < 0.1
    with pytest.raises(ValueError, match="temperature"):
        model.Sampling(temperature=-1.0)


def test_a_heard_sample_trains_the_size_alone():
    model, batch = fitted(NAME, heard_weight=5.0), batch_of(steps=40, seed=3)
    silent = copy.deepcopy(model)
    silent.config = replace(model.config, heard_weight=0.0)
    gradients = []
    for one in (model, silent):
        parameters = [*one.codec.decoder.parameters(), *one.log_size.parameters()]
        gradients.append(torch.autograd.grad(one.loss(batch, "model", 9).total.mean(), parameters))
    *codec, weight, bias = zip(*gradients, strict=True)
    for with_sound, without in codec:
        torch.testing.assert_close(with_sound, without, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(*weight) and not torch.allclose(*bias)
