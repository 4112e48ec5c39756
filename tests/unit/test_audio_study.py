"""The audio study on invented numbers: pairing, matching at equal SI-SDR, what won, and that the claimant may lose."""

import csv
import io

import numpy as np
import pytest

from stages.media import audio_study_page, audio_study_table, audio_study_verdict
from stages.media.audio_study_table import FRECHET, KERNEL, MEL, SI_SDR, Row
from stages.media.audio_study_verdict import CLAIMANT
from stages.numerics import bootstrap, paired, spread

NUM_CLIPS, NUM_RESAMPLES = 24, 200
CLIPS = [f"clip{k:02d}" for k in range(NUM_CLIPS)]
DIFFICULTY = np.random.Generator(np.random.Philox(5)).standard_normal(NUM_CLIPS)
"""What systems have in common: clips that are hard for all."""
TEMPERATURES = (0.0, 0.5, 1.0)


def row(family, steps, temperature, si_sdr, frechet, seed=0, noise=0.05):
    """A sampler whose clips scatter around these means; its Fréchet distance is of sums over clips."""
    draw = np.random.Generator(np.random.Philox([seed, steps, int(100 * (temperature or 7)), len(family)]))
    levels, parts = (draw.standard_normal(NUM_CLIPS) for _ in range(2))
    levels = si_sdr + 2 * DIFFICULTY + noise * (levels - levels.mean()) - 2 * DIFFICULTY.mean()
    parts = frechet * (1 + 0.3 * (DIFFICULTY - DIFFICULTY.mean()) + 0.1 * noise * (parts - parts.mean()))
    resampled = bootstrap.weights(NUM_CLIPS, NUM_RESAMPLES, 0) @ parts / NUM_CLIPS
    measures = {SI_SDR: si_sdr, FRECHET: frechet, MEL: 0.5, "num_parameters": 7, "num_training_steps": 100}
    clips = {SI_SDR: dict(zip(CLIPS, levels, strict=True)), MEL: dict(zip(CLIPS, 0.5 + 0.1 * levels, strict=True))}
    measures[MEL] = float(np.mean(list(clips[MEL].values())))
    return Row(family, "convnext", "mdct", seed, steps, temperature, measures, clips, {FRECHET: tuple(resampled)})


def curve(family, level, distance, steps=1, seed=0):
    """A family whose temperature T costs T dB and 10 T units of Fréchet distance."""
    return [row(family, steps, t, level - t, distance - 10 * t, seed) for t in TEMPERATURES]


def table(frechet, seeds=(0, 1, 2)):
    """The claimant at 9.75 dB with this distance, and rivals."""
    found = []
    for seed in seeds:
        found += [row("autoencoder", 1, None, 10.0, 100.0, seed)]
        found += [row("adversarial_autoencoder", 1, None, 9.8, 60.0, seed)]
        found += curve("gaussian_autoencoder", 10.0, 80.0, seed=seed)
        found += [row(CLAIMANT, steps, None, 9.75, frechet + 5 * (steps > 1), seed) for steps in (1, 25)]
        found += [row(CLAIMANT, steps, 1.0, 8.0, frechet + 3 * (steps > 1), seed) for steps in (1, 25)]
    return found


def comparisons(found):
    duels = [audio_study_verdict.compare(found, one, 0) for one in audio_study_verdict.rivals(found)]
    return {one.rival.title: one for one in duels if one is not None}


# ---- numerics


def test_a_polyline_is_read_where_it_first_passes():
    x = np.array([[3.0], [2.0], [1.0], [2.5]])
    place = paired.crossing(x, np.array([1.25]))
    assert (int(place.index[0]), float(place.fraction[0]), float(place.missed[0])) == (1, 0.75, 0.0)
    assert place.of(np.array([[0.0], [10.0], [20.0], [0.0]]))[0] == pytest.approx(17.5)
    assert paired.crossing(x, np.array([2.2])).index[0] == 0, "passed first on the way down"


def test_where_a_polyline_never_passes_its_nearest_point_counts():
    x, y = np.array([[3.0], [2.0], [1.0]]), np.array([[5.0], [6.0], [7.0]])
    for at, expected in ((4.0, 5.0), (0.5, 7.0)):
        place = paired.crossing(x, np.array([at]))
        assert place.of(y)[0] == expected
        assert place.missed[0] == at - (3.0 if at > 3 else 1.0)


def test_a_line_is_matched_in_every_resample():
    """y = 2 x + 1 along the curve, so that y at `at` is 2 at + 1, whatever the points."""
    draw = np.random.Generator(np.random.Philox(1))
    x = np.sort(draw.uniform(0, 1, (5, 40)), axis=0)[::-1]
    at = draw.uniform(x[-1], x[0])
    np.testing.assert_allclose(paired.crossing(x, at).of(2 * x + 1), 2 * at + 1)


def test_what_clips_share_cancels():
    """The interval of a paired difference holds the truth and is narrower than that of either mean."""
    draw, hits, widths = np.random.Generator(np.random.Philox(2)), 0, []
    for number in range(60):
        common, own = 5 * draw.standard_normal(NUM_CLIPS), draw.standard_normal((2, NUM_CLIPS))
        one, other = common + own[0] + 0.7, common + own[1]
        w = bootstrap.weights(NUM_CLIPS, 400, number) / NUM_CLIPS
        found = paired.difference(one.mean(), other.mean(), w @ one, w @ other)
        alone = bootstrap.interval(one.mean(), w @ one)
        hits += found.low <= 0.7 <= found.high
        widths.append((found.high - found.low) / (alone.high - alone.low))
    assert hits >= 50 and np.median(widths) < 0.5


def test_wilcoxon_tells_a_shift_from_none():
    scatter = np.random.Generator(np.random.Philox(3)).standard_normal(NUM_CLIPS)
    assert paired.wilcoxon(scatter - np.median(scatter)) > 0.3
    assert paired.wilcoxon(scatter + 3) < 1e-4
    assert paired.wilcoxon(np.zeros(NUM_CLIPS)) == 1.0


def test_the_first_resamples_of_many_are_the_few():
    """A kernel distance has more resamples than a Fréchet distance; they are paired by being the same."""
    np.testing.assert_array_equal(bootstrap.weights(24, 1000, 7)[:200], bootstrap.weights(24, 200, 7))


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_spread_is_that_of_the_draws_whatever_their_number(ratio):
    """Error of the mean with variance 1, draws around it with variance ratio^2."""
    draw = np.random.Generator(np.random.Philox(4))
    truth, centre = draw.standard_normal((2, 200_000))
    for num in (2, 8):
        draws = truth + centre + ratio * draw.standard_normal((num, truth.size))
        assert spread.spread_db(draws, truth) == pytest.approx(10 * np.log10(1 + ratio**2), abs=0.03)
    assert spread.CALIBRATED_DB == pytest.approx(3.0103, abs=1e-4)


def test_draws_whose_mean_is_exact_have_no_spread():
    truth = np.zeros(4)
    assert spread.spread_db(np.stack([truth + 1, truth - 1]), truth) is None


# ---- the table


def test_the_csv_has_a_row_per_sampler_and_nothing_where_nothing_is():
    found = list(csv.DictReader(io.StringIO(audio_study_table.to_csv(table(50.0, (0,))).decode())))
    assert list(found[0])[:6] == "family network tokenisation seed num_steps temperature".split()
    assert len(found) == len(table(50.0, (0,)))
    assert (found[0]["temperature"], found[0]["spread_db"], found[0][SI_SDR]) == ("", "", "10")
    assert found[2]["temperature"] == "0" and found[2][KERNEL] == ""


def test_means_are_over_seeds():
    found = audio_study_table.lines([row(CLAIMANT, 1, None, 9.0 + seed, 10.0, seed) for seed in range(3)])
    assert len(found) == 1 and found[0].means[SI_SDR].text() == "10.00 ± 1.00"
    alone = audio_study_table.lines([row(CLAIMANT, 1, None, -9.0, 10.0)])
    assert alone[0].means[SI_SDR].deviation is None and alone[0].means[SI_SDR].text() == "−9.00"


# ---- the verdict


def test_a_rival_is_matched_where_its_sisdr_is_the_claimants():
    """At 9.75 dB the curve has T = 0.25 and the distance 80 - 2.5; the claimant's is 50."""
    one = comparisons(table(50.0))["gaussian_autoencoder at equal SI-SDR"]
    assert one.differences[FRECHET].value == pytest.approx(50.0 - 77.5)
    assert one.differences[SI_SDR].value == pytest.approx(0.0, abs=1e-9) and one.missed_db == 0
    assert one.num_seeds == one.num_agreeing[FRECHET] == 3


def test_a_rival_without_temperature_and_more_steps_are_taken_as_they_are():
    found = comparisons(table(50.0))
    assert found["adversarial_autoencoder"].differences[FRECHET].value == pytest.approx(-10.0)
    assert found["adversarial_autoencoder"].differences[SI_SDR].value == pytest.approx(-0.05)
    assert found["its own 25 steps"].differences[FRECHET].value == pytest.approx(-5.0)
    assert found["its own 25 steps at temperature 1"].differences[FRECHET].value == pytest.approx(-3.0)
    assert found["adversarial_autoencoder"].differences[SI_SDR].p is not None
    assert found["adversarial_autoencoder"].differences[FRECHET].p is None


def test_what_the_curve_does_not_reach_is_told():
    found = [row(CLAIMANT, 1, None, 11.0, 50.0), *curve("gaussian_autoencoder", 10.0, 80.0)]
    one = comparisons(found)["gaussian_autoencoder at equal SI-SDR"]
    assert one.missed_db == pytest.approx(1.0) and one.differences[FRECHET].value == pytest.approx(-30.0)
    assert "whose nearest SI-SDR is 1.00 dB lower" in audio_study_verdict.sentence([one], 24, [0])


def said(found):
    return audio_study_verdict.sentence(list(comparisons(found).values()), NUM_CLIPS, (0, 1, 2))


def test_the_sentence_says_that_it_won():
    text = said(table(30.0))
    assert text.count(".") - sum(text.count(f".{digit}") for digit in range(10)) == 1, "one sentence"
    assert "beats its own 25 steps (Fréchet −5.00 [" in text and "loses to" not in text
    assert "gaussian_autoencoder at equal SI-SDR (Fréchet −47.5 [" in text


def test_the_sentence_says_that_it_lost():
    text = said(table(120.0))
    assert "loses to" in text and "gaussian_autoencoder at equal SI-SDR (Fréchet +42.5 [" in text
    assert "adversarial_autoencoder (Fréchet +60.0" in text and "beats its own 25 steps" in text


def test_an_interval_that_holds_zero_says_nothing():
    """Equal means, and seeds whose clips differ."""
    found = [row(CLAIMANT, 1, None, 10.0, 50.0, noise=3.0), row("autoencoder", 1, None, 10.0, 50.0, noise=3.0)]
    assert "cannot be told from autoencoder" in said(found) and "beats" not in said(found)


def test_without_the_claimant_there_is_nothing_to_say():
    assert "is not among the cells" in said([row("autoencoder", 1, None, 10.0, 50.0)])


def test_a_measure_that_one_side_lacks_is_not_compared():
    mine, other = row(CLAIMANT, 1, None, 9.0, 50.0), row("autoencoder", 1, None, 10.0, 60.0)
    del other.clips[MEL][CLIPS[0]]
    (one,) = comparisons([mine, other]).values()
    assert set(one.differences) == {FRECHET, SI_SDR}


# ---- the page


def page(found):
    return audio_study_page.Page(
        sentence=said(found),
        comparisons=tuple(comparisons(found).values()),
        lines=tuple(audio_study_table.lines(found)),
        decode_rtf={(CLAIMANT, 1): 0.004},
        clips=(),
        seeds=(0, 1, 2),
        num_clips=NUM_CLIPS,
    )


def test_the_page_tells_better_from_worse_in_every_measure():
    one = comparisons(table(120.0))["adversarial_autoencoder"]
    assert audio_study_page.side(one, FRECHET) == "no"
    better = comparisons(table(30.0))["adversarial_autoencoder"]
    assert audio_study_page.side(better, FRECHET) == "yes"
    lower = comparisons([row(CLAIMANT, 1, None, 8.0, 5.0), row("autoencoder", 1, None, 10.0, 5.0)])["autoencoder"]
    assert audio_study_page.side(lower, SI_SDR) == "no", "less SI-SDR is worse"
    text = audio_study_page.render(page(table(120.0))).decode()
    assert said(table(120.0)) in text and ">250<" in text, "decoding at 250 times real time"


def test_the_figure_has_a_curve_per_family_and_steps():
    figure = audio_study_page.figure(audio_study_table.lines(table(50.0)))
    assert len(figure.marks) == 9 and [line.role for line in figure.lines if " L" in line.d] == ["one"]
    marks = {mark.title: mark for mark in figure.marks}
    name = "gaussian_autoencoder, 1 step, temperature {}: SI-SDR {} ± 0.00 dB, Fréchet {} ± 0.0"
    cold, warm = (marks[name.format(*told)] for told in (("0", "10.00", "80.0"), ("1", "9.00", "70.0")))
    assert cold.x > warm.x and cold.y < warm.y, "pixels count downwards"
