"""The finished pipeline: `dvc repro` with nothing to do, here and with 10,000 pieces; decoding as `speed` timed it."""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages import plan
from stages.pipeline import graph, packs, params
from stages.pipeline.stage import PLAN
from tests.benchmarks import table

pytestmark = pytest.mark.bench
NUM_PIECES = 10_000
ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"data/raw/music": ".mid", "data/audio/music": ".flac"}
"""Outs that hold every piece, in packs as `download` and `render` write them."""
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def dvc(*words, cwd=ROOT):
    return subprocess.run(["dvc", *words], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout


def children_s():
    """CPU seconds of the commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.fixture
def finished(tmp_path):
    """This pipeline as after a run with 10,000 pieces: real stages and plan files, outs of a few bytes each."""
    for name in ("dvc.yaml", "params.yaml", "constraints.txt", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / ".gitignore").write_text("/data/\n/models/\n/reports/\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    dvc("init", "-q", cwd=tmp_path)
    shutil.copy(ROOT / ".dvc/config", tmp_path / ".dvc/config")
    found = list(graph.instances(YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"], params.read(ROOT / "params.yaml")))
    for path in {path for item in found for path in (*item.outs, *(dep for dep in item.deps if "/" in dep))}:
        write(tmp_path / path)
    for path in plan.make(tmp_path):
        write(tmp_path / PLAN / path.relative_to(PLAN))
    for folder, ending in FOLDERS.items():
        (tmp_path / folder / "files").mkdir()
        paths = [f"files/{number:05d}{ending}" for number in range(NUM_PIECES)]
        for path in paths:
            (tmp_path / folder / path).write_text(path)
        packs.pack(tmp_path / folder, dict.fromkeys(paths, ""))
    dvc("commit", "--force", "--quiet", cwd=tmp_path)
    return tmp_path


def write(path):
    """A file, or a folder with one in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.suffix:
        path.mkdir(exist_ok=True)
        path /= "index.json"
    path.write_text(path.parent.name)


def test_repro_with_nothing_to_do_and_many_pieces(figure, finished):
    assert json.loads(dvc("status", "--json", cwd=finished)) == {}
    wall, cpu = [], []
    for _ in range(10):
        begun, used = time.perf_counter(), children_s()
        assert "up to date" in dvc("repro", cwd=finished)
        wall.append(time.perf_counter() - begun)
        cpu.append(children_s() - used)
    figure(table.of("repro_10000_pieces", wall, "s (wall), nothing to do", must=2.0, aim=1.2))
    figure(table.of("repro_10000_pieces_cpu", cpu, "s CPU, nothing to do"))


def test_repro_with_nothing_to_do(figure):
    if not (ROOT / "dvc.lock").is_file() or json.loads(dvc("status", "--json")):
        pytest.skip("the pipeline is not up to date: run `make repro` first")
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        dvc("repro")
        seconds.append(time.perf_counter() - start)
    figure(table.of("repro_with_nothing_to_do", seconds, "s (wall)", must=2.0, aim=1.2))


def test_decoding(figure):
    found = sorted((ROOT / "reports/speed").glob("*.json"))
    if not found:
        pytest.skip("nothing was timed yet: run `make repro` first")
    for path in found:
        speed = json.loads(path.read_text())
        low, high = 1 / speed["decode_rtf_high"], 1 / speed["decode_rtf_low"]
        row = table.Row(
            f"decode_{path.stem}", 1 / speed["decode_rtf"], low, high, "x real time, one thread", 60.0, 250.0
        )
        figure(row)
