"""The quantisers: what they may change, what they must keep, and that they use their codebooks."""

import itertools

import pytest
import torch

from stages.networks.bottleneck import Bottleneck, Coding, beam_search, nearest

torch.set_num_threads(1)  # tiny tensors: threads only wait for each other
QUANTISERS = ["rvq", "fsq"]


def bottleneck(quantiser="rvq", latent_dim=6, group=2, size=256, beam_size=1):
    torch.manual_seed(0)
    return Bottleneck(Coding(latent_dim, group, 8, quantiser, 3, size, beam_size))


def latent(num=4, steps=101, dim=6, seed=1):
    z = torch.randn(num, steps, dim, generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(steps).unsqueeze(0) < torch.tensor([steps, steps - 40, steps, 7])[:num].unsqueeze(1)
    return z * mask.unsqueeze(-1), mask


def trained(quantiser="rvq", **kwargs):
    model = bottleneck(quantiser, **kwargs)
    model.start()
    for seed in range(20):
        z, mask = latent(dim=model.coding.latent_dim, seed=seed)
        model(z, mask)
    return model.eval()


@pytest.mark.parametrize("quantiser", QUANTISERS)
def test_codes_have_their_range_and_shape_and_fsq_returns_them(quantiser):
    model = trained(quantiser)
    z, mask = latent()
    codes = model.quantise(z, mask)
    present = model.stack_mask(mask)
    if quantiser == "fsq":
        values = model.fsq.indices_to_codes(codes).reshape(*codes.shape, -1)
        assert torch.equal(codes[present], model.fsq.codes_to_indices(values)[present].long())
    assert bool((codes >= 0).all()) and bool((codes < model.codes.num_classes).all())
    assert codes.shape == (4, 51, 3) and codes.dtype == torch.int64
    assert not codes[~present].any()


@pytest.mark.parametrize("quantiser", QUANTISERS)
def test_training_and_decoding_see_the_same_values(quantiser):
    model = trained(quantiser)
    z, mask = latent()
    decoded = model.dequantise(model.quantise(z, mask), model.stack_mask(mask))
    assert decoded.shape == (4, 102, 6)
    torch.testing.assert_close(
        decoded[:, :101] * mask.unsqueeze(-1), model(z, mask).value * mask.unsqueeze(-1), rtol=1e-5, atol=1e-5
    )


def test_greedy_quantisation_of_a_sum_that_is_far_apart_is_idempotent():
    model = trained()
    for level, codebook in enumerate(model.codebooks):
        codebook.embed = (torch.nn.functional.normalize(torch.randn(1, 256, 8), dim=-1) * 100.0**-level).double()
    codes = torch.randint(256, (2, 5, 3), generator=torch.Generator().manual_seed(3))
    vector = sum(model.codebooks[i].embed[0][codes[..., i]] for i in range(3)).reshape(-1, 8)
    books = model.rvq.codebooks.double()
    assert torch.equal(beam_search(vector, books, 4), codes.reshape(-1, 3))


@pytest.mark.parametrize("latent_dim", [3, 6, 16])
def test_latent_dim_leaves_the_codes_alone(latent_dim):
    model = trained(latent_dim=latent_dim)
    z, mask = latent(dim=latent_dim)
    assert model.quantise(z, mask).shape == (4, 51, 3)
    assert model.codes == bottleneck().codes


@pytest.mark.parametrize("quantiser", [*QUANTISERS, "none"])
def test_padding_and_neighbours_do_not_change_a_clip(quantiser):
    model = trained(quantiser)
    z, mask = latent()
    batch = model(z, mask)
    for row in range(4):
        steps = int(mask[row].sum())
        alone = model(z[row : row + 1, :steps], mask[row : row + 1, :steps])
        torch.testing.assert_close(alone.value[0], batch.value[row, :steps], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(alone.commitment[0], batch.commitment[row], rtol=1e-5, atol=1e-6)


def test_a_wider_beam_is_never_worse_and_a_full_one_is_best():
    torch.manual_seed(2)
    rows, books = torch.randn(40, 3, dtype=torch.float64), torch.randn(3, 5, 3, dtype=torch.float64)

    def errors(codes):
        return (rows - torch.stack([books[i][codes[:, i]] for i in range(3)]).sum(0)).square().sum(1)

    every = torch.stack([books[0][a] + books[1][b] + books[2][c] for a, b, c in itertools.product(range(5), repeat=3)])
    best = torch.cdist(rows, every).square().amin(1)
    torch.testing.assert_close(errors(beam_search(rows, books, 125)), best)
    greedy, residual = [], rows
    for book in books:
        greedy.append(nearest(residual, book))
        residual = residual - book[greedy[-1]]
    assert torch.equal(beam_search(rows, books, 1), torch.stack(greedy, dim=1))
    assert errors(beam_search(rows, books, 4)).mean() < errors(torch.stack(greedy, dim=1)).mean()


def test_an_rvq_passes_the_latent_until_it_starts():
    model = bottleneck()
    z, mask = latent()
    before = model(z, mask)
    assert not model.active and not before.commitment.any()
    model.start()
    model(z, mask)
    after = model(z, mask)
    assert model.active and bool((after.commitment > 0).all())
    restored = bottleneck()
    restored.load_state_dict(model.state_dict())
    assert restored.active


def test_codebooks_fit_the_data_and_dead_entries_return():
    model = bottleneck(group=1, latent_dim=8, size=16)
    model.start()
    centres = torch.randn(16, 8, generator=torch.Generator().manual_seed(5)) * 5
    z = centres[torch.randint(16, (4, 200), generator=torch.Generator().manual_seed(6))]
    mask = torch.ones(4, 200, dtype=torch.bool)
    model(z, mask)
    model.codebooks[0].embed[0, 3:] = 1e3
    model.codebooks[0].embed_avg[0, 3:] = 1e3
    model.codebooks[0].cluster_size[0, 3:] = 0
    restarts = 0.0
    for _ in range(60):
        found = model(z, mask)
        restarts += float(found.terms["dead_code_restarts"][0])
    assert restarts >= 13
    assert float(found.commitment.max()) < 0.02
    assert 0 < float(found.terms["codebook_usage"][0]) <= 1


def test_evaluation_leaves_the_codebooks_alone():
    model = trained()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(*latent(seed=77))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_gradient_passes_straight_through():
    model = trained()
    z, mask = latent()
    z.requires_grad_()
    model(z, mask).value.sum().backward()
    plain = model.leave(
        model.enter(torch.nn.functional.pad(z.detach(), (0, 0, 0, 1)).reshape(4, 51, 12).requires_grad_())
    )
    weight = (model.leave.weight @ model.enter.weight).sum(0).reshape(2, 6)
    assert plain.shape == (4, 51, 12)
    torch.testing.assert_close(z.grad[0, :2], weight, rtol=1e-4, atol=1e-5)
