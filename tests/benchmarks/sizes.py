"""The stages on a corpus of any size: `size` times twelve short pieces for four voices, each with a melody of its own.

`size` also multiplies the excerpts that are coded and scored, which in a real corpus stay as few as params.yaml says.
From 100 on the sound is that of ten, under ten names: rendering has been measured by then.
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from stages import baseline, cache, compress, download, evaluate, render, sample, split, train
from stages.media import midi
from stages.networks import instrument_cnn
from stages.numerics import scoring
from stages.pipeline import artifacts, packs, params, plugins
from stages.training.config import TrainConfig
from tests.benchmarks import cost

NUM_PIECES, NUM_EXCERPTS, EXCERPT_S, NUM_TRAINING_STEPS = 12, 4, 1.0, 20
NUM_SHARDS = 2
"""Few, so that a shard at 100x is as large as one of six default corpora."""
NOTE_S = 0.25
FAMILY = "autoencoder"
MODEL = {"latent_dim": 8, "width": 16, "depth": 1, "network": "convnext"}
METRICS = ("bitrate", "frechet", "log_spectral_distance", "mel_distance", "pesq_wb_gapped", "si_sdr", "stoi")


def write_songs(folder: Path, num: int, num_notes: int = 12) -> None:
    """Files folder/<number>.mid of num_notes * NOTE_S seconds."""
    folder.mkdir(parents=True)
    no_pedal = np.zeros((0, 2), dtype=np.int64)
    for number in range(num):
        random = np.random.Generator(np.random.Philox(number))
        starts = 240 * np.arange(num_notes, dtype=np.int64)
        voices = []
        for name, base in (("soprano", 67), ("alto", 60), ("tenor", 55), ("bass", 45)):
            pitches = base + random.integers(-5, 6, num_notes)
            notes = np.stack([starts, starts + 230, pitches, np.full(num_notes, 80)], axis=1)
            voices.append(midi.Voice(name, 0, False, notes, no_pedal))
        score = midi.Score(str(number), 480, np.array([[0, 500_000]]), tuple(voices))
        (folder / f"{number:06d}.mid").write_bytes(midi.write(score))


class Chain:
    """One corpus in a folder, stage by stage; each stage may be done again."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size

    def songs(self) -> None:
        write_songs(self.folder / "songs", self.size * NUM_PIECES)

    def download(self) -> None:
        shutil.rmtree(self.folder / "work", ignore_errors=True)  # else it would know the pieces
        config = download.Config("folder", {"path": str(self.folder / "songs")})
        download.run(config, self.folder / "raw", self.folder / "work")

    def render(self) -> None:
        render.run(render.Config(), self.folder / "raw", self.folder / "audio")

    def borrow(self, other: "Chain") -> None:
        """The sound of a smaller corpus, again and again, instead of rendering."""
        known = artifacts.read_json(other.folder / "audio/manifest.json")
        sounds = [packs.read(other.folder / "audio", one["path"], one["sha256"], "") for one in known["clips"]]
        clips = []
        (self.folder / "audio/files").mkdir(parents=True)
        for number, piece in enumerate(artifacts.read_json(self.folder / "raw/manifest.json")["pieces"]):
            path = f"files/{piece['id']}-0.flac"
            (self.folder / "audio" / path).write_bytes(sounds[number % len(sounds)])
            clip = known["clips"][number % len(sounds)]
            clips.append(clip | {"id": f"{piece['id']}-0", "piece": piece["id"], "path": path})
        moved = packs.pack(self.folder / "audio", {clip["path"]: clip["sha256"] for clip in clips})
        clips = [clip | {"path": moved[clip["path"]]} for clip in clips]
        artifacts.write_json(self.folder / "audio/manifest.json", known | {"clips": clips})

    def judge(self) -> None:
        """Untrained: what it hears costs the same."""
        with artifacts.new_folder(self.folder / "judge") as draft:
            instrument_cnn.save(draft, instrument_cnn.InstrumentCNN(5), {"num_classes": 5})

    def split(self) -> None:
        config = split.Config(num_excerpts=self.size * NUM_EXCERPTS, excerpt_duration_s=EXCERPT_S)
        split.run(config, self.folder / "raw", self.folder / "split")

    def cache(self) -> None:
        block = {"module": "mdct", "corpus": "music", "clips": "audio", "num_shards": NUM_SHARDS}
        tree = params.Params({"corpora": {"music": {}}, "representations": {"mdct": block}})
        needs = cache.configure(tree, "mdct")
        assert needs is not None, tree.problems
        cache.run(needs.config, self.folder / "audio", self.folder / "split", self.folder / "cache")

    def train(self) -> None:
        steps = TrainConfig(
            NUM_TRAINING_STEPS, 4, 1e-3, 1, 0, crop_steps=75, validate_every=NUM_TRAINING_STEPS, num_validation_clips=4
        )
        family = plugins.load("families", FAMILY)
        config = train.Config(FAMILY, "mdct", FAMILY, params.plain(family.Config(**MODEL)), steps)
        (self.folder / "work/train").mkdir(parents=True, exist_ok=True)
        train.run(
            config, self.folder / "cache", Path("models/scratch"), self.folder / "model", self.folder / "work/train"
        )

    def compress(self) -> None:
        compress.run(compress.Config(), self.folder / "cache/test", self.folder / "model", self.folder / "streams")

    def sample(self) -> None:
        sampling = params.plain(plugins.load("families", FAMILY).Sampling())
        config = sample.Config(sample.Own(self.size * NUM_EXCERPTS, EXCERPT_S), sampling)
        sample.run(config, self.folder / "streams", self.folder / "model", self.folder / "samples")

    def evaluate(self) -> None:
        config = evaluate.Config(FAMILY, METRICS, scoring.Settings(num_resamples=100, num_shown=1), {})
        inputs = ("cache/references", "streams", "samples", "model", "judge", "scores")
        evaluate.run(config, *(self.folder / name for name in inputs))

    def baseline(self) -> None:
        config = baseline.Config(("mp3",), METRICS, scoring.Settings(num_resamples=100, num_shown=1))
        baseline.run(config, self.folder / "cache/references", self.folder / "judge", self.folder / "baselines")


def measured(root: Path, stage: str, sizes: Sequence[int], num_repeats: int) -> None:
    """Do a stage at each size, first once unmeasured, and write what it cost to <stage>.json."""
    getattr(Chain(root / str(sizes[0]), sizes[0]), stage)()
    found = {}
    for size in sizes:
        chain = Chain(root / str(size), size)
        repeats = num_repeats if size == sizes[0] else 1
        found[size] = [asdict(cost.of(getattr(chain, stage))) for _ in range(repeats)]
    artifacts.write_json(root / f"{stage}.json", found)
