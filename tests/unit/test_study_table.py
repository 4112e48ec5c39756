"""The study's table on invented numbers: the floor is taken off, means are over seeds, claims follow from them."""

import numpy as np
import pytest

from stages.media import cells, image, study_page, study_table
from stages.media.study_table import Row

REAL = Row("real", "", "", None, None, {"frechet_distance": 0.5, "num_images": 90})


def row(family, steps, distance, accuracy=0.99, seed=0, network="mlp"):
    measures = {"frechet_distance": distance, "conditional_accuracy": accuracy, "num_images": 100}
    return Row(family, network, "mdct", seed, steps, measures)


def lines(*rows):
    return study_table.lines(study_table.with_floor([REAL, *rows]))


def verdict(*rows):
    return [claim.holds for claim in study_table.claims(lines(*rows))]


GOOD = (
    row("flow_matching", 1, 9.0),
    row("flow_matching", 25, 1.5),
    row("mean_flow", 1, 2.0),
    row("improved_mean_flow", 1, 1.7),
)


def test_the_floor_is_taken_off_and_seeds_are_averaged():
    found = lines(*(row("mean_flow", 1, 1.0 + seed, 0.9, seed) for seed in range(3)))
    assert len(found) == 1
    assert (found[0].above_floor.mean, found[0].above_floor.deviation) == (1.5, 1.0)
    assert found[0].above_floor.text() == "1.50 ± 1.00" and found[0].accuracy.text(100, 1) == "90.0 ± 0.0"
    assert lines(row("mean_flow", 1, 1.0))[0].above_floor.deviation is None


def test_claims_follow_from_the_table():
    assert verdict(*GOOD) == [True, True, True, True]
    assert verdict(GOOD[0], row("flow_matching", 25, 1.4), *GOOD[2:])[0] is False, "1.2 above is more than 1.25 x 0.9"
    assert verdict(*GOOD[:2], row("mean_flow", 1, 1.6), GOOD[3])[1] is False
    assert verdict(*GOOD[:3], row("improved_mean_flow", 1, 1.7, 0.94))[2] is False
    assert verdict(row("flow_matching", 1, 2.0), *GOOD[1:])[3] is False
    assert verdict(*GOOD[:3]) == [] and len(verdict(GOOD[3])) == 1


def test_claims_compare_within_the_best_network_of_the_claimant():
    other = [row("improved_mean_flow", 1, 1.0, network="mixer"), row("flow_matching", 25, 0.6, network="mixer")]
    found = list(study_table.claims(lines(*GOOD, *other)))
    assert "mixer" in found[0].text and not found[0].holds


def test_a_missing_measure_is_empty_and_never_zero():
    missing = Row("mean_flow", "mlp", "mdct", 0, 1, {"conditional_accuracy": 0.5})
    text = study_table.to_csv(study_table.with_floor([REAL, missing])).decode().splitlines()
    assert text[0].split(",") == study_table.COLUMNS
    assert text[1].startswith("real,,,,,0.5,,,0,") and text[2].startswith("mean_flow,mlp,mdct,0,1,,,,,0.5,")
    assert lines(missing)[0].above_floor is None


def test_without_a_floor_nothing_is_compared():
    with pytest.raises(ValueError, match="too few real images"):
        study_table.with_floor([Row("real", "", "", None, None, {}), *GOOD])


def test_classes_are_taken_in_equal_parts():
    clips = [image.Clip(f"{k}", np.zeros((2, 2), np.float32), {"digit": min(k % 4, 2)}) for k in range(20)]
    found = cells.in_equal_parts(clips, "digit")
    assert [clip.labels["digit"] for clip in found] == [0] * 5 + [1] * 5 + [2] * 5
    assert [clip.id for clip in found[:5]] == ["0", "4", "8", "12", "16"]


def test_a_grid_has_a_column_per_class(tmp_path):
    clips = [image.Clip(f"{k}", np.full((2, 2), k / 10, np.float32), {"digit": k % 3}) for k in range(7)]
    grid = study_page.grid("some", clips, "digit")
    assert (grid.width, grid.height) == (3 * 3 - 1, 3 * 3 - 1)
    kept = cells.write_images(tmp_path, "images_1", clips)
    again = cells.read_images(tmp_path, kept)
    np.testing.assert_allclose([clip.pixels for clip in again], [clip.pixels for clip in clips], atol=1 / 510)
    assert [clip.labels for clip in again] == [clip.labels for clip in clips]
