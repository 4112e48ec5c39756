"""The whole DAG in small, by `dvc repro`: every stage reads and writes what it declares, and says what it promises."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from distributed import LocalCluster
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = ("autoencoder_mdct", "improved_mean_flow_mdct")
SMALL = {
    "corpora.music.num_pieces": 14,
    "split.valid_fraction": 0.2,
    "split.test_fraction": 0.3,
    "split.num_excerpts": 4,
    "split.excerpt_duration_s": 2.0,
    "classifiers.audio.num_steps": 20,
    "baselines.systems": ["ogg_opus", "original"],
    "model.latent_dim": 8,
    "model.width": 16,
    "model.depth": 1,
    "model.num_codebooks": 2,
    "model.codebook_size": 64,
    "model.beam_size": 2,
    "experiments.improved_mean_flow_mdct.model.flow_width": 16,
    "experiments.improved_mean_flow_mdct.model.flow_depth": 1,
    "train.num_steps": 8,
    "experiments.improved_mean_flow_mdct.train.num_steps": 8,
    "train.batch_size": 4,
    "train.crop_steps": 50,
    "train.num_threads": 1,
    "sample.num_new_clips": 2,
    "sample.new_clip_duration_s": 2.0,
    "evaluate.num_resamples": 20,
}
METRICS = (
    "bitrate_kbps si_sdr_db pesq_wb_gapped stoi log_spectral_distance_db mel_distance mel_distance_loud "
    "reconstruction_frechet_classifier reconstruction_kernel_classifier num_function_evaluations num_parameters"
).split()


def environment(folder, audit):
    return os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parent / "audit"),
        "AUDIT_FOLDER": str(audit),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "DVC_NO_ANALYTICS": "true",
    }


def command(folder, audit, *words):
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=environment(folder, audit))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def shrink(path, values):
    yaml = YAML()
    tree = yaml.load(path)
    for dotted, value in values.items():
        *parents, last = dotted.split(".")
        block = tree
        for part in parents:
            block = block[part]
        block[last] = value
    yaml.dump(tree, path)


def small_repo(folder):
    for name in ("dvc.yaml", "params.yaml", "constraints.txt", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "stages", folder / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "models/scratch", folder / "models/scratch")
    shrink(folder / "params.yaml", SMALL)
    command(folder, "", "git", "init", "-q")
    command(folder, "", "dvc", "init", "-q")
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc/config")
    return folder


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    folder = small_repo(tmp_path_factory.mktemp("walk"))
    audit = tmp_path_factory.mktemp("audit")
    command(folder, audit, "dvc", "repro")
    return folder, audit


def plan_of(folder, stage):
    name, _, key = stage.partition("@")
    path = Path("data/plan", name, f"{key}.json") if key else Path("data/plan", f"{name}.json")
    return path.as_posix(), json.loads((folder / path).read_text())


def within(path, declared):
    return any(path == item or path.startswith(item + "/") for item in declared)


def becomes(path, outs):
    """The draft beside an out that becomes it, or the folder it stands in, which is synced to disk after the rename."""
    return any(
        path == Path(out).parent.as_posix() or path.startswith(str(Path(out).parent / f".{Path(out).name}."))
        for out in outs
    )


def test_stages_read_and_write_what_they_declare(walked):
    folder, audit = walked
    checked = set()
    for file in audit.iterdir():
        stage = file.name.rsplit(".", 1)[0]
        if stage == "plan":
            continue
        plan_file, plan = plan_of(folder, stage)
        declared = [plan_file, *plan["deps"], *plan["outs"]]
        for line in file.read_text().splitlines():
            what, path = line.split(" ", 1)
            if what == "load":
                assert path in plan["code"] or path == "stages/pipeline/tracking.py", f"{stage} loads {path}"
            elif path.split("/")[0] in ("data", "models", "reports"):
                assert within(path, declared) or becomes(path, plan["outs"]), f"{stage} opens {path}"
        checked.add(stage.split("@")[0])
    graph = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    assert checked == set(graph) - {"plan"}


def test_nothing_is_left_to_do(walked):
    folder, audit = walked
    assert json.loads(command(folder, audit, "dvc", "status", "--json").splitlines()[0]) == {}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_metrics_that_people_read_are_there(walked, name):
    folder, _ = walked
    metrics = json.loads((folder / f"reports/experiments/{name}/metrics.json").read_text())
    missing = [key for key in METRICS if key not in metrics and f"{key}_failures" not in metrics]
    assert missing == []
    assert metrics["si_sdr_db_num"] == 4
    assert 1 < metrics["bitrate_kbps"] < 7
    speed = json.loads((folder / f"reports/speed/{name}.json").read_text())
    assert speed["encode_rtf"] > 0 and speed["decode_rtf"] > 0


def test_baselines_carry_the_same_metrics(walked):
    folder, _ = walked
    baselines = json.loads((folder / "reports/baselines/metrics.json").read_text())
    opus = [name for name in baselines if name.startswith("opus")]
    assert len(opus) >= 4
    assert all("bitrate_kbps" in baselines[name] and "si_sdr_db" in baselines[name] for name in opus)


def test_the_leaderboard_names_every_experiment(walked):
    folder, _ = walked
    assert set(json.loads((folder / "reports/leaderboard.json").read_text())) >= set(EXPERIMENTS)
    assert (folder / "reports/index.html").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.timeout(1800)  # on a busy machine
@pytest.mark.parametrize("how", ["one stage at a time", "two at a time", "units on a Dask cluster"])
def test_fresh_runs_give_the_same_bytes(how, walked, tmp_path, monkeypatch):
    """Every hashed out but the clocks of `speed`, and what contains them."""
    first, _ = walked
    again = small_repo(tmp_path)
    if how == "one stage at a time":
        command(again, tmp_path, "dvc", "repro")
    elif how == "two at a time":
        command(again, tmp_path, sys.executable, "-m", "stages.pipeline.parallel", "--jobs", "2")
    else:
        with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
            monkeypatch.setenv("PARTITA_WORKERS", cluster.scheduler_address)
            command(again, tmp_path, "dvc", "repro")
            assert cluster.scheduler.transition_counter > 50, "it was lent work"
    locks = [YAML(typ="safe").load(folder / "dvc.lock")["stages"] for folder in (first, again)]
    outs = [
        {name: entry.get("outs") for name, entry in lock.items() if name.split("@")[0] not in ("speed", "report")}
        for lock in locks
    ]
    assert outs[0] == outs[1]
