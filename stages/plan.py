"""The firewall: read params.yaml and the code, and write for every stage instance exactly what it depends on.

data/plan/<stage>/<key>.json holds the config, the paths of dvc.yaml, a hash per code file in the static import closure,
and the versions of the libraries used. Every other stage depends on its own file alone, so a comment reruns plan and
nothing else, and an edit reruns exactly the stages that run it. Everything is validated here, before any work starts.
"""

import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.pipeline import artifacts, graph, params, plugins, schema
from stages.pipeline.code import Code
from stages.pipeline.graph import Instance
from stages.pipeline.stage import PLAN, Needs, entry_digest, path_of, running

CODE = plugins.STAGES.parent
"""Where the code is; a pipeline (dvc.yaml, params.yaml) may lie in a folder below, as the study does."""


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
    code, entry = Code(CODE), cache(partial(entry_digest, root / "dvc.yaml"))
    return {
        path_of(i.stage, i.key): contents(code, entry(i.stage), i, need)
        for i, need in found.items()
        if need is not None
    }


def read(root: Path) -> tuple[params.Params, dict[Instance, Needs | None]]:
    """Ask every stage what it needs; problems gather in the Params."""
    tree = params.read(root / "params.yaml")
    stages = YAML(typ="safe").load(root / "dvc.yaml")["stages"]
    found = graph.instances(stages, tree)
    return tree, {item: plugins.stage(item.stage).configure(tree, item.key) for item in found}


def contents(code: Code, entry: str, item: Instance, need: Needs) -> dict[str, Any]:
    files = code.closure([f"stages/{item.stage}.py", *(f"stages/{kind}/{name}.py" for kind, name in need.plugins)])
    return {
        "code": {path: code.fingerprint(path) for path in files},
        "config": params.plain(need.config),
        "deps": list(item.deps),
        "entry": entry,
        "outs": list(item.outs),
        "versions": code.versions(files),
    }


if __name__ == "__main__":
    main()
