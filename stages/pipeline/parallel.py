"""Run the pipeline with several stages at once: `python -m stages.pipeline.parallel --jobs 2`, which `make repro` does.

    plan      first: a mistake in params.yaml stops everything there
    shared    what experiments depend on and none owns: chains that do not need each other (download ... cache; the
              classifier), several at once
    branches  the stages of one experiment, in order; and what no experiment depends on (baseline): several at once
    joins     what depends on experiments (report, publish): at the end, with whatever else is not up to date

DVC runs one stage at a time, but its lock is free while a command runs: `dvc --wait-for-lock repro --single-item` in
several processes makes the same dvc.lock. A branch that fails is named; the others still end, so nothing is lost.
With GPUs each job at work has one to itself, or as many as its training has processes (CUDA_VISIBLE_DEVICES).
"""

import argparse
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import networkx
from ruamel.yaml import YAML

from stages.pipeline import artifacts, gpus, stage, workers

DVC = (sys.executable, "-m", "dvc", "--wait-for-lock", "repro")
EACH = "${experiments}"
PLAN = "plan"


@dataclass(frozen=True)
class Schedule:
    """Chains of names of stages; each is run in its order, those of a field at once."""

    shared: tuple[tuple[str, ...], ...]
    branches: tuple[tuple[str, ...], ...]


def schedule(needs: networkx.DiGraph, per_experiment: Iterable[str]) -> Schedule:
    """From edges (stage, what it needs) and the names that experiments repeat, such as train for train@a.

    `plan` counts as done. Longer shared chains come first; experiments come in the order of their names, and before the
    branches that belong to none.
    """
    needs = needs.subgraph(set(needs) - {PLAN})
    repeated = set(per_experiment)
    owned = {name: name.partition("@")[2] for name in needs if name.partition("@")[0] in repeated}
    before = set().union(*(networkx.descendants(needs, name) for name in owned)) - set(owned)
    after = set().union(*(networkx.ancestors(needs, name) for name in owned)) - set(owned)
    order = list(networkx.lexicographical_topological_sort(needs.reverse()))
    mine = [tuple(name for name in order if owned.get(name) == key) for key in sorted(set(owned.values()))]
    aside = [(name,) for name in order if name not in owned.keys() | before | after]
    parts = networkx.weakly_connected_components(needs.subgraph(before))
    shared = [tuple(name for name in order if name in part) for part in parts]
    return Schedule(tuple(sorted(shared, key=lambda chain: (-len(chain), chain))), (*mine, *aside))


def needs_of(root: Path) -> networkx.DiGraph:
    """The graph of dvc.yaml's stages as DVC resolves it: an edge from each stage to each one it needs.

    Those of this folder alone: a pipeline in a folder below (study/) is another's to run.
    """
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        own = [stage for stage in repo.index.graph if Path(stage.path).parent == root.resolve()]
        return networkx.relabel_nodes(repo.index.graph.subgraph(own), {stage: stage.addressing for stage in own})


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
    branches: Sequence[Sequence[str]],
    num_jobs: int,
    names: Sequence[str],
    needed: Callable[[Sequence[str]], int] = lambda branch: 1,
) -> list[str]:
    """Run the branches, at most `num_jobs` at once, each with the GPUs it needs; the names of those that failed."""
    leases = Leases(names)

    def one(branch: Sequence[str]) -> bool:
        with leases.some(needed(branch)) as device:
            return subprocess.run([*DVC, "--single-item", *branch], env=os.environ | device).returncode == 0

    with ThreadPoolExecutor(min(num_jobs, len(names) or num_jobs)) as pool:
        done = list(pool.map(one, branches))
    return [" ".join(branch) for branch, good in zip(branches, done, strict=True) if not good]


def processes_of(branch: Sequence[str]) -> int:
    """How many processes the training among these stages starts, by its plan; 1 where there is none."""
    found = [1]
    for name, _, key in (address.partition("@") for address in branch):
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
        if code := subprocess.run([*DVC, PLAN]).returncode:
            sys.exit(code)
        order = schedule(needs_of(Path.cwd()), repeated_of(Path("dvc.yaml")))
        failed = run(order.shared, num_jobs, gpus.visible())
        failed = failed or run(order.branches, num_jobs, gpus.visible(), processes_of)
    if failed:
        sys.exit("these did not end well, see above; the others are kept: " + "; ".join(failed))
    sys.exit(subprocess.run(DVC).returncode)


if __name__ == "__main__":
    main()
