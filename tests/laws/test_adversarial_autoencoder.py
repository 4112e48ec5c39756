"""Two players, their balance, and what discriminators hear; against closed forms and scipy."""

import copy

import numpy as np
import pytest
import scipy.signal
import torch
from torch.nn import functional

from stages.networks import discriminator
from stages.networks.discriminator import FrameDiscriminator, SpectrogramDiscriminator
from stages.pipeline import plugins
from stages.protocols.model import Masked
from stages.protocols.spec import Statistics
from stages.training import balancer
from tests import fakes
from tests.laws.test_families import SMALL, batch_of, fitted, model_of

NAME = "adversarial_autoencoder"


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def waveform(num=3, num_samples=6000, seed=0):
    torch.manual_seed(seed)
    return Masked(0.1 * normal(num, num_samples), torch.ones(num, num_samples, dtype=torch.bool))


def pulled(y, reference, parts):
    (g,) = torch.autograd.grad(balancer.pull(y, reference, parts).sum(), y)
    return g


def test_each_balanced_loss_pulls_with_its_share_of_the_reference():
    y, a, b = normal(4, 5, 6).requires_grad_(), normal(4, 5, 6), normal(4, 5, 6)
    sums = [(y * side).flatten(1).sum(1) for side in (a, b)]
    scales = torch.tensor([1.0, 1e-6, 1e6, 3.0], dtype=torch.float64)
    reference = 0.5 * y.square().flatten(1).sum(1)  # whose gradient is y
    parts = {"a": balancer.Part(scales * sums[0], 0.3), "b": balancer.Part(7 * sums[1], 2.0)}
    strength, unit = y.flatten(1).norm(dim=1), [side / side.flatten(1).norm(dim=1)[:, None, None] for side in (a, b)]
    expected = strength[:, None, None] * (0.3 * unit[0] + 2.0 * unit[1])
    torch.testing.assert_close(pulled(y, reference, parts), expected.detach())
    assert not balancer.pull(y, reference, parts).any(), "it has a gradient and no value"
    nowhere = {"c": balancer.Part((y * 0).flatten(1).sum(1), 1.0)}
    assert not pulled(y, reference, nowhere).any()


def test_a_clip_is_balanced_without_the_others():
    y = normal(4, 5, 6).requires_grad_()

    def of(rows):
        part = y[rows].detach().requires_grad_()
        reference = part.pow(4).flatten(1).sum(1)
        return pulled(part, reference, {"a": balancer.Part(part.sin().flatten(1).sum(1), 0.5)})

    torch.testing.assert_close(of([2, 0]), of([0, 1, 2, 3])[[2, 0]], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("num_samples", [512, 2048])
def test_what_is_heard_is_the_short_time_fourier_transform_to_a_power(num_samples):
    signal = waveform().value
    found = discriminator.compressed(signal, num_samples)
    window = np.hanning(num_samples + 1)[:-1]
    transform = scipy.signal.ShortTimeFFT(window / np.sqrt((window**2).sum()), num_samples // 2, fs=1)
    expected = np.abs(transform.stft(signal.numpy(), p0=0, p1=found.shape[2])).swapaxes(1, 2)
    heard = expected > 100 * discriminator.FAINT  # where the floor changes 0.35e-4 of a cell
    np.testing.assert_allclose(found.norm(dim=1).numpy()[heard], expected[heard] ** discriminator.POWER, rtol=1e-4)
    assert heard.mean() > 0.9
    loud = discriminator.compressed(normal(1, 200_000), num_samples)
    assert (loud.norm(dim=1) ** (2 / discriminator.POWER)).mean().item() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("num_samples", [1, 700, 6000])
def test_padding_changes_no_verdict(num_samples):
    torch.manual_seed(0)
    judge, alone = SpectrogramDiscriminator().double(), waveform(2, num_samples)
    with torch.no_grad():
        padded = judge(Masked(functional.pad(alone.value, (0, 5000)), functional.pad(alone.mask, (0, 5000))))
        for short, long in zip(judge(alone), padded, strict=True):
            for one, other in zip([short.score, *short.layers], [long.score, *long.layers], strict=True):
                steps = one.value.shape[2]
                torch.testing.assert_close(other.value[:, :, :steps], one.value, rtol=1e-10, atol=1e-12)
                assert one.mask.any() and not other.value[:, :, steps:].any() and not other.mask[:, :, steps:].any()


def test_frames_beyond_the_end_change_no_verdict():
    torch.manual_seed(0)
    judge, x = FrameDiscriminator(6).double(), normal(2, 9, 3, 2)
    with torch.no_grad():
        alone = judge(Masked(x, torch.ones(2, 9, dtype=torch.bool)))
        padded = judge(Masked(torch.cat([x, normal(2, 8, 3, 2)], 1), torch.arange(17).expand(2, -1) < 9))
    for short, long in zip(alone, padded, strict=True):
        torch.testing.assert_close(long.score.value[:, :, : short.score.value.shape[2]], short.score.value)


def test_a_discriminator_learns_to_tell_noise_from_tones():
    torch.manual_seed(0)
    judge, noise = SpectrogramDiscriminator(), waveform()
    noise = Masked(noise.value.float(), noise.mask)
    tones = 0.14 * torch.sin(torch.arange(6000) * torch.tensor([[0.05], [0.1], [0.3]]))
    optimiser = torch.optim.Adam(judge.parameters(), lr=3e-3)
    for step in range(30):
        real, made = judge(noise), judge(Masked(tones, noise.mask))
        pairs = list(zip(real, made, strict=True))
        hinges = [(1 - x.score.value).relu().mean() + (1 + y.score.value).relu().mean() for x, y in pairs]
        loss = torch.stack(hinges).mean()
        first = loss.item() if step == 0 else first
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert first > 1.5 and loss.item() < 0.5


def test_before_its_start_it_is_the_autoencoder():
    model, alone, batch = fitted(NAME), model_of("autoencoder", postfilter_width=0), batch_of(seed=3)
    alone.codec.load_state_dict(model.codec.state_dict())
    alone.eval()

    def gradients(one):
        one.loss(batch, "model", 9).total.mean().backward()
        return {name: value.grad for name, value in one.codec.named_parameters()}

    expected = gradients(alone)
    model.begin_step(9, 10)
    assert model.players(9) == ("model", "discriminator")
    torch.testing.assert_close(model.loss(batch, "model", 9).total, alone.loss(batch, "model", 9).total)
    differs = gradients(model)["decoder.leave.weight"]
    assert not torch.allclose(differs, expected["decoder.leave.weight"])
    late = model_of(NAME, adversarial_start=0.95).eval()
    late.codec.load_state_dict(model.codec.state_dict())
    late.begin_step(8, 10)
    assert late.players(8) == ("model",)
    torch.testing.assert_close(gradients(late), expected)


def test_the_other_player_pulls_with_its_shares_at_the_decoder():
    model, batch = fitted(NAME, adversarial_share=0.25, feature_share=0.5), batch_of(seed=3)
    learn, seen = model.codec.learn, []
    model.codec.learn = lambda data: seen.append(learn(data)) or seen[-1]
    total = model.loss(batch, "model", 9).total
    (whole,) = torch.autograd.grad(total.sum(), seen[0].guess, retain_graph=True)
    (own,) = torch.autograd.grad(seen[0].loss.sum(), seen[0].guess)
    strength, extra = own.flatten(1).norm(dim=1), (whole - own).flatten(1).norm(dim=1)
    assert bool((extra <= 0.7501 * strength).all()) and bool((extra >= 0.2499 * strength).all())


def test_the_codebooks_follow_once_a_step_and_the_discriminator_leaves_the_codec_alone():
    model, batch = fitted(NAME).train(), batch_of(seed=3)
    before = copy.deepcopy(model.codec.state_dict())
    judged = model.loss(batch, "discriminator", 9)
    assert all(torch.equal(value, before[name]) for name, value in model.codec.state_dict().items())
    judged.total.sum().backward()
    assert all(value.grad is None for value in model.codec.parameters())
    model.loss(batch, "model", 9)
    after = model.codec.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in after.items() if "embed" in name)


def test_images_are_judged_by_their_frames():
    torch.manual_seed(0)
    family, spec = plugins.load("families", NAME), fakes.Digits.spec
    statistics = Statistics(np.full(1, 99), np.zeros(1), np.ones(1), None)
    model = family(family.Config(**SMALL), spec, statistics, fakes.Digits().signal)
    assert isinstance(model.discriminator, FrameDiscriminator)
    batch = batch_of(num=4, steps=16)
    data = Masked(batch.data.value[..., :1].float(), torch.ones(4, 16, dtype=torch.bool))
    batch = type(batch)(batch.ids, batch.seeds, data, {})
    model.begin_step(9, 10)
    for player in model.players(9):
        loss = model.loss(batch, player, 9)
        loss.total.mean().backward()
        assert bool(loss.total.isfinite().all())
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.discriminator.parameters())


@pytest.mark.parametrize(
    "signal", [lambda data: Masked(data.value.detach(), data.mask), lambda data: data.value.long()]
)
def test_a_signal_that_cannot_be_learned_from_is_refused(signal):
    family, spec = plugins.load("families", NAME), fakes.Digits.spec
    statistics = Statistics(np.full(1, 99), np.zeros(1), np.ones(1), None)

    def found(data):
        made = signal(data)
        return made if isinstance(made, Masked) else Masked(made, data.mask)

    with pytest.raises(ValueError, match="differentiable signal"):
        family(family.Config(**SMALL), spec, statistics, found)
