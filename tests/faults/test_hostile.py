"""Params, checkpoints, models and arrays that were made to do harm: refused, and nothing in them is run."""

import ast
import io
import json
import pickle
import shutil
import struct
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from stages import plan
from stages.pipeline import artifacts, checkpoints, params, plugins, shards
from stages.training import model_folder
from tests import fakes
from tests.faults import victims
from tests.faults.test_dvc import ENVIRONMENT

pytestmark = pytest.mark.fault("params")
ROOT = Path(__file__).resolve().parents[2]
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30)
)
TEXTS = {
    "object": "a: !!python/object/apply:os.system ['touch pwned']\n",
    "name": "a: !!python/name:os.system\n",
    "bomb": BOMB,
    "ring": "a: &a [*a]\n",
    "deep": "a: " + "[" * 2000 + "]" * 2000 + "\n",
    "large": "a: '" + "x" * 10_000_001 + "'\n",
}
NAMES = ("../../evil", "a; touch pwned", "$(touch pwned)", "`touch pwned`", "a b", "a/b", "-rf", "a\nb", "ä", "")


@pytest.mark.parametrize("case", TEXTS)
def test_params_that_are_more_than_plain_data_are_refused_at_once(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(TEXTS[case])
    begun = time.process_time()
    with pytest.raises(ValueError, match="params.yaml"):
        params.read(Path("params.yaml"))
    assert time.process_time() - begun < 10
    assert not Path("pwned").exists()


def test_aliases_that_unfold_to_little_are_taken(tmp_path):
    (tmp_path / "params.yaml").write_text("a: &a {b: 1}\nc: *a\nd: {<<: *a, e: 2}\n")
    assert params.read(tmp_path / "params.yaml").tree["d"] == {"b": 1, "e": 2}


@pytest.mark.parametrize("section", ["corpora", "experiments", "representations"])
@pytest.mark.parametrize("name", NAMES)
def test_names_that_would_leave_their_place_are_refused(name, section, tmp_path, monkeypatch):
    """A key becomes a file name and an argument of `cmd`: only [a-z0-9_]+ ever does."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
    tree = YAML(typ="safe").load(ROOT / "params.yaml")
    tree[section][name] = next(iter(tree[section].values()))
    YAML().dump(tree, Path("params.yaml"))
    with pytest.raises(ValueError, match=f"{section}."):
        plan.make(Path("."))
    assert not list(tmp_path.rglob("pwned"))


def test_dvc_runs_nothing_of_a_hostile_name(tmp_path):
    """plan fails first, so that no shell ever sees the name."""
    for name in ("dvc.yaml", "params.yaml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    tree = YAML(typ="safe").load(ROOT / "params.yaml")
    tree["classifiers"]["a; touch pwned"] = tree["classifiers"]["audio"]
    YAML().dump(tree, tmp_path / "params.yaml")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["dvc", "init", "-q"], cwd=tmp_path, check=True, env=ENVIRONMENT)
    done = subprocess.run(["dvc", "repro"], cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode != 0 and not list(tmp_path.rglob("pwned"))
    assert not (tmp_path / "models").exists()


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def header(value, data=b""):
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin, end, shape=(2,), kind="F32"):
    return {"data": {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end]}}


def payload(kind, pwned):
    array = np.array([Touch(pwned)], dtype=object)
    made = {
        "pickle": lambda: pickle.dumps(Touch(pwned)),
        "object_array": lambda: _npy(array),
        "header_of_2_to_63": lambda: struct.pack("<Q", 2**63) + b"{}",
        "beyond_the_end": lambda: header(entry(0, 2**40, (2**38,)), bytes(8)),
        "other_size": lambda: header(entry(0, 8, (10**9,)), bytes(8)),
        "negative": lambda: header(entry(-8, 0), bytes(8)),
        "no_dtype": lambda: header(entry(0, 8, kind="OBJECT"), bytes(8)),
        "deep": lambda: header(b"[" * 100_000 + b"]" * 100_000),
        "nothing": lambda: b"",
    }
    return made[kind]()


def _npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


PAYLOADS = (
    *("pickle", "object_array", "header_of_2_to_63", "beyond_the_end", "other_size"),
    *("negative", "no_dtype", "deep", "nothing"),
)


def into_checkpoint(folder, data):
    checkpoints.save(folder, victims.checkpoint(3))
    path = checkpoints.found(folder)[0]
    (path / "tensors.safetensors").write_bytes(data)
    artifacts.write_json(path / "index.json", {name: artifacts.sha256(path / name) for name in checkpoints.FILES})
    return lambda: checkpoints.read(path)


def into_model(folder, data):
    case = fakes.case("quantised", 4)
    folder.mkdir()
    facts = model_folder.Facts("tiny", "quantised", "frames", {})
    model_folder.save(folder, case.model(), case.representation, case.statistics, facts)
    (folder / "model.safetensors").write_bytes(data)
    content = artifacts.read_json(folder / "model.json")
    del content["digest"]
    content["sha256"]["model.safetensors"] = artifacts.sha256(folder / "model.safetensors")
    artifacts.write_json(folder / "model.json", content | {"digest": artifacts.digest(content)})
    return lambda: model_folder.load(folder)


def into_shard(folder, data):
    fakes.cache(folder, "energy")
    path = folder / "train/shard_000.safetensors"
    path.write_bytes(data)
    index = artifacts.read_json(folder / "train/index.json")
    index["shards"][0]["sha256"] = artifacts.sha256(path)
    artifacts.write_json(folder / "train/index.json", index)
    return lambda: shards.Shards(folder / "train")[0]


def into_statistics(folder, data):
    folder.mkdir()
    (folder / "statistics.safetensors").write_bytes(data)
    return lambda: shards.load_statistics(folder / "statistics.safetensors")


PLACES = {f.__name__.removeprefix("into_"): f for f in (into_checkpoint, into_model, into_shard, into_statistics)}


@pytest.mark.parametrize("kind", PAYLOADS)
@pytest.mark.parametrize("place", PLACES)
def test_a_file_that_is_no_weights_is_refused_though_every_digest_is_right(place, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(plugins, "load", fakes.load)
    read = PLACES[place](tmp_path / "victim", payload(kind, tmp_path / "pwned"))
    with pytest.raises(artifacts.Damaged, match="safetensors"):
        read()
    assert not (tmp_path / "pwned").exists()


def test_the_pickles_of_this_test_would_have_worked(tmp_path):
    pickle.loads(payload("pickle", tmp_path / "pwned"))
    assert (tmp_path / "pwned").exists()


def test_no_stage_can_run_what_it_reads():
    """No pickle, no eval, no shell, and arrays without objects, in any file of the pipeline.

    But for the two ends of a pipe between this process and one it has started itself, as every process pool has them.
    """
    own_pipes = {"pickle.load(sys.stdin.buffer)", "pickle.loads(done.stdout)"}
    banned = {"eval", "exec", "pickle.load", "pickle.loads", "torch.load", "np.load", "numpy.load", "joblib.load"}
    banned |= {"os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "marshal.loads", "dill.loads"}
    for path in (ROOT / "stages").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                plain = any(key.arg == "allow_pickle" and ast.unparse(key.value) == "False" for key in node.keywords)
                piped = path.name == "cluster.py" and ast.unparse(node) in own_pipes
                assert plain or piped or ast.unparse(node.func) not in banned, f"{path.name}:{node.lineno}"
                assert not any(key.arg == "shell" for key in node.keywords), f"{path.name}:{node.lineno}"
                if ast.unparse(node.func) == "YAML":
                    assert [ast.unparse(key.value) for key in node.keywords] == ["'safe'"], f"{path.name}:{node.lineno}"
