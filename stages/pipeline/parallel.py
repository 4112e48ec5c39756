"""Run the pipeline with several stages at once: `python -m stages.pipeline.parallel --jobs 2`, which `make repro` does.

    plan      first: a mistake in params.yaml stops everything there
    chains    stages in order that one call of DVC runs: download ... cache; the classifier; those of one experiment;
              what no experiment depends on (baseline). Each begins once the chains it needs have ended; those in which
              nothing has changed are left out
    joins     what depends on experiments (report, publish): at the end, with whatever else is not up to date

DVC runs one stage at a time, but its lock is free while a command runs: `dvc --wait-for-lock repro --single-item` in
several processes makes the same dvc.lock. A chain that fails is named; those that do not need it still end, so nothing
is lost. With GPUs each job at work has one to itself, or as many as its training has processes (CUDA_VISIBLE_DEVICES).
"""

import argparse
import graphlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import networkx
from ruamel.yaml import YAML

import stages
from stages.pipeline import artifacts, gpus, stage, workers

DVC = (sys.executable, "-m", "stages.pipeline.child", "--wait-for-lock", "repro")
STATUS = (*DVC[:-1], "status", "--json")
CODE = str(Path(stages.__file__).parents[1])
"""Where DVC's process finds this code, wherever the pipeline lies."""
GIVING_WAY = ("nice", "-n", "10")
EACH = "${experiments}"
PLAN = "plan"


def chains(needs: networkx.DiGraph, per_experiment: Iterable[str]) -> networkx.DiGraph:
    """The chains, tuples of names of stages, each with an edge to every chain it needs.

    From edges (stage, what it needs) and the names that experiments repeat, such as train for train@a. `plan` counts as
    done, joins are left out. A chain ends where another one waits for its last stage.
    """
    needs = needs.subgraph(set(needs) - {PLAN})
    repeated = set(per_experiment)
    owner = {name: name.partition("@")[2] for name in needs if name.partition("@")[0] in repeated}
    before = set().union(*(networkx.descendants(needs, name) for name in owner)) - set(owner)
    after = set().union(*(networkx.ancestors(needs, name) for name in owner)) - set(owner)
    for part in networkx.weakly_connected_components(needs.subgraph(before)):
        owner |= dict.fromkeys(part, min(part))
    owner = {name: owner.get(name, name) for name in needs if name not in after}
    parts: dict[str, list[list[str]]] = {}
    for name in networkx.lexicographical_topological_sort(needs.subgraph(owner).reverse()):
        mine = parts.setdefault(owner[name], [[]])
        mine[-1].append(name)
        if any(owner.get(other, owner[name]) != owner[name] for other in needs.predecessors(name)):
            mine.append([])
    chain = {name: tuple(part) for mine in parts.values() for part in mine for name in part}
    found = networkx.DiGraph()
    found.add_nodes_from(chain.values())
    found.add_edges_from((chain[a], chain[b]) for a, b in needs.edges if a in chain and chain[a] != chain[b])
    return found


def needs_of(root: Path) -> networkx.DiGraph:
    """The graph of dvc.yaml's stages as DVC resolves it: an edge from each stage to each one it needs.

    Those of this folder alone: a pipeline in a folder below (study/) is another's to run.
    """
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        own = [stage for stage in repo.index.graph if Path(stage.path).parent == root.resolve()]
        return networkx.relabel_nodes(repo.index.graph.subgraph(own), {stage: stage.addressing for stage in own})


def left_of(needs: networkx.DiGraph, changed: Iterable[str]) -> set[str]:
    """The stages that are to be run: those that have changed, and whatever needs them."""
    return set().union(*({name} | networkx.ancestors(needs, name) for name in changed if name in needs))


def changed_of(names: Sequence[str]) -> list[str]:
    """Those of the stages of which `dvc status` has something to tell."""
    done = subprocess.run([*STATUS, *names], env=environment(), stdout=subprocess.PIPE, check=True)
    return list(json.loads(done.stdout))


def repeated_of(dvc_yaml: Path) -> list[str]:
    """The stages of dvc.yaml that stand once for every experiment, or for every cell of a study's matrix."""
    entries = YAML(typ="safe").load(dvc_yaml)["stages"]
    return [name for name, entry in entries.items() if entry.get("foreach") == EACH or "matrix" in entry]


class Leases:
    """Names of GPUs, handed out and taken back."""

    def __init__(self, names: Sequence[str]) -> None:
        self.all = list(names)
        self.free = list(names)
        self.changed = threading.Condition()

    @contextmanager
    def some(self, num: int) -> Iterator[dict[str, str]]:
        """The environment of a job with `num` of them, all at once, or with all where there are fewer; none of none."""
        num = min(num, len(self.all))
        with self.changed:
            self.changed.wait_for(lambda: len(self.free) >= num)
            taken = [self.free.pop(0) for _ in range(num)]
        try:
            yield {"CUDA_VISIBLE_DEVICES": ",".join(taken)} if taken else {}
        finally:
            with self.changed:
                self.free += taken
                self.changed.notify_all()


def run(
    todo: networkx.DiGraph,
    num_jobs: int,
    names: Sequence[str],
    needed: Callable[[Sequence[str]], int] = lambda chain: 1,
) -> list[str]:
    """Run chains, at most `num_jobs` at once, each with the GPUs it needs; the names of those that failed.

    Of the ready ones those come first from which the way to the end has most stages; one that begins beside a chain
    with more leaves it the processor (nice), since the end waits for that.
    """
    leases, ready, running, failed = Leases(names), [], {}, []
    to_end: dict[Sequence[str], int] = {}
    for chain in networkx.topological_sort(todo):  # those that wait come before those they wait for
        to_end[chain] = len(chain) + max((to_end[other] for other in todo.predecessors(chain)), default=0)

    def one(chain: Sequence[str], gives_way: bool) -> bool:
        words = [*(GIVING_WAY if gives_way else ()), *DVC, "--single-item", *chain]
        with leases.some(needed(chain)) as device:
            return call(words, device) == 0

    sorter = graphlib.TopologicalSorter({chain: list(todo.successors(chain)) for chain in todo})
    sorter.prepare()
    num_jobs = min(num_jobs, len(names) or num_jobs)
    with ThreadPoolExecutor(num_jobs) as pool:
        while sorter.is_active():
            ready = sorted([*ready, *sorter.get_ready()], key=lambda chain: (-to_end[chain], chain))
            while ready and len(running) < num_jobs:
                chain = ready.pop(0)
                gives_way = any(to_end[other] > to_end[chain] for other in running.values())
                running[pool.submit(one, chain, gives_way)] = chain
            if not running:  # the others need what failed
                break
            for job in wait(running, return_when=FIRST_COMPLETED).done:
                chain = running.pop(job)
                sorter.done(chain) if job.result() else failed.append(" ".join(chain))
    return failed


def call(words: Sequence[str], device: Mapping[str, str] | None = None) -> int:
    """Run a command of DVC; its exit code."""
    return subprocess.run(words, env=environment() | dict(device or {})).returncode


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, (CODE, os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path}


def processes_of(chain: Sequence[str]) -> int:
    """How many processes the training among these stages starts, by its plan; 1 where there is none."""
    found = [1]
    for name, _, key in (address.partition("@") for address in chain):
        if name == "train":
            found.append(artifacts.read_json(stage.path_of(name, key))["config"]["train"]["processes"])
    return max(found)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run every stage whose inputs changed, several at once.")
    parser.add_argument("--jobs", type=int, default=workers.num_cores(), help="stages at once (default: the cores)")
    num_jobs = parser.parse_args().jobs
    if num_jobs < 1:
        parser.error(f"--jobs {num_jobs}: expected at least 1")
    failed = []
    if num_jobs > 1:
        if code := call([*DVC, PLAN]):
            sys.exit(code)
        needs = needs_of(Path.cwd())
        left = left_of(needs, changed_of(sorted(needs)))
        todo = chains(needs, repeated_of(Path("dvc.yaml")))
        todo = todo.subgraph([chain for chain in todo if not left.isdisjoint(chain)])
        failed = run(todo, num_jobs, gpus.visible(), processes_of)
    if failed:
        sys.exit("these did not end well, see above; the others are kept: " + "; ".join(failed))
    sys.exit(call(DVC))


if __name__ == "__main__":
    main()
