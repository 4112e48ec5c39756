"""The model of docs/scale.md: its units come back from figures made of them, and the page has room for its tables."""

import time

import numpy as np
import pytest

from tests.benchmarks import cost, scale
from tests.benchmarks.scale import Corpus

TRUE = {"records": 2e-5, "bytes": 3e-9, "shards": 1e-3}
PER_S = {"decode": 2e-3, "resample": 3e-3, "encode": 1e-3, "sha256": 1e-9, "group": 0.0}


def seconds(corpus):
    """By hand: 75 frames of 640 bytes a second."""
    size = corpus.num_clips * round(75 * corpus.clip_s) * 640
    return 2e-5 * corpus.num_clips + 3e-9 * size + 1e-3 * corpus.num_shards


def test_units_come_back():
    found = scale.fit("write shards", {corpus: seconds(corpus) for corpus in scale.FITTED})
    assert found == pytest.approx(TRUE, rel=1e-6)


def test_a_unit_is_never_negative_and_noise_of_5_percent_moves_a_prediction_by_less_than_20():
    random = np.random.Generator(np.random.Philox(0))
    (far,) = [corpus for corpus in scale.CHECKED if corpus.name == "100x"]
    for _ in range(50):
        known = {corpus: seconds(corpus) * random.uniform(0.95, 1.05) for corpus in scale.FITTED}
        units = {"write shards": scale.fit("write shards", known)}
        assert min(units["write shards"].values()) >= 0
        assert scale.cost(units, "write shards", far) == pytest.approx(seconds(far), rel=0.2)


def test_what_the_clock_did_not_see_costs_nothing():
    assert scale.fit("merge statistics", dict.fromkeys(scale.FITTED, 0.0)) == {"shards": 0.0}


def test_what_is_checked_is_larger_than_what_was_known():
    assert [corpus.num_clips for corpus in scale.CHECKED] == [120, 1200, 1200, 12_000]
    assert all(corpus.num_clips * corpus.clip_s <= 3 * 120 * 36 for corpus in scale.FITTED)


def test_twice_the_audio_costs_twice():
    units = {name: dict.fromkeys(drivers, 1e-6) for name, drivers in scale.OPERATIONS.items()}
    for one, two in zip(scale.stages(units, PER_S, 1e14), scale.stages(units, PER_S, 2e14), strict=True):
        for name in ("read_tb", "written_tb", "core_hours", "manifest_gb"):
            assert getattr(two, name) == pytest.approx(2 * getattr(one, name), rel=1e-3), (one.name, name)
        files = 2 * one.num_files if one.name == "cache" else one.num_files  # packs are as many as ever, but larger
        assert two.num_files == pytest.approx(files, rel=1e-3)


def test_the_page_takes_its_tables():
    units = {name: dict.fromkeys(drivers, 1e-6) for name, drivers in scale.OPERATIONS.items()}
    checks = [vars(scale.Check("dvc add", "1x", 1.1, 1.0, "s"))]
    found = {"units": units, "per_s": PER_S, "checks": checks, "kernel": {"1x": [0.1, 0.2]}}
    page = scale.put(scale.PAGE.read_text(), found)
    assert "| dvc add | 1x | 1.1 | 1 | s | +10 % |" in page and "| `render` | 200 |" in page
    assert scale.put(page, found) == page
    with pytest.raises(SystemExit, match="no place for the table"):
        scale.put(page.replace("end of limits", ""), found)


def test_a_cost_is_cpu_time_and_private_memory():
    def work():
        kept = np.ones(25_000_000)  # 200 MB
        end = time.process_time() + 0.2
        while time.process_time() < end:
            kept[0] += 1

    idle = cost.of(lambda: time.sleep(0.1))
    found = cost.of(work)
    assert idle.cpu_s < 0.1 and found.cpu_s >= 0.2
    assert 150 < found.main_mb - idle.main_mb < 300
    assert found.worker_mb <= idle.worker_mb + 20  # of a pool that another test left, if any


def test_a_corpus_of_a_known_size():
    assert Corpus("x", 10, 2.0, 3).amounts() == {"once": 1.0, "records": 10, "bytes": 10 * 150 * 640, "shards": 3}


def test_downloading_in_closed_form():
    units = {name: dict.fromkeys(drivers, 0.0) for name, drivers in scale.OPERATIONS.items()}
    found = scale.stages(units, PER_S, 88_000.0 * 3600)[0]
    assert found.core_hours == pytest.approx(2e-3 + 3 * 88_000 * 1e-9)
