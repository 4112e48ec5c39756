"""Several stages at once: the schedule follows the graph, and dvc.lock is a serial run's."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import networkx
import pytest
from ruamel.yaml import YAML

from stages.pipeline import artifacts, gpus, parallel

ROOT = Path(__file__).parents[2]
PARAMS = """
corpora: {music: 1}
experiments: {one: 1, two: 2, three: 3}
"""
DVC_YAML = """
stages:
  download:
    foreach: ${corpora}
    do: {cmd: "echo ${key} > raw", outs: [raw]}
  baseline: {cmd: "cp raw aside", deps: [raw], outs: [aside]}
  train:
    foreach: ${experiments}
    do: {cmd: "%s", deps: [raw], outs: ["model_${key}"]}
  sample:
    foreach: ${experiments}
    do: {cmd: "cp model_${key} sample_${key}", deps: ["model_${key}"], outs: ["sample_${key}"]}
  report: {cmd: "cat sample_* aside > page", deps: [sample_one, sample_two, sample_three, aside], outs: [page]}
"""
TRAIN = "sleep 0.3 && echo ${item} > model_${key}"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A pipeline of the same form, whose stages are shell commands."""
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    dvc(tmp_path, "init", "-q")
    dvc(tmp_path, "config", "core.analytics", "false")
    (tmp_path / "params.yaml").write_text(PARAMS)
    (tmp_path / "dvc.yaml").write_text(DVC_YAML % TRAIN)
    return tmp_path


def dvc(folder: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, check=True, capture_output=True)


def locked(folder: Path) -> object:
    return YAML(typ="safe").load(folder / "dvc.lock")


def chained(chains: Sequence[Sequence[str]]) -> networkx.DiGraph:
    """Chains that do not need each other."""
    found = networkx.DiGraph()
    found.add_nodes_from(tuple(chain) for chain in chains)
    return found


def test_chains_follow_the_graph_and_joins_are_left_for_the_end() -> None:
    edges = [("render", "plan"), ("train@a", "render"), ("train@b", "render"), ("sample@a", "train@a")]
    edges += [("sample@b", "train@b"), ("evaluate@a", "sample@a"), ("evaluate@a", "judge"), ("evaluate@b", "sample@b")]
    edges += [("judge", "plan"), ("baseline", "judge"), ("report", "evaluate@a"), ("report", "baseline")]
    edges += [("render", "download"), ("download", "plan"), ("train@b", "train@a")]
    found = parallel.chains(networkx.DiGraph(edges), ["train", "sample", "evaluate"])
    start, judge, first = ("download", "render"), ("judge",), ("train@a",)
    rest, second = ("sample@a", "evaluate@a"), ("train@b", "sample@b", "evaluate@b")
    assert set(found.edges) == {
        (first, start), (rest, first), (rest, judge), (second, first), (second, start), (("baseline",), judge)
    }  # fmt: skip


def test_this_pipelines_flow_waits_for_its_codec_alone() -> None:
    found = parallel.chains(parallel.needs_of(ROOT), parallel.repeated_of(ROOT / "dvc.yaml"))
    shared = ("download@music", "render@music", "split@music", "cache@mdct")
    assert {shared, ("classifier@audio",), ("baseline",), ("train@autoencoder_mdct",)} < set(found)
    (flow,) = (chain for chain in found if chain[0] == "train@improved_mean_flow_mdct")
    assert len(flow) == 5
    assert set(found.successors(flow)) == {shared, ("classifier@audio",), ("train@autoencoder_mdct",)}


def test_what_the_end_waits_longest_for_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "job.py"
    script.write_text("import sys; open('order', 'a').write(sys.argv[-1] + ' ')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parallel, "DVC", (sys.executable, os.fspath(script)))
    needs = chained(["a", "b", "c", "de", "f"])
    needs.add_edges_from([(("f",), ("b",)), (("d", "e"), ("c",)), (("a",), ("b",))])
    assert parallel.run(needs, 1, []) == []
    assert (tmp_path / "order").read_text().split() == ["c", "b", "e", "a", "f"], "c has three stages to go, b two"


def test_what_the_end_does_not_wait_for_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "job.py"
    script.write_text("import os, sys, time; open(sys.argv[-1], 'w').write(str(os.nice(0))); time.sleep(0.5)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parallel, "DVC", (sys.executable, os.fspath(script)))
    needs = chained(["a", "b", "cd"])
    needs.add_edge(("c", "d"), ("b",))
    assert parallel.run(needs, 2, []) == []
    told = {name: int((tmp_path / name).read_text()) - os.nice(0) for name in "abd"}
    assert told == {"a": 10, "b": 0, "d": 0}


def test_side_by_side_and_one_by_one_make_the_same_lock(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serial = project.parent / "serial"
    shutil.copytree(project, serial)
    dvc(serial, "repro")
    monkeypatch.chdir(project)
    needs, repeated = parallel.needs_of(project), parallel.repeated_of(project / "dvc.yaml")
    chains = parallel.chains(needs, repeated)
    assert {len(list(chains.successors(chain))) for chain in chains} == {0, 1} and len(chains) == 5
    assert parallel.run(chains, 4, []) == []
    dvc(project, "repro")
    assert locked(project) == locked(serial)
    assert (project / "page").read_bytes() == (serial / "page").read_bytes()


def test_what_has_not_changed_is_not_begun(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dvc(project, "repro")
    monkeypatch.chdir(project)
    needs = parallel.needs_of(project)
    assert parallel.changed_of(sorted(needs)) == [] and parallel.left_of(needs, []) == set()
    (project / "params.yaml").write_text(PARAMS.replace("two: 2", "two: 5"))
    (project / "aside").unlink()
    assert sorted(changed := parallel.changed_of(sorted(needs))) == ["baseline", "report", "train@two"]
    assert parallel.left_of(needs, changed) == {"baseline", "train@two", "sample@two", "report"}


def test_a_chain_that_fails_is_named_and_what_does_not_need_it_is_kept(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "dvc.yaml").write_text(DVC_YAML % ("test ${key} != two && " + TRAIN))
    monkeypatch.chdir(project)
    dvc(project, "repro", "download@music")
    chains = chained([("train@one", "sample@one"), ("train@two",), ("sample@two",), ("train@three", "sample@three")])
    chains.add_edge(("sample@two",), ("train@two",))
    assert parallel.run(chains, 3, []) == ["train@two"]
    assert (project / "sample_one").exists() and (project / "sample_three").exists()
    assert not (project / "sample_two").exists()


def test_each_job_has_a_gpu_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "job.py"
    script.write_text(
        "import os, pathlib, sys, time\n"
        "lease = pathlib.Path('gpu' + os.environ['CUDA_VISIBLE_DEVICES'])\n"
        "lease.mkdir()\n"  # raises where another job has it
        "time.sleep(0.2)\n"
        "lease.rmdir()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parallel, "DVC", (sys.executable, os.fspath(script)))
    assert parallel.run(chained([(f"train@{index}",) for index in range(6)]), 4, ["0", "1"]) == []


def test_a_training_of_two_processes_gets_two_gpus_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As its plan says; and all there are where it asks for more, so that the stage can refuse."""
    monkeypatch.chdir(tmp_path)
    for key, processes in (("a", 1), ("b", 2), ("c", 9)):
        plan = {"config": {"train": {"processes": processes}}}
        artifacts.write_json(tmp_path / f"data/plan/train/{key}.json", plan)
    script = tmp_path / "job.py"
    script.write_text(
        "import os, pathlib, sys\n"
        "gpus = os.environ['CUDA_VISIBLE_DEVICES'].split(',')\n"
        "for gpu in gpus: pathlib.Path('gpu' + gpu).mkdir()\n"  # raises where another job has it
        "pathlib.Path(sys.argv[-1]).write_text(str(len(gpus)))\n"
        "for gpu in gpus: pathlib.Path('gpu' + gpu).rmdir()\n"
    )
    monkeypatch.setattr(parallel, "DVC", (sys.executable, os.fspath(script)))
    chains = chained([(f"train@{key}", f"sample@{key}") for key in "abc"] + [("baseline",)])
    assert parallel.run(chains, 4, ["0", "1", "2"], parallel.processes_of) == []
    given = [(tmp_path / name).read_text() for name in ("sample@a", "sample@b", "sample@c", "baseline")]
    assert given == ["1", "2", "3", "1"]


@pytest.mark.parametrize(("listed", "found"), [("0,2", ["0", "2"]), ("", []), ("GPU-a", ["GPU-a"])])
def test_the_gpus_are_those_the_user_lists(listed: str, found: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert gpus.visible() == found
