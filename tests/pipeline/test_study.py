"""The study in small, as `make study` runs it: a table and a page, nothing done twice, nothing rerun by a comment."""

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
from stages.media import study_table
from stages.pipeline import parallel
from tests import planning
from tests.browser import CHROMIUM, browser

ROOT = Path(__file__).resolve().parents[2]
GRAPH = YAML(typ="safe").load(ROOT / "study/dvc.yaml")["stages"]
CELLS = ("autoencoder-mlp-reshape-0", "improved_mean_flow-mlp-reshape-0")
SMALL = {
    "corpora.digits.num_pieces": 300,
    "classifiers.digits.num_steps": 3,
    "classifiers.digits.num_folds": 2,
    "study.families": ["autoencoder", "improved_mean_flow"],
    "study.networks": ["mlp"],
    "study.tokenisations": ["reshape"],
    "study.seeds": [0],
    "study.num_steps": [1, 2],
    "study.num_samples": 40,
    "train.num_steps": 6,
    "train.batch_size": 8,
    "model.flow_width": 16,
    "model.width": 16,
    "model.codebook_size": 8,
    "evaluate.num_resamples": 5,
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
    return done.stdout


def copy(folder, values):
    """The code and the study's pipeline, with other numbers."""
    (folder / "study").mkdir(parents=True)
    for name in ("study/dvc.yaml", "study/params.yaml", "constraints.txt", ".dvcignore", ".gitignore", "Makefile"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "stages", folder / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    yaml = YAML()
    tree = yaml.load(folder / "study/params.yaml")
    for dotted, value in values.items():
        *parents, last = dotted.split(".")
        block = tree
        for part in parents:
            block = block[part]
        block[last] = value
    yaml.dump(tree, folder / "study/params.yaml")
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small study, by the recipe of `make study` itself, without its virtual environment."""
    folder = copy(tmp_path_factory.mktemp("study"), SMALL)
    command(folder, "git", "init", "-q")
    command(folder, "dvc", "init", "-q")
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc/config")
    make_study(folder)
    return folder


def make_study(folder):
    (folder / ".venv").mkdir(exist_ok=True)
    for name in ("pyproject.toml", ".venv/installed"):
        (folder / name).touch()
    os.utime(folder / ".venv/installed", (2**31, 2**31))
    return command(folder, "make", "study")


def rows(folder):
    with (folder / "reports/study/digits.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_table_has_a_row_per_sampler_beside_the_floor(small):
    found = rows(small)
    assert list(found[0]) == list(study_table.COLUMNS)
    about = [(row["family"], row["num_steps"]) for row in found]
    assert about == [("real", ""), ("autoencoder", "1"), ("improved_mean_flow", "1"), ("improved_mean_flow", "2")]
    floor = float(found[0]["frechet_distance"])
    for row in found:
        assert float(row["frechet_above_floor"]) == pytest.approx(float(row["frechet_distance"]) - floor, abs=1e-3)
        assert 0 <= float(row["conditional_accuracy"]) <= 1
    assert [row["num_images"] for row in found[2:]] == ["40", "40"]
    assert [row["num_function_evaluations"] for row in found[1:]] == ["1", "1", "2"]
    assert {row["seed"] for row in found[1:]} == {"0"}


def test_making_it_again_does_nothing(small):
    lock = (small / "study/dvc.lock").read_bytes()
    said = make_study(small)
    assert "Running stage" not in said and (small / "study/dvc.lock").read_bytes() == lock
    assert json.loads(command(small / "study", "dvc", "status", "--json", "dvc.yaml")) == {}


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path (Debian: apt install chromium)")
def test_the_page_shows_every_grid_and_asks_for_nothing(small):
    page_file = small / "reports/study/index.html"
    with browser() as page:
        for width, dark in ((1280, True), (390, False)):
            page.open(page_file, width=width, dark=dark, mobile=width < 500)
            shown = page.evaluate("[...document.images].filter((image) => image.naturalWidth > 0).length")
            assert shown == 4 == page.evaluate("document.images.length"), "held out, reconstructed, 1 and 2 steps"
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        rows = "[...document.querySelectorAll('#table tbody tr')]"
        found = page.evaluate(f"{rows}.map((row) => [...row.cells].map((cell) => cell.innerText))")
        assert [row[:3] for row in found] == [[*cell.split("-")[:3]] for cell in CELLS]
        assert [bool(text) for row in found for text in row[3:]] == [True, False] * 2 + [True] * 4
        assert page.problems() == []
        asked = {url for url in page.requests() if not url.startswith("data:")}
        assert asked == {page_file.resolve().as_uri()}


def test_the_root_runs_none_of_it():
    """`make repro` stays what it is: its schedule is of its own dvc.yaml, though DVC sees both."""
    assert not {name for name in parallel.needs_of(ROOT) if "cell" in name or "study" in name}
    assert len(parallel.needs_of(ROOT / "study")) > 72


# ---- the firewall


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The study as shipped, and its plan."""
    folder = copy(tmp_path_factory.mktemp("plan"), {})
    return folder, planning.planned(folder / "study", folder)


CASES = {
    "a comment": ("stages/networks/mixer.py", "\n# a remark\n", ()),
    "a comment in params": ("study/params.yaml", "\n# a remark\n", ()),
    "a network": ("stages/networks/mixer.py", "\nEDITED = 1\n", ("cell/.*-mixer-",)),
    "a family": ("stages/families/mean_flow.py", "\nEDITED = 1\n", ("cell/mean_flow-",)),
    "a tokenisation": ("stages/representations/reshape.py", "\nEDITED = 1\n", ("cell/.*-reshape-", "cache/reshape")),
    "a metric": ("stages/metrics/conditional_accuracy.py", "\nEDITED = 1\n", ("study.json",)),
    "the page": ("stages/media/study_page.html.j2", "<!-- -->", ("study.json",)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_change_reaches_exactly_what_depends_on_it(whole, case):
    name, text, expected = CASES[case]
    folder, before = whole
    original = (folder / name).read_text()
    try:
        (folder / name).write_text(original + text)
        after = planning.planned(folder / "study", folder)
    finally:
        (folder / name).write_text(original)
    changed = {path for path in before if before[path] != after[path]}
    assert changed == {path for path in before if any(re.match(f"data/plan/{pattern}", path) for pattern in expected)}
    assert len(before) > 72


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("networks: [mlp", "networks: [mpl", "did you mean 'mlp'"),
        ("families: [autoencoder", "families: [autoencodre", "did you mean 'autoencoder'"),
        ("tokenisations: [mdct", "tokenisations: [mtdc", "representations.mtdc: expected a mapping"),
        ("seeds: [0, 1", "seeds: [0, 0", "expected a list of different names"),
        ("seeds: [0, 1", "seeds: [0, a", "expected int"),
        ("num_steps: [1,", "num_steps: [0,", "expected at least 1"),
        ("flow_width: 64", "flow_widht: 64", "did you mean 'flow_width'"),
        ("  mean_flow:\n    model:", "  mean_flow:\n    trian:", "did you mean 'train'"),
        ("patch: 4", "patch: 3", "patch = 3: expected an even number"),
    ],
)
def test_nothing_starts_with_wrong_params(tmp_path, old, new, said):
    text = (ROOT / "study/params.yaml").read_text()
    assert old in text
    shutil.copy(ROOT / "study/dvc.yaml", tmp_path)
    (tmp_path / "params.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError) as caught:
        plan.make(tmp_path)
    assert said in str(caught.value), caught.value
