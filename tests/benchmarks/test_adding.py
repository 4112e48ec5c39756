"""One piece more: `dvc repro` of download, render, split and cache after 1,000 pieces became 1,001.

Pieces of four voices and 32 seconds, about a chorale. CPU seconds of DVC and everything it starts, set-up of Python and
DVC's own work on the files included; ADDING_PIECES takes another number.
"""

import os
import resource

import numpy as np
import pytest

from stages.media import midi
from tests.benchmarks import table
from tests.pipeline.test_walk import command, shrink, small_repo

pytestmark = pytest.mark.bench
NUM = int(os.environ.get("ADDING_PIECES", "1000"))
NUM_NOTES = 64


def song(number):
    random = np.random.Generator(np.random.Philox(number))
    voices = []
    for low in (43, 50, 57, 64):
        pitches = low + random.integers(0, 12, NUM_NOTES)
        notes = np.array([[480 * k, 480 * k + 470, pitch, 80] for k, pitch in enumerate(pitches)], dtype=np.int64)
        voices.append(midi.Voice(str(low), 0, False, notes, np.zeros((0, 2), dtype=np.int64)))
    return midi.write(midi.Score(str(number), 480, np.array([[0, 500_000]]), tuple(voices)))


def repro(folder):
    """CPU seconds of `dvc repro` up to the cache; the corpus is read anew, since DVC does not watch it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command(folder, "", "dvc", "repro", "-q", "-f", "-s", "download@music")
    command(folder, "", "dvc", "repro", "-q", "cache@mdct")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(getattr(after, name) - getattr(before, name) for name in ("ru_utime", "ru_stime"))


def test_adding_a_piece(figure, tmp_path):
    folder, songs = tmp_path / "repo", tmp_path / "songs"
    folder.mkdir()
    songs.mkdir()
    for number in range(NUM):
        (songs / f"song{number:05d}.mid").write_bytes(song(number))
    small_repo(folder)
    values = {"corpora.music.source": "folder", "corpora.music.path": str(songs), "corpora.music.num_pieces": 0}
    shrink(folder / "params.yaml", values | {"split.valid_fraction": 0.1, "split.test_fraction": 0.2})
    command(folder, "", "dvc", "repro", "-q", "plan")
    full = repro(folder)
    shares = []
    for number in range(NUM, NUM + 3):
        (songs / f"song{number:05d}.mid").write_bytes(song(number))
        shares.append(100 * repro(folder) / full)
        print(f"{NUM} pieces: {full:.1f} s of CPU; one more: {shares[-1]:.1f} %", flush=True)
    figure(table.of("adding_a_piece", shares, f"% of the CPU time of {NUM} pieces", must=5.0, aim=2.0))
