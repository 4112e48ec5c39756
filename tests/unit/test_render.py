"""Renderings: audible, at the stated loudness, never clipped, the same bytes whoever renders them."""

import io

import numpy as np
import pytest
import soundfile
from scipy.signal import bilinear_zpk, sosfilt, zpk2sos

from stages import render
from stages.media import midi, recordings, synth
from stages.pipeline import artifacts, packs, workers
from stages.render import RATE_HZ, Config

PEDALS = np.zeros((0, 2), dtype=np.int64)
VOICES = {"soprano": (72, 76, 79, 77), "alto": (64, 67, 64, 65), "bass": (48, 43, 36, 41)}


def score(name="piece", pedals=PEDALS, programs=(0, 0, 0), is_drum=False):
    voices = []
    for program, (voice, pitches) in zip(programs, VOICES.items(), strict=True):
        notes = np.array([[480 * k, 480 * k + 470, pitch, 80] for k, pitch in enumerate(pitches)], dtype=np.int64)
        voices.append(midi.Voice(voice, program, is_drum, notes, pedals))
    return midi.Score(name, 480, np.array([[0, 500_000]]), tuple(voices))


@pytest.fixture
def raw(tmp_path):
    """Three scores, a recording in stereo at 44.1 kHz, and a file that is neither."""
    folder = tmp_path / "raw"
    (folder / "files").mkdir(parents=True)
    pieces = []
    for name in ("a", "b", "c"):
        (folder / f"files/{name}.mid").write_bytes(midi.write(score(name)))
        pieces.append({"id": name, "path": f"files/{name}.mid", "kind": "midi"})
    t = np.arange(3 * 44_100) / 44_100
    stereo = np.stack([0.4 * np.sin(2 * np.pi * 440 * t), 0.2 * np.sin(2 * np.pi * 440 * t)], axis=1)
    soundfile.write(folder / "files/tone.wav", stereo, 44_100)
    (folder / "files/broken.mid").write_bytes(b"MThd")
    pieces.append({"id": "tone", "path": "files/tone.wav", "kind": "audio"})
    pieces.append({"id": "broken", "path": "files/broken.mid", "kind": "midi"})
    pieces.append({"id": "picture", "path": "files/picture.png", "kind": "image"})
    for piece in pieces:
        path = folder / piece["path"]
        piece["sha256"] = artifacts.sha256(path) if path.exists() else ""
    artifacts.write_json(folder / "manifest.json", {"pieces": pieces})
    return folder


def lufs(x, rate_hz):
    """ITU-R BS.1770-4 from the standard's analogue prototypes: an oracle that shares no code with torchaudio."""
    w = 2 * rate_hz * np.tan(np.pi * np.array([1681.974450955533, 38.13547087602444]) / rate_hz)
    q, g = 0.7071752369554196, 10 ** (3.999843853973347 / 20)
    shelf = _biquad([g, g**0.4996667741545416 * w[0] / q, w[0] ** 2], [1, w[0] / q, w[0] ** 2], rate_hz)
    cut = _biquad([1, 0, 0], [1, w[1] / 0.5003270373238773, w[1] ** 2], rate_hz)
    y = sosfilt(np.vstack([shelf, cut]), x.astype(np.float64))
    size = round(0.4 * rate_hz)
    power = np.array([np.mean(y[i : i + size] ** 2) for i in range(0, len(y) - size + 1, size // 4)])
    power = power[-0.691 + 10 * np.log10(power + 1e-30) > -70]
    gate = -0.691 + 10 * np.log10(power.mean()) - 10
    return -0.691 + 10 * np.log10(power[-0.691 + 10 * np.log10(power) > gate].mean())


def _biquad(b, a, rate_hz):
    z, p, k = bilinear_zpk(np.roots(b), np.roots(a), b[0] / a[0], rate_hz)
    return zpk2sos(z, p, k)


def contents(folder, clip):
    """A clip's file, whose sha256 is checked."""
    return packs.read(folder, clip["path"], clip["sha256"], "")


def test_renders_the_corpus(raw, tmp_path):
    out = tmp_path / "audio"
    render.run(Config(num_renderings=2), raw, out)
    manifest = artifacts.read_json(out / "manifest.json")
    clips = {clip["id"]: clip for clip in manifest["clips"]}
    assert manifest["rate_hz"] == RATE_HZ
    assert list(clips) == ["a-0", "a-1", "b-0", "b-1", "c-0", "c-1", "tone-0"]
    for clip in clips.values():
        info = soundfile.info(io.BytesIO(contents(out, clip)))
        assert (info.samplerate, info.channels, info.format, info.subtype) == (RATE_HZ, 1, "FLAC", "PCM_16")
        assert info.frames == clip["num_samples"]
        assert clip["piece"] == clip["id"].rsplit("-", 1)[0]
    for name in ("a-0", "b-1"):
        samples, _ = soundfile.read(io.BytesIO(contents(out, clips[name])))
        assert lufs(samples, RATE_HZ) == pytest.approx(-23.0, abs=0.1)
        assert len(clips[name]["instruments"]) == len(set(clips[name]["instruments"])) == 3
    assert clips["a-0"]["instruments"] != clips["a-1"]["instruments"]
    tone, _ = soundfile.read(io.BytesIO(contents(out, clips["tone-0"])))
    t = np.arange(len(tone)) / RATE_HZ
    middle = slice(2000, -2000)
    np.testing.assert_allclose(tone[middle], 0.3 * np.sin(2 * np.pi * 440 * t)[middle], atol=2e-4)
    refused = artifacts.read_json(out / "quarantine.json")["refused"]
    assert [(item["path"], "MThd" in item["reason"]) for item in refused] == [
        ("files/broken.mid", True),
        ("files/picture.png", False),
    ]


def test_the_same_bytes_from_any_number_of_workers_and_any_corpus(raw, tmp_path, monkeypatch):
    """Two workers or one, all pieces or one of them."""
    render.run(Config(), raw, tmp_path / "all")
    pieces = artifacts.read_json(raw / "manifest.json")["pieces"]
    artifacts.write_json(raw / "manifest.json", {"pieces": [piece for piece in pieces if piece["id"] == "b"]})
    monkeypatch.setattr(workers, "map_units", lambda function, units, guard: [function(unit) for unit in units])
    render.run(Config(), raw, tmp_path / "one")
    both = [artifacts.read_json(tmp_path / name / "manifest.json")["clips"] for name in ("all", "one")]
    assert [clip for clip in both[0] if clip["id"] == "b-0"] == both[1]
    assert contents(tmp_path / "one", both[1][0])


def test_a_packed_recording_is_read_as_it_was_before_it_was_packed(tmp_path):
    """libsndfile finds the beginning of this one by its path, and from its bytes does not."""
    sound = io.BytesIO()
    soundfile.write(sound, 0.4 * np.sin(np.arange(24_000) / 9), RATE_HZ, format="MP3")
    folder = tmp_path / "raw"
    (folder / "files").mkdir(parents=True)
    (folder / "files/late.mp3").write_bytes(bytes(64) + sound.getvalue())
    sha256 = artifacts.sha256(folder / "files/late.mp3")
    (loose,) = recordings.clips(folder / "files/late.mp3", "late", RATE_HZ, 600)
    path = packs.pack(folder, {"files/late.mp3": sha256})["files/late.mp3"]
    piece = {"id": "late", "path": path, "kind": "audio", "sha256": sha256}
    artifacts.write_json(folder / "manifest.json", {"pieces": [piece]})
    render.run(Config(), folder, tmp_path / "audio")
    (clip,) = artifacts.read_json(tmp_path / "audio/manifest.json")["clips"]
    found, _ = soundfile.read(io.BytesIO(contents(tmp_path / "audio", clip)))
    np.testing.assert_allclose(found, loose.samples, atol=2**-15)


def test_nothing_to_render_ends_with_the_reason(raw, tmp_path):
    pieces = artifacts.read_json(raw / "manifest.json")["pieces"]
    artifacts.write_json(raw / "manifest.json", {"pieces": [piece for piece in pieces if piece["id"] == "broken"]})
    with pytest.raises(ValueError, match="MThd"):
        render.run(Config(), raw, tmp_path / "audio")
    assert not (tmp_path / "audio").exists()


def test_every_program_of_the_list_sounds_and_returns():
    """Over the pitches of a choir, at both ends of the list's range too."""
    pitches = [24, 36, 48, 60, 72, 84, 96, 108, 127]
    notes = np.array([[240 * k, 240 * k + 230, pitch, 90] for k, pitch in enumerate(pitches)], dtype=np.int64)
    voice = midi.Voice("", 0, False, notes, PEDALS)
    made = midi.Score("a", 480, np.array([[0, 500_000]]), (voice,))
    assert not set(synth.PROGRAMS) & set(synth.TWINS)
    for program in synth.PROGRAMS:
        sound = synth.sing(made, [(voice, program)], 48_000)
        assert np.isfinite(sound).all()
        for k in range(3, 7):
            assert np.abs(sound[12_000 * k : 12_000 * (k + 1)]).max() > 1e-3, (program, pitches[k])


def test_voices_are_equally_loud():
    made = score()
    alone = [midi.Score(v.name, 480, made.tempos, (v,)) for v in made.voices]
    levels = [
        synth.sounding_rms(synth.sing(s, [(s.voices[0], p)], 48_000), 48_000)
        for s, p in zip(alone, (0, 20, 60), strict=True)
    ]
    assert max(levels) / min(levels) > 2  # raw levels differ
    mix = synth.per_voice(made, (0, 20, 60), RATE_HZ, -23.0).samples
    parts = [
        synth.sing(made, [(v, p)], 48_000) / level for v, p, level in zip(made.voices, (0, 20, 60), levels, strict=True)
    ]
    basis = np.stack([recordings_at_24k(part)[: len(mix)] for part in parts])
    weights = np.linalg.lstsq(basis.T, mix, rcond=None)[0]
    np.testing.assert_allclose(weights / weights.mean(), 1.0, atol=1e-3)


def recordings_at_24k(samples):
    import soxr

    return soxr.resample(samples, 48_000, 24_000, quality="VHQ")


def test_a_plucked_peak_is_turned_down_not_clipped():
    loud = synth.per_voice(score(), (6, 6, 6), RATE_HZ, -5.0)
    assert np.abs(loud.samples).max() == pytest.approx(synth.CEILING, abs=1e-6)
    quiet = synth.per_voice(score(), (6, 6, 6), RATE_HZ, -30.0)
    ratio = loud.samples / np.where(quiet.samples == 0, 1, quiet.samples)
    assert np.ptp(ratio[np.abs(quiet.samples) > 1e-3]) < 1e-4  # one gain for all samples


def test_as_written_keeps_programs():
    organ = synth.as_written(score(programs=(19, 19, 19)), RATE_HZ, -23.0)
    piano = synth.as_written(score(programs=(0, 0, 0)), RATE_HZ, -23.0)
    assert lufs(organ.samples, RATE_HZ) == pytest.approx(-23.0, abs=0.1)
    assert not np.allclose(organ.samples, piano.samples, atol=0.01)
    drums = synth.as_written(score(is_drum=True), RATE_HZ, -23.0)
    assert np.isfinite(drums.samples).all()


def test_the_sustain_pedal_holds_notes_until_it_rises_or_the_key_is_struck_again():
    pedals = np.array([[100, 127], [1000, 0], [1100, 64], [5000, 20]], dtype=np.int64)
    notes = [[0, 50, 60, 90], [90, 200, 60, 90], [150, 300, 62, 90], [500, 700, 62, 90], [1050, 1090, 60, 90]]
    voice = midi.Voice(
        "", 0, False, np.array([*notes, [1200, 1300, 60, 90], [1400, 6000, 64, 90]], dtype=np.int64), pedals
    )
    made = midi.Score("a", 480, np.array([[0, 480_000]]), (voice,))  # a tick is a millisecond
    ends = np.rint(synth.seconds_held(made, voice)[:, 1] * 1000).astype(int).tolist()
    assert ends == [50, 1000, 500, 1000, 1090, 5000, 6000]


def test_draws_depend_on_seed_and_name_alone():
    assert synth.draw(4, 0, "a-0") == synth.draw(4, 0, "a-0")
    assert len({synth.draw(4, seed, name) for seed in range(5) for name in ("a-0", "a-1", "b-0")}) > 10
    many = synth.draw(3 * len(synth.PROGRAMS), 0, "a-0")
    assert all(many.count(program) == 3 for program in synth.PROGRAMS)


def test_long_recordings_become_several_clips(tmp_path):
    rng = np.random.default_rng(0)
    samples = (0.1 * rng.standard_normal(5 * RATE_HZ)).astype(np.float32)
    soundfile.write(tmp_path / "long.flac", samples, RATE_HZ)
    parts = list(recordings.clips(tmp_path / "long.flac", "long", RATE_HZ, 2.0))
    assert [part.id for part in parts] == ["long-0", "long-1", "long-2"]
    assert [len(part.samples) for part in parts] == [2 * RATE_HZ, 2 * RATE_HZ, RATE_HZ]
    np.testing.assert_allclose(np.concatenate([part.samples for part in parts]), samples, atol=2**-15)
    assert recordings.duration_s(tmp_path / "long.flac") == pytest.approx(5.0)


@pytest.mark.parametrize(
    "wrong", [{"num_renderings": 0}, {"instruments": "as_written", "num_renderings": 2}, {"loudness_lufs": 0.0}]
)
def test_config_refuses(wrong):
    with pytest.raises(ValueError, match="expected"):
        Config(**wrong)


def test_a_recording_that_breaks_off_leaves_nothing_behind(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(render, "LONGEST_S", 1.0)
    monkeypatch.setattr(recordings, "BLOCK", 24_000)
    noise = 0.1 * np.random.default_rng(0).standard_normal(4 * RATE_HZ)
    soundfile.write(raw / "files/tone.flac", noise, RATE_HZ)
    data = bytearray((raw / "files/tone.flac").read_bytes())
    data[len(data) * 3 // 4 :] = bytes(len(data) // 4)
    (raw / "files/tone.flac").write_bytes(data)
    piece = {"id": "tone", "path": "files/tone.flac", "kind": "audio"}
    piece["sha256"] = artifacts.sha256(raw / piece["path"])
    clips, refused = render.make(Config(), raw, tmp_path, (piece, 0))
    assert not clips and refused is not None and "lost sync" in refused["reason"]
    assert not list((tmp_path / "files").iterdir())


def test_resampling_does_not_fold_what_is_above_half_the_rate(tmp_path):
    t = np.arange(44_100) / 44_100
    soundfile.write(tmp_path / "high.wav", 0.5 * np.sin(2 * np.pi * 15_000 * t), 44_100, subtype="FLOAT")
    (clip,) = recordings.clips(tmp_path / "high.wav", "high", RATE_HZ, 10.0)
    assert abs(len(clip.samples) - RATE_HZ) <= 1
    assert np.abs(clip.samples[1000:-1000]).max() < 1e-4  # 75 dB below the tone
