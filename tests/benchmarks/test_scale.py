"""The cost model of tests/benchmarks/scale.py: its units on small corpora, its predictions on larger ones.

Shards are real ones, of cheap codes: slices of one array of noise. Most clips are a tenth of the default's 36 s, so
that 100x takes 2 GB (4 with DVC's copy) and not 21. One small corpus has whole clips and one many shards, to tell
bytes, records and shards apart; one large corpus has whole clips too. In each round all corpora take their turn; the
round's units, from its small corpora, predict its large ones.

Times are user CPU. The kernel's are told beside them: what it takes to find memory for the same file varied by a factor
of five with what had been freed before.
"""

import os
import resource
import shutil
import subprocess
import sys
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
Found = dict[str, dict[Corpus, float]]
NUM_ROUNDS = 3
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
    """Every operation on the corpus, with its user CPU seconds; afterwards the corpus is gone."""
    repository(folder)
    data, seconds = folder / "data", defaultdict(float)

    def timed(operation: str, function: Callable[[], object]) -> object:
        begun = resource.getrusage(resource.RUSAGE_SELF)
        result = function()
        add(operation, begun, resource.getrusage(resource.RUSAGE_SELF))
        return result

    def add(operation: str, begun: resource.struct_rusage, ended: resource.struct_rusage) -> None:
        seconds[operation] += ended.ru_utime - begun.ru_utime
        seconds[scale.KERNEL] += ended.ru_stime - begun.ru_stime

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
    timed("read every record", lambda: [len(np.array(code.data)) for code in found])
    add("dvc add", *dvc(folder, "add", "--quiet", "data"))
    add("dvc status", *dvc(folder, "status"))
    yield from seconds.items()
    sizes = [path.stat().st_size for path in data.iterdir()]
    yield "bytes on disk", float(sum(sizes))
    shutil.rmtree(folder)


def repository(folder: Path) -> None:
    folder.mkdir(parents=True)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    dvc(folder, "init", "--quiet")
    shutil.copy(table.ROOT / ".dvc/config", folder / ".dvc/config")


def dvc(folder: Path, *words: str) -> tuple[resource.struct_rusage, resource.struct_rusage]:
    """What all commands so far have used, before and after this one."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(["dvc", *words], cwd=folder, env=ENVIRONMENT, check=True, capture_output=True)
    return before, resource.getrusage(resource.RUSAGE_CHILDREN)


def one_round(folder: Path, noise: np.ndarray) -> Found:
    """Each operation on each corpus."""
    found: Found = defaultdict(dict)
    for place, corpus in enumerate(scale.ALL):
        for operation, value in work(corpus, folder / str(place), noise):
            found[operation][corpus] = value
    return found


def checks_of(found: Found) -> list[scale.Check]:
    """What the small corpora of these figures say of all of them."""
    units, checks = scale.units_of(found), []
    for corpus in scale.CHECKED:
        for operation in scale.OPERATIONS:
            told = scale.cost(units, operation, corpus)
            checks.append(scale.Check(operation, corpus.name, told, found[operation][corpus], scale.USER))
        mine = [check for check in checks if check.corpus == corpus.name]
        whole = sum(check.predicted for check in mine), sum(check.measured for check in mine)
        checks.append(scale.Check(scale.WHOLE, corpus.name, *whole, scale.USER))
        gigabytes = corpus.amounts()["bytes"] / 1e9, found["bytes on disk"][corpus] / 1e9
        checks.append(scale.Check("bytes on disk", corpus.name, *gigabytes, "GB"))
    return checks


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
        "group": (lambda: group_of(folder, folder, {"kind": "audio", "id": "piece"}), 1),
    }
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(7):
        for name, (function, amount) in steps.items():
            times[name].append(table.seconds(function) / amount)
    return {name: float(np.median(values)) for name, values in times.items()}


def test_predictions(figure, tmp_path, noise):
    rounds = [one_round(tmp_path / str(number), noise) for number in range(NUM_ROUNDS)]
    (tmp_path / "audio").mkdir()
    per_s = seconds_per_second(tmp_path / "audio")
    middle = {
        name: {corpus: float(np.median([one[name][corpus] for one in rounds])) for corpus in scale.ALL}
        for name in rounds[0]
    }
    kernel = {c.name: [min(k := [one[scale.KERNEL][c] for one in rounds]), max(k)] for c in scale.CHECKED}
    scale.report(scale.units_of(middle), per_s, checks_of(middle), kernel)
    for corpus in scale.CHECKED:
        wanted = (scale.WHOLE, corpus.name)
        found = [check for one in rounds for check in checks_of(one) if (check.operation, check.corpus) == wanted]
        unit = f"of {np.median([check.measured for check in found]):.1f} {scale.USER}, predicted from 1x and 3x"
        figure(
            table.of(
                f"scale_error_{corpus.name.replace(', ', '_').replace(' ', '_')}",
                [abs(check.error) for check in found],
                unit,
                0.2,
                0.1,
            )
        )
