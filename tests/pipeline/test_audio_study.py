"""The audio study in small, as `make study-audio` runs it: a table and a page, nothing done twice, nothing in vain."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages import plan
from stages.media import audio_study_table
from stages.pipeline import artifacts, parallel
from tests import planning
from tests.browser import CHROMIUM, browser

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "audio_study"
CELLS = ("autoencoder-0", "gaussian_autoencoder-0", "improved_mean_flow-0")
SMALL = {
    "corpora.music.num_pieces": 14,
    "split.valid_fraction": 0.2,
    "split.test_fraction": 0.3,
    "split.num_excerpts": 4,
    "split.excerpt_duration_s": 2.0,
    "classifiers.audio.num_steps": 5,
    "study.families": ["autoencoder", "gaussian_autoencoder", "improved_mean_flow"],
    "study.seeds": [0],
    "study.codec_steps": 8,
    "study.num_steps": [1, 2],
    "study.sweep_steps": [1, 2],
    "study.temperatures": [0.0, 1.0],
    "study.num_draws": 2,
    "study.num_draw_clips": 1,
    "study.num_played": 1,
    "model.latent_dim": 8,
    "model.width": 16,
    "model.depth": 1,
    "model.codebook_size": 16,
    "train.num_steps": 8,
    "train.num_validation_clips": 4,
    "methods.improved_mean_flow.cost": 2.0,
    "evaluate.num_resamples": 50,
}


def command(folder, *words, **more):
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "DVC_NO_ANALYTICS": "true",
        "PYTHONPATH": "",
    }
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=environment | more)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def copy(folder, values):
    """The code and the study's pipeline, with other numbers."""
    (folder / FOLDER).mkdir(parents=True)
    files = ("dvc.yaml", "params.yaml")
    for name in (*(f"{FOLDER}/{name}" for name in files), "constraints.txt", ".dvcignore", ".gitignore", "Makefile"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "stages", folder / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    yaml = YAML()
    tree = yaml.load(folder / FOLDER / "params.yaml")
    for dotted, value in values.items():
        *parents, last = dotted.split(".")
        block = tree
        for part in parents:
            block = block[part]
        block[last] = value
    yaml.dump(tree, folder / FOLDER / "params.yaml")
    return folder


def make_study(folder):
    """By the recipe itself, without its virtual environment."""
    (folder / ".venv").mkdir(exist_ok=True)
    for name in ("pyproject.toml", ".venv/installed"):
        (folder / name).touch()
    os.utime(folder / ".venv/installed", (2**31, 2**31))
    return command(folder, "make", "study-audio", "JOBS=2")


# ---- what plan makes of params.yaml


@pytest.fixture(scope="module")
def plans():
    """Of params.yaml as shipped: every cell's configuration is constructed."""
    return planning.planned(ROOT / FOLDER, ROOT)


def test_every_cell_is_configured(plans):
    tree = YAML(typ="safe").load(ROOT / FOLDER / "params.yaml")
    cells = [f"{family}-{seed}" for family in tree["study"]["families"] for seed in tree["study"]["seeds"]]
    for name in ("audio_train", "audio_sample", "audio_judge", "audio_speed"):
        assert {path for path in plans if f"/{name}/" in path} == {f"data/plan/{name}/{key}.json" for key in cells}


def test_all_train_for_the_same_time_at_one_bitrate(plans):
    tree = YAML(typ="safe").load(ROOT / FOLDER / "params.yaml")
    for family in tree["study"]["families"]:
        config = plans[f"data/plan/audio_train/{family}-1.json"]["config"]
        cost = tree["methods"].get(family, {}).get("cost", 1.0)
        assert config["train"]["num_steps"] * cost == pytest.approx(tree["train"]["num_steps"], rel=1e-3)
        assert config["train"]["seed"] == 1
        assert (config["model"]["num_codebooks"], config["model"]["codebook_size"]) == (8, 1024)


def test_samplers_are_what_a_family_can_be_told(plans):
    def samplers(family):
        found = plans[f"data/plan/audio_sample/{family}-0.json"]["config"]["samplers"]
        return [(one["num_steps"], one["temperature"]) for one in found]

    swept = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert samplers("autoencoder") == samplers("adversarial_autoencoder") == [(1, None)]
    assert samplers("gaussian_autoencoder") == [(1, t) for t in swept]
    flow = [(n, None) for n in (1, 2, 4, 25)] + [(n, t) for n in (1, 25) for t in swept]
    assert samplers("flow_matching_heard") == samplers("improved_mean_flow") == flow


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("    - autoencoder\n", "    - autoencodre\n", "did you mean 'autoencoder'"),
        ("network: convnext", "network: convnxt", "did you mean 'convnext'"),
        ("seeds: [0, 1", "seeds: [0, a", "expected int"),
        ("num_steps: [1, 2,", "num_steps: [0, 2,", "expected at least 1"),
        ("0.8, 1.0]", "0.8, 0.9]", "expected 1.0 among them"),
        ("[0.0, 0.2,", "[0.2, 0.0,", "expected rising ones"),
        ("    cost: 1.27", "    cost: -1.27", "expected more than 0"),
        ("      heard_weight: 0.0", "      heard_wieght: 0.0", "did you mean 'heard_weight'"),
        ("    model:\n", "    train: {num_steps: 5}\n    model:\n", "the study sets it"),
    ],
)
def test_nothing_starts_with_wrong_params(tmp_path, old, new, said):
    text = (ROOT / FOLDER / "params.yaml").read_text()
    assert old in text
    shutil.copy(ROOT / FOLDER / "dvc.yaml", tmp_path)
    (tmp_path / "params.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError) as caught:
        plan.make(tmp_path)
    assert said in str(caught.value), caught.value


CASES = {
    "a metric": ("stages/metrics/si_sdr.py", "\nEDITED = 1\n", ("audio_judge/",)),
    "a family": ("stages/families/mean_flow.py", "\nEDITED = 1\n", ("audio_(train|sample|speed)/mean_flow-",)),
    "the page": ("stages/media/audio_study_page.html.j2", "<!-- -->", ("audio_study.json",)),
}


@pytest.mark.parametrize("case", CASES)
def test_another_metric_trains_nothing_again(tmp_path, case, plans):
    name, text, expected = CASES[case]
    copy(tmp_path, {})
    (tmp_path / name).write_text((tmp_path / name).read_text() + text)
    after = planning.planned(tmp_path / FOLDER, tmp_path)
    changed = {path.removeprefix("data/plan/") for path in plans if plans[path] != after[path]}
    every = {path.removeprefix("data/plan/") for path in plans}
    assert changed == {path for path in every if any(re.match(pattern, path) for pattern in expected)} != set()


def test_cells_run_side_by_side_after_what_they_share(monkeypatch):
    assert not {name for name in parallel.needs_of(ROOT) if "audio_" in name}, "the root runs none of it"
    monkeypatch.chdir(ROOT / FOLDER)
    found = parallel.chains(parallel.needs_of(Path.cwd()), parallel.repeated_of(Path("dvc.yaml")))
    shared = {chain for chain in found if not found.out_degree(chain)}
    assert {chain[-1] for chain in shared} == {"classifier@audio", "cache@mdct"}
    cells = {chain for chain in found if chain[0].startswith("audio_train@")}
    assert len(cells) >= 18
    assert {chain for chain in found if chain not in shared | cells} == {(f"audio_codec@{seed}",) for seed in "012"}
    for chain in cells:
        (cell,) = {name.partition("@")[2] for name in chain}
        assert len(chain) == 4
        assert set(found.successors(chain)) == shared | {(f"audio_codec@{cell[-1]}",)}


# ---- the whole, in small


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = copy(tmp_path_factory.mktemp("study"), SMALL)
    command(folder, "git", "init", "-q")
    command(folder, "dvc", "init", "-q")
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc/config")
    make_study(folder)
    return folder


def rows(folder):
    with (folder / "reports/study/audio.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_table_has_a_row_per_sampler(small):
    found = rows(small)
    assert list(found[0]) == list(audio_study_table.COLUMNS)
    about = [(row["family"], row["num_steps"], row["temperature"]) for row in found]
    flow = [("1", ""), ("2", ""), ("1", "0"), ("1", "1"), ("2", "0"), ("2", "1")]
    gaussian = [("gaussian_autoencoder", "1", t) for t in ("0", "1")]
    assert about == [("autoencoder", "1", ""), *gaussian, *(("improved_mean_flow", *one) for one in flow)]
    for row in found:
        assert float(row["si_sdr_db_low"]) <= float(row["si_sdr_db"]) <= float(row["si_sdr_db_high"])
        assert float(row["reconstruction_frechet_classifier"]) >= 0 and float(row["bitrate_kbps"]) > 0
        chosen = row["num_steps"] == "1" and (row["temperature"] == "" or row["family"] == "gaussian_autoencoder")
        assert bool(row["pesq_wb_gapped"]) == chosen, "PESQ where it is cheap"
        assert bool(row["spread_db"] or row["si_sdr_fall_db"]) == (row["temperature"] == "1")
    assert [row["num_function_evaluations"] for row in found[3:]] == ["1", "2", "1", "1", "2", "2"]
    assert [row["num_training_steps"] for row in found] == ["8"] + ["6"] * 2 + ["4"] * 6, "steps by cost"
    assert len({row["bitrate_kbps"] for row in found}) == 1


@pytest.mark.slow
def test_draws_of_one_clip_differ(small):
    about = artifacts.read_json(small / FOLDER / "data/samples/gaussian_autoencoder-0/manifest.json")
    one, other = (draw[0]["path"] for draw in about["draws"][0]["draws"])
    folder = small / FOLDER / "data/samples/gaussian_autoencoder-0"
    assert (folder / one).read_bytes() != (folder / other).read_bytes()


@pytest.mark.slow
def test_making_it_again_does_nothing(small):
    lock = (small / FOLDER / "dvc.lock").read_bytes()
    said = make_study(small)
    assert "Running stage" not in said and (small / FOLDER / "dvc.lock").read_bytes() == lock
    assert json.loads(command(small / FOLDER, "dvc", "status", "--json", "dvc.yaml").partition("\n")[0]) == {}


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path (Debian: apt install chromium)")
def test_the_page_plays_and_asks_for_nothing(small):
    page_file = small / "reports/study/audio.html"
    with browser() as page:
        for width, dark in ((1280, True), (390, False)):
            page.open(page_file, width=width, dark=dark, mobile=width < 500)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            playable = "[...document.querySelectorAll('audio')].map((one) => new Promise((done) => "
            playable += "one.readyState ? done(one.duration) : one.onloadedmetadata = () => done(one.duration)))"
            found = page.evaluate(f"Promise.all({playable})")
            assert found == pytest.approx([2.0] * 5), "original, three families, one in its most steps"
        assert page.evaluate("document.querySelector('#verdict').innerText").startswith("By Fréchet distance over 4")
        assert page.evaluate("document.querySelectorAll('#sweep tbody tr').length") == len(rows(small))
        assert page.problems() == []
        assert {url for url in page.requests() if not url.startswith("data:")} == {page_file.resolve().as_uri()}
