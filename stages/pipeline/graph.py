"""dvc.yaml as plan sees it: every stage instance with its paths, foreach and matrix unrolled, `${...}` filled in."""

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stages.pipeline.params import Params
from stages.pipeline.stage import PLAN

NAME = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True)
class Instance:
    """One stage of dvc.yaml, or one member of a foreach or a matrix."""

    stage: str
    key: str | None
    deps: tuple[str, ...]
    outs: tuple[str, ...]


def instances(graph: Mapping[str, Any], tree: Params) -> Iterator[Instance]:
    """The stages of dvc.yaml, plan itself left out; what is wrong with their names goes to `tree`."""
    for stage, entry in graph.items():
        if stage == "plan":
            continue
        if "foreach" in entry:
            yield from members(stage, entry, tree)
        elif "matrix" in entry:
            yield from cells(stage, entry, tree)
        else:
            yield instance(stage, None, entry, tree, {})


def members(stage: str, entry: Mapping[str, Any], tree: Params) -> Iterator[Instance]:
    """One per block of the section that `foreach` names."""
    section = entry["foreach"].strip("${}")
    for key, item in tree.mapping(section).items():
        if not isinstance(key, str) or not NAME.fullmatch(key):
            tree.problem(f"{section}.{key}: a name holds only a-z, 0-9 and _, since it becomes a file and a stage name")
        elif not isinstance(item, Mapping):
            tree.problem(f"{section}.{key}: expected a mapping, found {item!r}")
        else:
            yield instance(stage, key, entry["do"], tree, item)


def cells(stage: str, entry: Mapping[str, Any], tree: Params) -> Iterator[Instance]:
    """One per combination of the lists that `matrix` names; its key joins the values with `-`, as DVC's does."""
    lists: dict[str, list[Any]] = {}
    for axis, place in entry["matrix"].items():
        section, _, field = place.strip("${}").partition(".")
        values = tree.mapping(section).get(field)
        good = isinstance(values, list) and all(NAME.fullmatch(str(value)) for value in values)
        if not good or len(set(map(str, values))) < len(values):  # type: ignore[arg-type]
            tree.problem(
                f"{section}.{field} = {values!r}: expected a list of different names (a-z, 0-9 and _) or numbers"
            )
            return
        lists[axis] = values  # type: ignore[assignment]
    for values in itertools.product(*lists.values()):
        yield instance(stage, "-".join(map(str, values)), entry, tree, dict(zip(lists, map(str, values), strict=True)))


def instance(stage: str, key: str | None, entry: Mapping[str, Any], tree: Params, item: Mapping[str, Any]) -> Instance:
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
