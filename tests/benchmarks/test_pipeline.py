"""The finished pipeline: `dvc repro` with nothing to do, and decoding as the speed stage timed it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.benchmarks import table

pytestmark = pytest.mark.bench
ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def dvc(*words):
    return subprocess.run(["dvc", *words], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True).stdout


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
