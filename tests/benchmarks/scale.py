"""What a corpus of any size costs: a model of user CPU seconds whose units are measured on small corpora.

    cost(operation, corpus) = sum over drivers d of unit[operation][d] * amount of d in the corpus

with the drivers of an operation in OPERATIONS. Units are fitted by non-negative least squares of relative errors, so
that a small corpus counts as much as a large one. test_scale.py measures, fits, and checks the predictions at 1, 10 and
100 times the default corpus; what it finds lies in reports/scale.json. `python -m tests.benchmarks.scale` puts that
into docs/scale.md, with what 100 TB of audio would cost.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import nnls

from stages.pipeline import artifacts, packs
from tests.benchmarks import table

REPORT, PAGE = table.ROOT / "reports/scale.json", table.ROOT / "docs/scale.md"
FRAMES_PER_S, FRAME_BYTES = 75, 640
"""The default representation: 320 float16 values."""
OPERATIONS: dict[str, tuple[str, ...]] = {
    "write shards": ("records", "bytes", "shards"),
    "sum statistics": ("records", "bytes", "shards"),
    "merge statistics": ("shards",),
    "write index": ("once", "records", "shards"),
    "read index": ("once", "records", "shards"),
    "verify shards": ("bytes", "shards"),
    "read every record": ("records", "bytes"),
    "dvc add": ("once", "bytes", "shards"),
    "dvc status": ("once", "shards"),
}
Units = Mapping[str, Mapping[str, float]]
RESOLVED_S = 1e-3
"""Below, the kernel's clock of user time may say 0."""


@dataclass(frozen=True)
class Corpus:
    name: str
    num_clips: int
    clip_s: float
    num_shards: int

    @property
    def num_frames(self) -> int:
        return round(self.clip_s * FRAMES_PER_S)

    def amounts(self) -> dict[str, float]:
        num_bytes = self.num_clips * self.num_frames * FRAME_BYTES
        return {"once": 1.0, "records": self.num_clips, "bytes": num_bytes, "shards": self.num_shards}


def times(size: int, clip_s: float = 3.6) -> Corpus:
    """`size` times the default corpus: 120 clips of 36 s in 16 shards, or of a tenth of that."""
    return Corpus(f"{size}x" + (", whole clips" if clip_s == 36 else ""), 120 * size, clip_s, 16 * size)


FITTED = (times(1), times(3), times(1, 36.0), Corpus("1x, in 1,000 shards", 1200, 0.36, 1000))
CHECKED = (times(1), times(10), times(10, 36.0), times(100))
ALL = (*FITTED, *CHECKED[1:])
WHOLE, KERNEL, USER = "all of it", "kernel", "s user CPU"


def units_of(found: Mapping[str, Mapping[Corpus, float]]) -> dict[str, dict[str, float]]:
    """Units of every operation from figures of the small corpora."""
    return {name: fit(name, {corpus: found[name][corpus] for corpus in FITTED}) for name in OPERATIONS}


def fit(operation: str, seconds: Mapping[Corpus, float]) -> dict[str, float]:
    """Seconds per unit of each driver, from one figure per corpus."""
    drivers = OPERATIONS[operation]
    rows = np.array([[corpus.amounts()[driver] for driver in drivers] for corpus in seconds])
    found = np.array(list(seconds.values()))
    scale = np.abs(rows).max(axis=0)
    error = np.maximum(found, RESOLVED_S)
    solved, _ = nnls(rows / scale / error[:, None], found / error)
    return dict(zip(drivers, (solved / scale).tolist(), strict=True))


def cost(units: Units, operation: str, corpus: Corpus) -> float:
    """CPU seconds."""
    return sum(unit * corpus.amounts()[driver] for driver, unit in units[operation].items())


@dataclass(frozen=True)
class Check:
    operation: str
    corpus: str
    predicted: float
    measured: float
    unit: str

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


# ---------------------------------------------------------------------------------------------------------------------
# 100 TB of audio on paper

SOURCE_BYTES, SOURCE_BYTES_PER_S, PIECE_S = 100e12, 88_000, 240
"""FLAC in stereo at 44.1 kHz, about 700 kbit/s; a piece of music is four minutes."""
AUDIO_BYTES_PER_S, CODE_BYTES_PER_S = 29_000, FRAMES_PER_S * FRAME_BYTES
"""24 kHz mono FLAC as `render` writes it, and MDCT frames."""
SHARD_BYTES = 1e9
MANIFEST_BYTES = {"download": 350, "render": 320, "split": 110, "cache": 40}
"""Of JSON a piece, in manifest.json, split.json and index.json."""


@dataclass(frozen=True)
class Stage:
    name: str
    read_tb: float
    written_tb: float
    core_hours: float
    dvc_core_hours: float
    num_files: float
    manifest_gb: float


def stages(units: Units, per_s: Mapping[str, float], source_bytes: float = SOURCE_BYTES) -> list[Stage]:
    """`per_s`: CPU seconds of each step of audio per second of it, and `sha256` per byte."""
    audio_s = source_bytes / SOURCE_BYTES_PER_S
    pieces, audio, codes = audio_s / PIECE_S, audio_s * AUDIO_BYTES_PER_S, audio_s * CODE_BYTES_PER_S
    corpus = Corpus("", round(pieces), PIECE_S, round(codes / SHARD_BYTES))

    def stage(name: str, read: float, written: float, seconds: float, num_files: float) -> Stage:
        add = units["dvc add"]
        dvc = (written * add["bytes"] + num_files * add["shards"]) / 3600
        manifest = pieces * MANIFEST_BYTES[name] / 1e9
        return Stage(name, read / 1e12, written / 1e12, seconds / 3600, dvc, num_files, manifest)

    shards = sum(cost(units, name, corpus) for name in ("sum statistics", "merge statistics", "write index"))
    check = audio_s * per_s["decode"] + 3 * source_bytes * per_s["sha256"]
    return [
        stage("download", source_bytes, source_bytes, check, packs.NUM),
        stage("render", 2 * source_bytes, audio, audio_s * (per_s["decode"] + per_s["resample"]), packs.NUM),
        stage("split", pieces * MANIFEST_BYTES["download"], 0.0, pieces * per_s["group"], 1),
        stage("cache", audio, codes, audio_s * per_s["encode"] + shards, corpus.num_shards),
    ]


def limits(units: Units, per_s: Mapping[str, float]) -> list[tuple[str, str]]:
    """What work with such a corpus waits for or holds in memory."""
    source_bytes = SOURCE_BYTES
    found = stages(units, per_s, source_bytes)
    audio_s = source_bytes / SOURCE_BYTES_PER_S
    num_files = sum(stage.num_files for stage in found)
    pack_gb = max(stage.written_tb / stage.num_files for stage in found) * 1e3
    examples = audio_s / 2
    codes = audio_s * CODE_BYTES_PER_S
    verify_h = codes * units["verify shards"]["bytes"] / 3600
    dvc_h = sum(stage.dvc_core_hours for stage in found)
    manifest_gb = max(stage.manifest_gb for stage in found)
    return [
        ("DVC hashes every out", f"{dvc_h:,.0f} core-hours in one process"),
        ("one piece more rewrites one pack", f"{pack_gb:,.0f} GB"),
        ("`dvc repro` with nothing to do looks at", f"{num_files:,.0f} files, and again for each reader"),
        ("a training starts: the sha256 of every shard", f"{verify_h:,.0f} core-hours, each time"),
        ("one JSON manifest a stage", f"{manifest_gb:.1f} GB, several times that while it is read"),
        ("the order of an epoch's examples", f"{examples:,.0f} numbers, {16 * examples / 1e9:.0f} GB in each process"),
    ]


# ---------------------------------------------------------------------------------------------------------------------
# The page


def tables(found: Mapping[str, Any]) -> dict[str, str]:
    units, per_s = found["units"], found["per_s"]
    checks = [Check(**entry) for entry in found["checks"]]
    lines = [
        f"| {c.operation} | {c.corpus} | {c.predicted:.3g} | {c.measured:.3g} | {c.unit} | {100 * c.error:+.0f} % |"
        for c in checks
    ]
    rows = [
        f"| `{s.name}` | {s.read_tb:.3g} | {s.written_tb:.3g} | {s.core_hours:,.0f} | {s.dvc_core_hours:,.0f} | "
        f"{s.num_files:,.0f} | {s.manifest_gb:.1f} |"
        for s in stages(units, per_s)
    ]
    kernel = [f"| {name} | {low:.3g} | {high:.3g} |" for name, (low, high) in found["kernel"].items()]
    return {
        "kernel": markdown("corpus | the kernel's seconds, least | most", kernel),
        "checks": markdown("operation | corpus | predicted | measured | unit | error", lines),
        "stages": markdown(
            "stage | reads, TB | writes, TB | core-hours | DVC's core-hours | files | manifest, GB", rows
        ),
        "limits": markdown("what | how much", [f"| {what} | {much} |" for what, much in limits(units, per_s)]),
    }


def markdown(head: str, lines: Sequence[str]) -> str:
    return "\n".join([f"| {head} |", "|" + "---|" * (head.count("|") + 1), *lines])


def put(page: str, found: Mapping[str, Any]) -> str:
    """The page with its tables renewed."""
    for name, text in tables(found).items():
        begin, end = f"<!-- {name}: python -m tests.benchmarks.scale -->", f"<!-- end of {name} -->"
        head, mark, rest = page.partition(begin)
        _, stop, tail = rest.partition(end)
        if not (mark and stop):
            sys.exit(f"{PAGE} has no place for the table {name}, between {begin} and {end}")
        page = f"{head}{begin}\n{text}\n{end}{tail}"
    return page


def main() -> None:
    if not REPORT.is_file():
        sys.exit("nothing was measured yet: run `make bench` first")
    artifacts.write_bytes(PAGE, put(PAGE.read_text(), artifacts.read_json(REPORT)).encode())


def report(
    units: Units, per_s: Mapping[str, float], checks: Sequence[Check], kernel: Mapping[str, Sequence[float]]
) -> None:
    found = {"units": units, "per_s": per_s, "checks": [asdict(check) for check in checks], "kernel": kernel}
    artifacts.write_json(REPORT, found)


if __name__ == "__main__":
    main()
