"""What holds for every audio representation in stages/representations, at every length."""

import dataclasses

import numpy as np
import pytest
import torch

from stages.media import audio
from stages.pipeline import artifacts, plugins, representation_folder
from stages.protocols.model import Masked

SMALL = {"mdct": {"num_bins": 32}, "waveform": {"hop": 32}, "mel": {"num_mels": 12, "window_length": 256, "hop": 64}}
OTHER = {"mdct": {"window": "kbd"}, "waveform": {"hop": 48}, "mel": {"num_iterations": 7}}
NAMES = [name for name in plugins.names("representations") if plugins.load("representations", name).clip == "audio"]
LENGTHS = [0, 1, 2, 31, 32, 33, 63, 64, 65, 500, 1001, 8000]
every = pytest.mark.parametrize("name", NAMES)
RATE = 8000


def made(name, **further):
    kind = plugins.load("representations", name)
    return kind(kind.Config(rate_hz=RATE, **{**SMALL[name], **further}))


def hop(representation):
    return round(RATE / representation.spec.data.rate_hz)


def sound(length, seed=0):
    """Decaying partials in a little noise, full 16-bit range not needed."""
    t = np.arange(length) / RATE
    partials = sum(np.sin(2 * np.pi * 220 * k * t + k) / k for k in range(1, 12))
    noise = np.random.Generator(np.random.Philox(seed)).standard_normal(length)
    return (0.2 * np.exp(-t) * partials + 0.02 * noise).astype(np.float32)


def clip(length, seed=0):
    return audio.Clip(f"clip-{length}", sound(length, seed), RATE)


def snr_db(x, y):
    noise = np.sum((x.astype(np.float64) - y.astype(np.float64)) ** 2)
    return 10 * np.log10((np.sum(x.astype(np.float64) ** 2) + 1e-300) / (noise + 1e-300))


def closeness_db(representation, original):
    """What each representation's tolerance_db speaks of."""
    code = representation.encode(original)
    decoded = representation.decode(code)
    if representation.config.__class__.__name__ == "MelConfig":
        again = representation.encode(decoded)
        return snr_db(np.exp(code.data.astype(np.float64)), np.exp(again.data.astype(np.float64)))
    return snr_db(original.samples, decoded.samples)


@every
@pytest.mark.parametrize("length", LENGTHS)
def test_comes_back_at_every_length(name, length):
    representation = made(name)
    original = clip(length)
    code = representation.encode(original)
    decoded = representation.decode(code)
    assert decoded.id == code.id == original.id
    assert (decoded.rate_hz, decoded.samples.dtype, len(decoded.samples)) == (RATE, np.float32, length)
    assert length == 0 or closeness_db(representation, original) >= representation.tolerance_db


@every
@pytest.mark.parametrize("gain", [4e-4, 4.0])
def test_the_tolerance_holds_for_quiet_and_loud_clips(name, gain):
    quiet = name == "mel" and gain < 1  # near its floor
    original = audio.Clip("c", gain * sound(4001), RATE)
    assert quiet or closeness_db(made(name), original) >= plugins.load("representations", name).tolerance_db


@every
def test_silence_stays_silent(name):
    representation = made(name)
    decoded = representation.decode(representation.encode(audio.Clip("s", np.zeros(1000, np.float32), RATE)))
    assert np.abs(decoded.samples).max() < 1e-3


@every
@pytest.mark.parametrize("length", LENGTHS)
def test_the_spec_is_kept(name, length):
    representation = made(name)
    code, data = representation.encode(clip(length)), representation.spec.data
    assert code.data.shape[1:] == data.frame and code.mask.all() and len(code.mask) == len(code.data)
    assert abs(len(code.data) - length * data.rate_hz / RATE) < 1 + 1e-9
    assert data.num_classes is None and representation.spec.clip == representation.clip == "audio"
    like = representation.side(len(code.data))
    assert {k: (v.dtype, v.shape) for k, v in code.side.items()} == {k: (v.dtype, v.shape) for k, v in like.items()}
    assert code.conditions.keys() <= representation.spec.conditions.keys()


@every
def test_a_new_clip_of_t_steps_decodes(name):
    """side(T) is what an encoded clip of that many steps could have had."""
    representation = made(name)
    for num_steps in (1, 2, 9):
        code = representation.encode(clip(num_steps * hop(representation)))
        new = dataclasses.replace(code, data=code.data[:num_steps], side=representation.side(num_steps))
        assert len(representation.decode(new).samples) == num_steps * hop(representation)


@every
def test_side_information_that_does_not_fit_is_refused(name):
    representation = made(name)
    code = representation.encode(clip(1000))
    for wrong in (0, 100, 2000, -5):
        with pytest.raises(ValueError, match="clip-1000"):
            representation.decode(dataclasses.replace(code, side={"num_samples": np.array([wrong])}))


@every
def test_the_version_follows_the_config_and_survives_saving(name, tmp_path):
    versions = {made(name).spec.version, made(name, **OTHER[name]).spec.version}
    assert len(versions) == 2
    representation = made(name, **OTHER[name])
    representation.save(tmp_path)
    loaded = type(representation).load(tmp_path)
    assert (loaded.config, loaded.spec) == (representation.config, representation.spec)
    about = artifacts.read_json(tmp_path / representation_folder.NAME)
    assert about["module"] == name
    artifacts.write_json(tmp_path / representation_folder.NAME, about | {"version": "0" * 16})
    with pytest.raises(ValueError, match="0000.*dvc repro"):
        type(representation).load(tmp_path)
    artifacts.write_json(tmp_path / representation_folder.NAME, about | {"module": "odd"})
    with pytest.raises(ValueError, match="odd"):
        type(representation).load(tmp_path)
    with pytest.raises(ValueError, match="holds no representation"):
        type(representation).load(tmp_path / "nowhere")


def test_versions_differ_between_representations():
    assert len({made(name).spec.version for name in NAMES}) == len(NAMES)


@every
def test_clips_at_another_rate_are_resampled(name):
    representation = made(name)
    t = np.arange(32_000) / 16_000
    original = audio.Clip("c", (0.3 * np.sin(2 * np.pi * 440 * t)).astype(np.float32), 16_000)
    code = representation.encode(original)
    assert code.side["num_samples"].tolist() == [RATE * 2]
    expected = representation.encode(audio.resample(original, RATE))
    np.testing.assert_array_equal(code.data, expected.data)


@every
def test_view_is_a_pure_function_and_a_stretch_of_the_code(name):
    representation = made(name)
    code = representation.encode(clip(8000))
    before = code.data.copy()
    starts = set()
    for seed in (0, 1, 2**63 - 1, 2**40, 5, 6, 7, 8):
        one, other = representation.view(code, 10, seed), representation.view(code, 10, seed)
        np.testing.assert_array_equal(one.data, other.data)
        assert one.data.shape[0] == len(one.mask) == 10
        places = [s for s in range(len(code.data) - 9) if np.array_equal(code.data[s : s + 10], one.data)]
        starts.update(places)
        assert places and np.shares_memory(one.data, code.data)
        representation.decode(one)
    assert len(starts) > 4
    np.testing.assert_array_equal(code.data, before)


@every
def test_view_reaches_every_place_and_takes_short_clips_whole(name):
    representation = made(name)
    code = representation.encode(clip(12 * hop(representation)))
    room = len(code.data) - 9
    found = [representation.view(code, 10, seed).data for seed in range(60)]
    assert len({data.tobytes() for data in found}) == room
    for num_steps in (len(code.data), len(code.data) + 1, 2**62):
        assert representation.view(code, num_steps, 3) is code


@every
def test_signal_is_what_decode_plays(name):
    """Differentiable, on a batch, from the frames alone; clips of a batch do not touch each other."""
    representation = made(name, **({"num_iterations": 2} if name == "mel" else {}))
    codes = [representation.encode(clip(20 * hop(representation), seed)) for seed in (1, 2)]
    value = torch.from_numpy(np.stack([code.data for code in codes])).float().requires_grad_()
    mask = torch.ones(value.shape[:2], dtype=torch.bool)
    heard = representation.signal(Masked(value, mask))
    for row, code in zip(heard.value.detach(), codes, strict=True):
        played = representation.decode(code).samples
        np.testing.assert_allclose(row.numpy()[: len(played)], played, atol=2e-4)
    assert heard.value.shape == heard.mask.shape and heard.mask.all()
    heard.value[0].square().sum().backward()
    assert value.grad[0].abs().sum() > 0 and value.grad[1].abs().sum() == 0


@every
def test_signal_is_silent_beyond_a_clips_end(name):
    representation = made(name)
    data = torch.randn(2, 9, *representation.spec.data.frame, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 4:] = False
    heard = representation.signal(Masked(data * mask[..., None], mask))
    assert heard.mask.sum(1).tolist() == [9 * hop(representation), 4 * hop(representation)]
    assert (heard.value[~heard.mask] == 0).all() and heard.value[heard.mask].abs().min() > 0
    changed = data.clone()
    changed[1, 4:] = 77.0  # what is masked must not matter
    np.testing.assert_array_equal(representation.signal(Masked(changed, mask)).value, heard.value)


def test_signal_gradient_of_the_mdct_is_its_transpose():
    """Against finite differences, in float64."""
    representation = made("mdct")
    data = torch.randn(1, 3, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda x: representation.signal(Masked(x, mask)).value, (data,))


def test_signal_computes_in_float32_under_autocast():
    representation = made("mdct")
    code = representation.encode(clip(2000))
    mask = torch.ones(1, len(code.data), dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        heard = representation.signal(Masked(torch.from_numpy(code.data)[None].bfloat16(), mask))
    assert heard.value.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
def test_mel_filters_that_see_nothing_are_refused():
    with pytest.raises(ValueError, match="num_mels = 300"):
        made("mel", num_mels=300).encode(clip(100))


@pytest.mark.parametrize(
    "name, wrong",
    [
        ("mdct", {"num_bins": 31}),
        ("mdct", {"num_bins": 0}),
        ("mdct", {"rate_hz": 0}),
        ("waveform", {"hop": 0}),
        ("mel", {"hop": 900}),
        ("mel", {"num_mels": 0}),
    ],
)
def test_impossible_configs_are_refused(name, wrong):
    kind = plugins.load("representations", name)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        kind.Config(**wrong)
