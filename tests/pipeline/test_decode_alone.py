"""A stream is whole: a new process that has streams and model folder, and nothing else, plays it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from stages import compress, sample
from stages.families.autoencoder import Autoencoder
from stages.media import audio
from stages.pipeline import artifacts, shards
from stages.representations.mdct import Mdct
from stages.training import model_folder

ROOT = Path(__file__).resolve().parents[2]
DECODE = """
import sys
from pathlib import Path
here, opened = Path.cwd(), []
sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "open" and isinstance(args[0], str) else None)
from stages import sample
sample.run(sample.Config(sample.Own(), {}), Path("data/streams/x"), Path("models/x"), Path("data/samples/x"))
touched = {(here / path).relative_to(here).parts[:2] for path in opened if (here / path).is_relative_to(here)}
assert touched <= {("data", "streams"), ("models", "x"), ("data", "samples")}, touched
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with streams and a model of untrained weights; what they were made from is gone. And the samples."""
    folder = tmp_path_factory.mktemp("world")
    representation = Mdct(Mdct.Config(num_bins=16, rate_hz=8000))
    rng = np.random.Generator(np.random.Philox(0))
    clips = [
        audio.Clip(f"clip{i}", (0.1 * rng.standard_normal(n)).astype(np.float32), 8000)
        for i, n in enumerate((4001, 4001, 2500))
    ]
    codes = [representation.encode(clip) for clip in clips]
    (folder / "data/cache/test").mkdir(parents=True)
    entry = shards.write_shard(folder / "data/cache/test", 0, codes)
    shards.write_index(folder / "data/cache/test", representation.spec.version, [entry])
    statistics = shards.statistics(shards.sums(codes, representation.spec.data))
    torch.manual_seed(0)
    config = Autoencoder.Config("convnext", latent_dim=4, width=8, depth=1, num_codebooks=2, codebook_size=16)
    model = Autoencoder(config, representation.spec, statistics, representation.signal)
    (folder / "models/x").mkdir(parents=True)
    facts = model_folder.Facts("x", "autoencoder", "mdct", {})
    model_folder.save(folder / "models/x", model, representation, statistics, facts)
    compress.run(compress.Config(), folder / "data/cache/test", folder / "models/x", folder / "data/streams/x")
    sample.run(sample.Config(sample.Own(), {}), folder / "data/streams/x", folder / "models/x", folder / "expected")
    shutil.rmtree(folder / "data/cache")
    return folder


def decode(folder):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", DECODE]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_a_new_process_decodes_from_streams_and_model_alone(world):
    done = decode(world)
    assert done.returncode == 0, done.stderr
    manifest = artifacts.read_json(world / "data/samples/x/manifest.json")
    assert [(e["id"], e["num_samples"]) for e in manifest["reconstructions"]] == [
        ("clip0", 4001),
        ("clip1", 4001),
        ("clip2", 2500),
    ]
    for entry in manifest["reconstructions"]:
        found, _ = soundfile.read(world / "data/samples/x" / entry["path"], dtype="int16")
        expected, _ = soundfile.read(world / "expected" / entry["path"], dtype="int16")
        np.testing.assert_allclose(found, expected, atol=1)
        assert np.abs(found).max() > 0


@pytest.mark.parametrize("name", ["data/streams/x/clip1.bin", "models/x/model.safetensors"])
def test_one_flipped_byte_is_refused_by_name(world, tmp_path, name):
    folder = tmp_path / "world"
    shutil.copytree(world, folder)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    shutil.rmtree(folder / "data/samples", ignore_errors=True)
    done = decode(folder)
    assert done.returncode != 0
    assert Path(name).name in done.stderr.strip().splitlines()[-1]
    assert not (folder / "data/samples/x").exists()
