"""The cost model of tests/benchmarks/scale.py: its units on small corpora, its predictions on larger ones.

Shards are real ones, of cheap codes: slices of one array of noise. Most corpora have clips of a tenth of the default's
36 s, so that 100x fits into a few GB; one of 10x has whole clips. Everything is CPU time, the median of rounds in which
the corpora take turns.
"""

import os
import resource
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stages import cache
from stages.media import audio, recordings
from stages.media.excerpts import Stretch
from stages.pipeline import artifacts, shards
from stages.protocols.spec import Code
from stages.representations.mdct import Mdct
from stages.split import group_of
from tests.benchmarks import scale, table
from tests.benchmarks.scale import Corpus
from tests.sounds import chords

pytestmark = pytest.mark.bench
NUM_ROUNDS, NUM_CHECKS = 5, 3
TOLERANCE = 0.2
SPEC = Mdct(Mdct.Config()).spec
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "true"}


@pytest.fixture(scope="module")
def noise():
    return np.random.Generator(np.random.Philox(0)).standard_normal((4096, 320)).astype(np.float16)


def codes_of(corpus: Corpus, noise: np.ndarray, shard: int) -> list[Code]:
    length, mask = corpus.num_frames, np.ones(corpus.num_frames, bool)
    side = {"num_samples": np.array([length * 320])}
    return [
        Code(f"piece{number:07d}-0", noise[(start := number % 97) : start + length], mask, side=side)
        for number in range(shard, corpus.num_clips, corpus.num_shards)
    ]


def work(corpus: Corpus, folder: Path, noise: np.ndarray) -> Iterator[tuple[str, float]]:
    """Every operation on the corpus, with its CPU seconds; afterwards the corpus is gone."""
    repository(folder)
    data, seconds = folder / "data", defaultdict(float)

    def timed(operation: str, function: Callable[[], object]) -> object:
        begun = time.process_time()
        result = function()
        seconds[operation] += time.process_time() - begun
        return result

    entries, sums = [], []
    data.mkdir()
    for number in range(corpus.num_shards):
        codes = codes_of(corpus, noise, number)
        entries.append(timed("write shards", lambda n=number, c=codes: shards.write_shard(data, n, c)))
        sums.append(timed("sum statistics", lambda c=codes: shards.sums(c, SPEC.data)))
    timed("merge statistics", lambda: shards.statistics(reduce(shards.merge, sums)))
    timed("write index", lambda: shards.write_index(data, "v", entries))
    found = timed("read index", lambda: shards.Shards(data, "v"))
    first = np.cumsum([0, *(len(entry.ids) for entry in found.shards)])[:-1].tolist()
    timed("verify shards", lambda: [found[number] for number in first])
    timed("read every record", lambda: [np.array(code.data) for code in found])
    seconds["dvc add"] = dvc(folder, "add", "--quiet", "data")
    seconds["dvc status"] = dvc(folder, "status")
    yield from seconds.items()
    sizes = [path.stat().st_size for path in data.iterdir()]
    yield "bytes on disk", float(sum(sizes))
    shutil.rmtree(folder)


def repository(folder: Path) -> None:
    folder.mkdir(parents=True)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    dvc(folder, "init", "--quiet")


def dvc(folder: Path, *words: str) -> float:
    """CPU seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(["dvc", *words], cwd=folder, env=ENVIRONMENT, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def rounds(corpora: tuple[Corpus, ...], num: int, folder: Path, noise: np.ndarray) -> dict[str, dict[Corpus, float]]:
    """The median over rounds of each operation on each corpus."""
    found: dict[str, dict[Corpus, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number in range(num):
        for place, corpus in enumerate(corpora):
            for operation, value in work(corpus, folder / f"{number}-{place}", noise):
                found[operation][corpus].append(value)
    return {name: {corpus: float(np.median(v)) for corpus, v in by.items()} for name, by in found.items()}


def seconds_per_second(folder: Path) -> dict[str, float]:
    """CPU seconds of each step of audio per second of a recording of a minute; `sha256` per byte, `group` per piece."""
    length_s, source = 60, folder / "source.flac"
    stereo = np.stack([chords(seed, length_s, 2.0, 44_100) for seed in (0, 1)], axis=1)
    soundfile.write(source, stereo, 44_100)
    (clip,) = recordings.clips(source, "piece", 24_000, 600)
    target = folder / "clip.flac"
    audio.write(target, clip)
    stretch = Stretch("piece-0", "piece", target.name, artifacts.sha256(target), 0, len(clip.samples))
    (folder / "train").mkdir()
    unit = cache.Unit("train", 0, (stretch,))
    representation, block = Mdct(Mdct.Config()), folder / "block"
    block.write_bytes(bytes(50_000_000))

    def resample() -> None:
        (made,) = recordings.clips(source, "piece", 24_000, 600)
        audio.write(target, made)

    steps = {
        "decode": (lambda: recordings.duration_s(source), length_s),
        "resample": (resample, length_s),
        "encode": (lambda: cache.encode(representation, folder, folder, unit), length_s),
        "sha256": (lambda: artifacts.sha256(block), 50_000_000),
        "group": (lambda: group_of(folder, {"kind": "audio", "id": "piece"}), 1),
    }
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(7):
        for name, (function, amount) in steps.items():
            times[name].append(table.cpu_seconds(function) / amount)
    return {name: float(np.median(values)) for name, values in times.items()}


def test_predictions(figure, tmp_path, noise):
    known = rounds(scale.FITTED, NUM_ROUNDS, tmp_path / "fit", noise)
    units = {operation: scale.fit(operation, known[operation]) for operation in scale.OPERATIONS}
    (tmp_path / "audio").mkdir()
    per_s = seconds_per_second(tmp_path / "audio")
    measured = rounds(scale.CHECKED[:2], NUM_CHECKS, tmp_path / "check", noise)
    for operation, more in rounds(scale.CHECKED[2:], 1, tmp_path / "large", noise).items():
        measured[operation] |= more
    checks = []
    for corpus in scale.CHECKED:
        for operation in scale.OPERATIONS:
            told = scale.cost(units, operation, corpus)
            checks.append(scale.Check(operation, corpus.name, told, measured[operation][corpus], "s CPU"))
        total = sum(check.predicted for check in checks if check.corpus == corpus.name)
        whole = sum(check.measured for check in checks if check.corpus == corpus.name)
        checks.append(scale.Check("all of it", corpus.name, total, whole, "s CPU"))
        gigabytes = corpus.amounts()["bytes"] / 1e9, measured["bytes on disk"][corpus] / 1e9
        checks.append(scale.Check("bytes on disk", corpus.name, *gigabytes, "GB"))
        figure(
            table.Row(
                f"scale_error_{corpus.name.replace(', ', '_').replace(' ', '_')}",
                *[abs(total / whole - 1)] * 3,
                f"of the measured CPU time ({whole:.1f} s), predicted from 1x and 3x",
                TOLERANCE,
                TOLERANCE / 2,
            )
        )
    scale.report(units, per_s, checks)
