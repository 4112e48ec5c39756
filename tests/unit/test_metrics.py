"""What cannot be scored is counted by its reason and never becomes 0; what was scored is written under flat keys."""

import json
import math

import numpy as np
import pytest

from stages.metrics import (
    bitrate,
    frechet,
    kernel,
    log_spectral_distance,
    mel_distance,
    num_function_evaluations,
    num_parameters,
    pesq_wb,
    pesq_wb_gapped,
    si_sdr,
    stoi,
)
from stages.numerics import scoring
from stages.numerics.scoring import Settings, Unscored
from stages.pipeline import artifacts, plugins
from stages.protocols.metric import Evidence, Measure
from tests.sounds import chords, clip, noise, with_noise

RELATIVE = (si_sdr, pesq_wb, pesq_wb_gapped, stoi)
ABSOLUTE = (log_spectral_distance, mel_distance)
GOOD = chords(1, 1.0)
SILENCE = np.zeros_like(GOOD)


def spoiled(value):
    samples = GOOD.copy()
    samples[100] = value
    return samples


@pytest.mark.parametrize("module", RELATIVE + ABSOLUTE)
@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        (clip(GOOD), clip(GOOD[:-1]), "different lengths"),
        (clip(GOOD), clip(GOOD, rate_hz=16000), "different sample rates"),
        (clip(spoiled(math.nan)), clip(GOOD), "not finite"),
        (clip(GOOD), clip(spoiled(math.inf)), "not finite"),
        (clip(GOOD[:0]), clip(GOOD[:0]), "too short"),
    ],
)
def test_malformed_pairs_have_a_reason(module, x, y, reason):
    with pytest.raises(Unscored, match=reason):
        module.scores(x, y)


@pytest.mark.parametrize("module", RELATIVE)
def test_silence_cannot_be_judged_relative_to_a_level(module):
    with pytest.raises(Unscored, match="silent original"):
        module.scores(clip(SILENCE), clip(GOOD))
    with pytest.raises(Unscored, match="silent reconstruction"):
        module.scores(clip(GOOD), clip(SILENCE + 1e-6))


@pytest.mark.parametrize("module", ABSOLUTE)
def test_silence_has_a_spectrum(module):
    assert all(value > 0 for value in module.scores(clip(GOOD), clip(SILENCE)).values())
    assert all(value == 0 for value in module.scores(clip(SILENCE), clip(SILENCE)).values())


@pytest.mark.parametrize("module", ABSOLUTE + (si_sdr,))
@pytest.mark.parametrize("num_samples", [1, 2, 100, 1001])
def test_short_clips_have_spectra(module, num_samples):
    x, y = noise(1, num_samples), noise(2, num_samples)
    try:
        assert all(math.isfinite(value) for value in module.scores(clip(x), clip(y)).values())
    except Unscored as reason:
        assert num_samples < 3 and str(reason) == "identical", "one number is any other number, scaled"


@pytest.mark.parametrize("module", [pesq_wb, pesq_wb_gapped, stoi])
def test_speech_metrics_refuse_what_is_too_short(module):
    x = GOOD[:2000]
    with pytest.raises(Unscored, match="too short"):
        module.scores(clip(x), clip(with_noise(x, 20)))


def test_stoi_refuses_a_click():
    x = np.zeros(24000)
    x[12000:12400] = GOOD[:400]
    with pytest.raises(Unscored, match="too little sound"):
        stoi.scores(clip(x), clip(with_noise(x, 20)))


def fake_scores(reference, estimate):
    if estimate.samples[0] < 0:
        raise Unscored("negative")
    if estimate.samples[0] == 0:
        raise Unscored("nothing there")
    return {"first": float(estimate.samples[0]), "double": 2.0 * float(estimate.samples[0])}


def pairs(*values):
    return tuple((clip(GOOD[:4], f"c{i}"), clip([value] * 4)) for i, value in enumerate(values))


def test_failures_are_counted_by_reason_and_leave_the_mean_alone():
    evidence = Evidence("audio", pairs=pairs(1.0, -1.0, 3.0, 0.0, -2.0))  # through worker processes
    found = scoring.per_clip(fake_scores, evidence, "first", "double")
    assert found["first"].value == 2.0 and found["double"].value == 4.0
    assert found["first"].per_clip == {"c0": 1.0, "c2": 3.0}
    assert found["first"].num == 2
    assert found["first"].failures == found["double"].failures == {"negative": 2, "nothing there": 1}


def test_where_nothing_could_be_scored_the_value_is_absent_and_the_reasons_are_not():
    found = scoring.per_clip(fake_scores, Evidence("audio", pairs=pairs(-1.0, 0.0)), "first")
    assert scoring.flat(found) == {"first_num": 0, "first_failures": {"negative": 1, "nothing there": 1}}
    assert scoring.by_clip(found) == {}


def test_one_clip_has_no_interval():
    found = scoring.per_clip(fake_scores, Evidence("audio", pairs=pairs(5.0)), "first")
    assert scoring.flat(found) == {"first": 5.0, "first_num": 1}


def test_flat_keys():
    found = scoring.flat({"b": Measure(1.5, 1.0, 2.0, 7, {"why": 2}), "num_parameters": Measure(12.0)})
    assert found == {"b": 1.5, "b_low": 1.0, "b_high": 2.0, "b_num": 7, "b_failures": {"why": 2}, "num_parameters": 12}
    assert type(found["num_parameters"]) is int
    json.loads(artifacts.to_json(found))


def test_an_interval_depends_on_the_seed_alone():
    def at(seed):
        return scoring.mean({str(i): float(i**2) for i in range(24)}, {}, Evidence("audio", seed=seed))

    assert at(3) == at(3)
    assert at(3) != at(4)


def test_bytes_count_and_empty_clips_do_not():
    streams = ((1000, 1.0), (50, 0.0), (3000, 1.0))
    measure = bitrate.Bitrate().compute(Evidence("audio", streams=streams))["bitrate_kbps"]
    assert (measure.value, measure.num, measure.failures) == (16.0, 2, {"empty clip": 1})
    named = Evidence("audio", pairs=pairs(1.0, 1.0), streams=((1000, 1.0), (2000, 1.0)))
    assert bitrate.Bitrate().compute(named)["bitrate_kbps"].per_clip == {"c0": 8.0, "c1": 16.0}
    nothing = bitrate.Bitrate().compute(Evidence("audio", streams=((5, 0.0),)))
    assert scoring.flat(nothing) == {"bitrate_kbps_num": 0, "bitrate_kbps_failures": {"empty clip": 1}}


def test_facts_are_told_where_they_are_known():
    known = Evidence("audio", facts={"num_parameters": 7.0})
    assert scoring.flat(num_parameters.NumParameters().compute(known)) == {"num_parameters": 7}
    assert num_function_evaluations.NumFunctionEvaluations().compute(known) == {}


@pytest.mark.parametrize("plugin", [frechet.Frechet, kernel.Kernel])
def test_clips_without_features_are_counted(plugin):
    rows = {"c0": 3, "c1": 0, "c2": 3, "c3": 3}

    def features(item):
        found = np.outer(np.arange(rows.get(item.id, 3)), [1.0, 2.0]) + item.samples[0]
        return found * (math.nan if item.samples[0] == 99 else 1.0)

    evidence = Evidence("audio", pairs=pairs(1.0, 2.0, 99.0, 3.0), features=features, facts={"num_resamples": 10})
    (measure,) = plugin().compute(evidence).values()
    assert (measure.num, measure.failures) == (2, {"too short": 1, "not finite": 1})
    alone = Evidence("audio", pairs=pairs(1.0, 99.0), features=features, facts={"num_resamples": 10})
    (measure,) = plugin().compute(alone).values()
    assert math.isnan(measure.value) and measure.num == 0, "one clip makes no distribution"


def test_metrics_without_their_evidence_are_absent():
    assert scoring.measure(plugins.names("metrics"), Evidence("audio")) == {}
    streams = Evidence("audio", streams=((1000, 1.0), (1000, 1.0)))
    assert list(scoring.measure(plugins.names("metrics"), streams)) == ["bitrate_kbps"]
    assert scoring.measure(["num_parameters", "bitrate"], Evidence("image", facts={"num_parameters": 3.0})).keys() == {
        "num_parameters"
    }


def test_metrics_are_chosen_by_name_or_by_what_they_can_judge():
    assert "pesq_wb" in scoring.chosen(Settings(), "audio")
    assert scoring.chosen(Settings(), "score") == ("num_function_evaluations", "num_parameters")
    assert {"frechet_infinity", "conditional_accuracy"} < set(scoring.chosen(Settings(), "image"))
    assert scoring.chosen(Settings(metrics=("stoi", "bitrate")), "audio") == ("stoi", "bitrate")
    with pytest.raises(ValueError, match="did you mean 'stoi'"):
        scoring.chosen(Settings(metrics=("stoy",)), "audio")
    with pytest.raises(ValueError, match="stoi cannot judge image"):
        scoring.chosen(Settings(metrics=("stoi",)), "image")


def test_settings_say_everything_that_is_wrong():
    with pytest.raises(ValueError, match="num_resamples = 1.*\n.*num_shown = -1"):
        Settings(num_resamples=1, num_shown=-1)
