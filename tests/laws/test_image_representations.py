"""What holds for every image representation in stages/representations, at every size."""

import dataclasses

import numpy as np
import pytest
import torch

from stages.media import image
from stages.numerics import patches
from stages.pipeline import artifacts, plugins, representation_folder
from stages.protocols.model import Masked

NAMES = [name for name in plugins.names("representations") if plugins.load("representations", name).clip == "image"]
SIZES = [(8, 8), (28, 28), (1, 1), (2, 1), (7, 9), (5, 4), (4, 11)]
PATCHES = [2, 4]
every = pytest.mark.parametrize("name", NAMES)


def made(name, patch=2, size=(8, 8), **further):
    kind = plugins.load("representations", name)
    return kind(kind.Config(patch=patch, height=size[0], width=size[1], **further))


def clip(size=(8, 8), seed=0, labels=None):
    pixels = np.random.Generator(np.random.Philox(seed)).random(size, dtype=np.float32)
    return image.Clip(f"clip-{seed}", pixels, {"digit": 3} if labels is None else labels)


def test_there_are_two():
    assert NAMES == ["mdct_image", "reshape"]


@every
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("patch", PATCHES)
def test_comes_back_at_every_size(name, patch, size):
    representation, original = made(name, patch, size), clip(size)
    decoded = representation.decode(representation.encode(original))
    assert (decoded.id, dict(decoded.labels)) == (original.id, {"digit": 3})
    assert decoded.pixels.dtype == np.float32 and decoded.pixels.shape == size
    noise = np.square(decoded.pixels.astype(np.float64) - original.pixels).sum()
    power = np.square(original.pixels.astype(np.float64)).sum()
    assert noise <= power * 10 ** (-representation.tolerance_db / 10)
    assert 0 <= decoded.pixels.min() and decoded.pixels.max() <= 1


@every
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("patch", PATCHES)
def test_it_is_orthonormal(name, patch, size):
    """Linear (black is zero), and inner products of images are those of their codes."""
    representation = made(name, patch, size)
    x, y = clip(size, 1), clip(size, 2)
    a, b = (representation.encode(one).data.astype(np.float64) for one in (x, y))
    np.testing.assert_allclose((a * b).sum(), (x.pixels.astype(np.float64) * y.pixels).sum(), rtol=1e-6)
    both = representation.encode(image.Clip("c", (x.pixels + y.pixels) / 2)).data
    np.testing.assert_allclose(both, (a + b) / 2, atol=1e-6)


@every
@pytest.mark.parametrize("size", SIZES)
def test_the_spec_is_kept(name, size):
    representation = made(name, 2, size)
    spec, code = representation.spec, representation.encode(clip(size))
    assert spec.clip == representation.clip == "image" and spec.data.num_classes is None
    assert code.data.shape == (spec.data.num_steps, *spec.data.frame) and code.data.dtype == np.float32
    assert spec.data.grid == (-(-size[0] // 2), -(-size[1] // 2)) and np.prod(spec.data.grid) == spec.data.num_steps
    assert code.mask.all() and len(code.mask) == len(code.data)
    field = spec.conditions["digit"]
    assert (field.frame, field.num_classes, field.num_steps) == ((), 10, 1)
    assert code.conditions["digit"].tolist() == [3] and code.side == representation.side(len(code.data)) == {}


@every
def test_an_image_without_a_label_has_no_condition(name):
    representation = made(name)
    code = representation.encode(clip(labels={}))
    assert code.conditions == {} and representation.decode(code).labels == {}


@every
def test_patches_are_neighbourhoods(name):
    """A bright pixel shows in the patches around it alone: its own, and for a lapped transform the next ones."""
    representation = made(name, 4, (16, 16))
    pixels = np.zeros((16, 16), np.float32)
    pixels[5, 14] = 1  # in patch (1, 3)
    energy = np.square(representation.encode(image.Clip("c", pixels)).data).sum(1).reshape(4, 4)
    assert energy[1, 3] > 0.3 and energy[:, 0:2].max() < 1e-9 and energy[3].max() < 1e-9
    assert energy.sum() == pytest.approx(1)


def test_reshape_is_the_pixels_row_by_row():
    """Against torch's own."""
    original = clip((12, 8))
    expected = torch.nn.functional.pixel_unshuffle(torch.from_numpy(original.pixels)[None, None], 4)[0]
    code = made("reshape", 4, (12, 8)).encode(original)
    np.testing.assert_array_equal(code.data, expected.flatten(1).T)


def test_the_lapped_transform_is_orthonormal_and_smooth_images_gather_in_few_coefficients():
    for length, patch in ((8, 2), (28, 4), (4, 4), (12, 6)):
        matrix = patches.lapped(length, patch)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(length), atol=1e-12)
    y, x = np.mgrid[:16, :16] / 16
    smooth = image.Clip("c", (0.5 + 0.5 * np.sin(2 * np.pi * (x + 0.7 * y))).astype(np.float32))
    shares = {}
    for name in NAMES:
        energy = np.sort(np.square(made(name, 4, (16, 16)).encode(smooth).data).ravel())[::-1]
        shares[name] = energy[:64].sum() / energy.sum()
    assert shares["mdct_image"] > 0.97 > shares["reshape"]


@every
def test_what_does_not_fit_is_refused(name):
    representation = made(name)
    with pytest.raises(ValueError, match="clip-0 has 9 x 8 pixels, expected 8 x 8"):
        representation.encode(clip((9, 8)))
    with pytest.raises(ValueError, match="digit = 10"):
        representation.encode(clip(labels={"digit": 10}))
    code = representation.encode(clip())
    with pytest.raises(ValueError, match="clip-0"):
        representation.decode(dataclasses.replace(code, data=code.data[1:]))


@every
def test_what_a_model_overshoots_is_limited(name):
    representation = made(name)
    code = representation.encode(clip())
    loud = representation.decode(dataclasses.replace(code, data=3 * code.data)).pixels
    np.testing.assert_allclose(loud, np.clip(3 * clip().pixels, 0, 1), atol=1e-6)


@every
def test_view_takes_the_whole(name):
    representation = made(name)
    code = representation.encode(clip())
    assert representation.view(code, 1, 5) is code and representation.grammar({}) is None


@every
@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_signal_is_what_decode_shows(name, size):
    """Differentiable, on a batch; images of a batch do not touch each other."""
    representation = made(name, 4, size)
    codes = [representation.encode(clip(size, seed)) for seed in (1, 2)]
    value = torch.from_numpy(np.stack([code.data for code in codes])).requires_grad_()
    mask = torch.ones(value.shape[:2], dtype=torch.bool)
    shown = representation.signal(Masked(value, mask))
    for row, code in zip(shown.value.detach(), codes, strict=True):
        np.testing.assert_allclose(row, representation.decode(code).pixels, atol=1e-5)
    assert shown.value.shape == shown.mask.shape == (2, *size) and shown.mask.all()
    shown.value[0].square().sum().backward()
    assert value.grad[0].abs().sum() > 0 and value.grad[1].abs().sum() == 0
    absent = representation.signal(Masked(value.detach(), mask & torch.tensor([[True], [False]])))
    assert absent.mask[0].all() and not absent.mask[1].any() and (absent.value[1] == 0).all()


@every
def test_the_version_follows_the_config_and_survives_saving(name, tmp_path):
    versions = {made(name, *config).spec.version for config in ((2,), (4,), (2, (8, 9)))}
    assert len(versions) == 3
    representation = made(name, 4, (7, 9), label="letter", num_classes=26)
    representation.save(tmp_path)
    loaded = type(representation).load(tmp_path)
    assert (loaded.config, loaded.spec) == (representation.config, representation.spec)
    about = artifacts.read_json(tmp_path / representation_folder.NAME)
    artifacts.write_json(tmp_path / representation_folder.NAME, about | {"version": "0" * 16})
    with pytest.raises(ValueError, match=r"0000.*dvc repro"):
        type(representation).load(tmp_path)


@pytest.mark.parametrize(
    "name, wrong",
    [
        ("reshape", {"patch": 0}),
        ("reshape", {"height": 0}),
        ("mdct_image", {"patch": 3}),
        ("mdct_image", {"patch": 0}),
        ("mdct_image", {"num_classes": 0}),
    ],
)
def test_impossible_configs_are_refused(name, wrong):
    kind = plugins.load("representations", name)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        kind.Config(**wrong)
