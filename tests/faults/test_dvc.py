"""The train stage as DVC runs it: killed in a temporary copy, left by its dvc, asked for twice at once."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages import plan
from stages.pipeline import artifacts, plugins, shards
from tests import sounds
from tests.faults import processes

ROOT = Path(__file__).resolve().parents[2]
NAME = "autoencoder_mdct"
STEPS = re.compile(r'"step": (\d+)')
STAGE = f"train@{NAME}"
NUMBERS = {
    "model": {"latent_dim": 4, "width": 8, "depth": 1},
    "train": {"num_steps": 60, "batch_size": 2, "crop_steps": 20, "num_threads": 1, "log_every": 1}
    | {"checkpoint_every": 5, "validate_every": 30, "num_validation_clips": 2, "precision": "float32"},
}
ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "DVC_NO_ANALYTICS": "true",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PARTITA_TRACKING": "off",
    "GIT_AUTHOR_NAME": "t",
    "GIT_AUTHOR_EMAIL": "t@example.org",
    "GIT_COMMITTER_NAME": "t",
    "GIT_COMMITTER_EMAIL": "t@example.org",
}


def command(folder, *words):
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def begin(folder, *words):
    with (folder / "told").open("ab") as told:
        return subprocess.Popen(words, cwd=folder, stdout=told, stderr=told, env=ENVIRONMENT)


def fill_cache(folder):
    kind = plugins.load("representations", "mdct")
    clips = [sounds.clip(sounds.chords(seed, 2.0), f"clip{seed}") for seed in range(4)]
    representation = kind.fit(kind.Config(num_bins=64), clips)
    codes = [representation.encode(clip) for clip in clips]
    for split, part in (("train", codes[:3]), ("valid", codes[3:]), ("test", codes[3:])):
        (folder / split).mkdir(parents=True)
        shards.write_index(folder / split, representation.spec.version, [shards.write_shard(folder / split, 0, part)])
    sums = shards.sums(codes[:3], representation.spec.data)
    shards.save_statistics(folder / "statistics.safetensors", shards.statistics(sums))
    representation.save(folder / "representation")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A repository whose only stage is the real train stage, on a tiny cache of tones."""
    folder = tmp_path_factory.mktemp("made")
    tree = YAML(typ="safe").load(ROOT / "params.yaml")
    tree["experiments"] = {NAME: tree["experiments"][NAME]}
    tree["representations"]["mdct"]["num_bins"] = 64
    for section, numbers in NUMBERS.items():
        tree[section] |= numbers
    graph = YAML(typ="safe").load(ROOT / "dvc.yaml")
    YAML().dump(tree, folder / "params.yaml")
    shutil.copytree(ROOT / "stages", folder / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "models/scratch", folder / "models/scratch")
    shutil.copy(ROOT / "constraints.txt", folder)
    shutil.copy(ROOT / "dvc.yaml", folder)
    for path, content in plan.make(folder).items():
        if path == Path(f"data/plan/train/{NAME}.json"):
            artifacts.write_json(folder / path, content)
    YAML().dump({"stages": {"train": graph["stages"]["train"]}}, folder / "dvc.yaml")
    fill_cache(folder / "data/cache/mdct")
    (folder / ".gitignore").write_text("/.work/\n__pycache__/\n/told\n")
    command(folder, "git", "init", "-q")
    command(folder, "dvc", "init", "-q")
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc/config")
    command(folder, "git", "add", "-A")
    command(folder, "git", "commit", "-qm", "toy")
    return folder


@pytest.fixture
def repo(made, tmp_path):
    return shutil.copytree(made, tmp_path / "repo")


@pytest.fixture(scope="module")
def both(made, tmp_path_factory):
    """(dvc.lock's digest of the model that the uninterrupted stage makes, what a second `dvc repro` said meanwhile)."""
    folder = shutil.copytree(made, tmp_path_factory.mktemp("whole") / "repo")
    process = begin(folder, "dvc", "repro")
    with processes.ending(process):
        processes.until(lambda: works(folder), pause_s=0.005)
        words = ("dvc", "repro", "-s", STAGE)
        second = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=ENVIRONMENT)
        assert process.wait(processes.PATIENCE_S) == 0, (folder / "told").read_text()
    return digest((folder / "dvc.lock").read_text()), second


@pytest.fixture
def whole(both):
    return both[0]


def digest(lock):
    (entry,) = YAML(typ="safe").load(lock)["stages"][STAGE]["outs"]
    return entry["md5"]


def works(repo):
    """A checkpoint is there."""
    return list(repo.glob(".work/train/*/checkpoints/step_*/index.json"))


def stage_of(repo):
    """The process id of the stage, which is in the lock it holds, told by /proc."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            if b"stages.train" in words and (path / "environ").read_bytes().find(str(repo).encode()) >= 0:
                return int(path.name)
        except OSError:
            continue
    return None


def alive(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def log_size(repo):
    return sum(path.stat().st_size for path in repo.glob(".work/train/*/log.jsonl"))


@pytest.mark.fault("kill")
def test_a_temporary_experiment_that_was_killed_goes_on(repo, whole, lost_steps):
    """`dvc exp run --temp` works in a copy that is thrown away: the state lies in $DVC_ROOT/.work."""
    words = ("dvc", "exp", "run", "--temp", "-n", "first")
    process = begin(repo, *words)
    with processes.ending(process):
        processes.until(lambda: works(repo), pause_s=0.005)
        os.kill(processes.until(lambda: stage_of(repo)), signal.SIGKILL)
        assert process.wait(processes.PATIENCE_S) != 0
    assert not (repo / "models" / NAME).exists()
    done = max(int(step) for log in repo.glob(".work/train/*/log.jsonl") for step in STEPS.findall(log.read_text()))
    told = command(repo, *words[:-1], "second")
    begun = int(re.search(r"going on from step (\d+)", told)[1])
    assert begun >= 5
    (ref,) = re.findall(r"refs/exps/\S+/second", command(repo, "git", "for-each-ref"))
    assert digest(command(repo, "git", "show", f"{ref}:dvc.lock")) == whole
    lost_steps(max(done - begun, 0))


@pytest.mark.fault("orphan")
def test_a_stage_ends_with_its_dvc_and_the_next_takes_over(repo, whole):
    process = begin(repo, "dvc", "repro")
    with processes.ending(process):
        processes.until(lambda: works(repo), pause_s=0.005)
        stage = processes.until(lambda: stage_of(repo))
        process.kill()
        process.wait()
        processes.until(lambda: not alive(stage))
    size = log_size(repo)
    time.sleep(0.3)
    assert log_size(repo) == size, "an orphan writes on"
    assert "going on from step" in command(repo, "dvc", "repro")
    assert digest((repo / "dvc.lock").read_text()) == whole


PARALLEL = """
from pathlib import Path
from stages.pipeline import parallel
parallel.run(parallel.chains(parallel.needs_of(Path.cwd()), parallel.repeated_of(Path("dvc.yaml"))), 2, [])
"""


@pytest.mark.fault("orphan")
def test_dvc_ends_with_who_runs_several_at_once_and_the_next_takes_over(repo, whole):
    process = begin(repo, sys.executable, "-c", PARALLEL)
    with processes.ending(process):
        processes.until(lambda: works(repo), pause_s=0.005)
        stage = processes.until(lambda: stage_of(repo))
        dvc = int(Path(f"/proc/{stage}/stat").read_text().rpartition(")")[2].split()[1])
        process.kill()
        process.wait()
        processes.until(lambda: not alive(dvc) and not alive(stage))
    assert not (repo / "models" / NAME).exists(), "an orphan went on"
    assert "going on from step" in command(repo, sys.executable, "-c", PARALLEL)
    assert digest((repo / "dvc.lock").read_text()) == whole


@pytest.mark.fault("twice")
def test_a_second_repro_is_refused_by_name(both):
    assert both[1].returncode != 0 and re.search("lock", both[1].stderr), both[1].stderr
