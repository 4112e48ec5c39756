"""The firewall: read params.yaml and the code, and write for every stage instance exactly what it depends on.

data/plan/<stage>/<key>.json holds the config, the paths of dvc.yaml, a hash per code file in the static import closure,
and the versions of the libraries used. Every other stage depends on its own file alone, so a comment reruns plan and
nothing else, and an edit reruns exactly the stages that run it. Everything is validated here, before any work starts.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.pipeline import artifacts, code, params, plugins, schema
from stages.pipeline.stage import PLAN, Needs, entry_digest, path_of, running

NAME = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True)
class Instance:
    """One stage of dvc.yaml, or one member of a foreach."""

    stage: str
    key: str | None
    deps: tuple[str, ...]
    outs: tuple[str, ...]


def main() -> None:
    if sys.argv[1:] == ["--schema"]:
        sys.stdout.buffer.write(artifacts.to_json(schema.build(read(Path("."))[0].readers)))
        return
    try:
        plans = make(Path("."))
    except ValueError as problem:
        sys.exit(str(problem))
    with running("plan", None), artifacts.new_folder(PLAN) as draft:
        for path, plan in plans.items():
            artifacts.write_json(draft / path.relative_to(PLAN), plan)


def make(root: Path) -> dict[Path, Any]:
    """Every plan file's content by path. ValueError names everything that is wrong at once."""
    tree, found = read(root)
    tree.finish()
    return {path_of(i.stage, i.key): contents(root, i, need) for i, need in found.items() if need is not None}


def read(root: Path) -> tuple[params.Params, dict[Instance, Needs | None]]:
    """Ask every stage what it needs; problems gather in the Params."""
    tree = params.read(root / "params.yaml")
    graph = YAML(typ="safe").load(root / "dvc.yaml")["stages"]
    return tree, {item: plugins.stage(item.stage).configure(tree, item.key) for item in instances(graph, tree)}


def instances(graph: Mapping[str, Any], tree: params.Params) -> Iterator[Instance]:
    """The stages of dvc.yaml with `foreach` unrolled and `${...}` filled in, plan itself left out."""
    for stage, entry in graph.items():
        if stage == "plan":
            continue
        if "foreach" not in entry:
            yield instance(stage, None, entry, tree, {})
            continue
        section = entry["foreach"].strip("${}")
        for key, item in tree.mapping(section).items():
            if not isinstance(key, str) or not NAME.fullmatch(key):
                tree.problem(
                    f"{section}.{key}: a name holds only a-z, 0-9 and _, since it becomes a file and a stage name"
                )
            elif not isinstance(item, Mapping):
                tree.problem(f"{section}.{key}: expected a mapping, found {item!r}")
            else:
                yield instance(stage, key, entry["do"], tree, item)


def instance(
    stage: str, key: str | None, entry: Mapping[str, Any], tree: params.Params, item: Mapping[str, Any]
) -> Instance:
    def fill(match: re.Match[str]) -> str:
        head, _, rest = match[1].partition(".")
        if head == "key":
            return str(key)
        value = item.get(rest) if head == "item" else tree.mapping(head).get(rest)
        if not isinstance(value, str) or not NAME.fullmatch(value):
            where = f"{head}.{rest}" if head != "item" else f"{key}.{rest}"
            tree.problem(f"{where} = {value!r}: expected the name of a block, which {stage} takes its input from")
        return str(value)

    def paths(entries: list[Any]) -> tuple[str, ...]:
        flat = [path if isinstance(path, str) else next(iter(path)) for path in entries]
        return tuple(re.sub(r"\$\{([\w.]+)\}", fill, path) for path in flat)

    deps = tuple(path for path in paths(entry["deps"]) if not path.startswith(f"{PLAN}/"))
    return Instance(stage, key, deps, paths(entry.get("outs", []) + entry.get("metrics", [])))


def contents(root: Path, item: Instance, need: Needs) -> dict[str, Any]:
    starts = [f"stages/{item.stage}.py", *(f"stages/{kind}/{name}.py" for kind, name in need.plugins)]
    files = code.closure(root, starts)
    return {
        "code": {path: code.fingerprint(root / path) for path in files},
        "config": params.plain(need.config),
        "deps": list(item.deps),
        "entry": entry_digest(root / "dvc.yaml", item.stage),
        "outs": list(item.outs),
        "versions": code.versions(root, files),
    }


if __name__ == "__main__":
    main()
