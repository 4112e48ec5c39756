"""dvc.yaml as a drawing: which stage reads what which other stage writes, in layers from source to result.

Longest path layering (each stage as late as its readers allow), edges that a longer path implies left out, crossings
reduced by sweeps of the mean of the neighbours' places. Sugiyama, Tagawa, Toda, "Methods for Visual Understanding of
Hierarchical System Structures", IEEE Trans. SMC 11(2), 1981, https://doi.org/10.1109/TSMC.1981.4308636.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NUM_SWEEPS = 12
Place = tuple[str, ...]
"""A stage (its name alone), or where an edge crosses a layer (from, to, layer)."""


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml, its foreach folded."""

    name: str
    desc: str
    keys: tuple[str, ...]
    """Names of its instances; empty: there is one, without a name."""
    after: tuple[str, ...]
    """Stages whose outs it reads."""


@dataclass(frozen=True)
class Node:
    """A stage at its place: `along` counts layers, `across` places within one, in units of their pitch."""

    stage: Stage
    along: float
    across: float


@dataclass(frozen=True)
class Drawing:
    nodes: tuple[Node, ...]
    edges: tuple[tuple[tuple[float, float], ...], ...]
    """Each the (along, across) of its stages, and of the crossings between them."""
    num_layers: int
    breadth: float
    """Largest `across`; the smallest is 0."""


def stages(graph: Mapping[str, Any], tree: Mapping[str, Any], without: str = "plan") -> tuple[Stage, ...]:
    """The stages of a dvc.yaml with its parameters `tree`, in its order; `without` is the one that all depend on.

    A stage whose members wait for each other is drawn once.
    """
    names = [name for name in graph if name != without]
    keys = {name: tuple(_keys(graph[name], tree)) for name in names}
    reads = {name: list(_paths(graph[name], tree, ("deps",))) for name in names}
    writes = {name: list(_paths(graph[name], tree, ("outs", "metrics"))) for name in names}
    return tuple(
        Stage(
            name,
            str(graph[name].get("do", graph[name]).get("desc", "")),
            keys[name],
            tuple(
                other
                for other in names
                if other != name and any(_overlap(a, b) for a in reads[name] for b in writes[other])
            ),
        )
        for name in names
    )


def _keys(entry: Mapping[str, Any], tree: Mapping[str, Any]) -> Iterator[str]:
    if "foreach" in entry:
        yield from map(str, _lookup(tree, entry["foreach"].strip("${}")) or {})


def _paths(entry: Mapping[str, Any], tree: Mapping[str, Any], parts: tuple[str, ...]) -> Iterator[str]:
    """Every path of every instance, with ${...} filled in."""
    items = _lookup(tree, entry["foreach"].strip("${}")) if "foreach" in entry else {None: {}}
    for key, item in (items or {}).items():
        known = {**tree, "key": key, "item": item}
        for part in parts:
            for path in entry.get("do", entry).get(part, []):
                text = path if isinstance(path, str) else next(iter(path))
                yield re.sub(r"\$\{([\w.]+)\}", lambda match, known=known: str(_lookup(known, match[1])), text)


def _lookup(tree: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def _overlap(a: str, b: str) -> bool:
    """One path is the other, or holds it."""
    return a == b or a.startswith(b + "/") or b.startswith(a + "/")


def draw(found: Sequence[Stage]) -> Drawing:
    """Places for stages that have no cycle."""
    edges = _reduced(found)
    layer = _layers([stage.name for stage in found], edges)
    chains = [_chain(a, b, layer) for a, b in edges]
    order = _order([(stage.name,) for stage in found], chains, layer)
    across = _spread(order, chains)
    along = {place: float(number) for number, places in enumerate(order) for place in places}
    return Drawing(
        tuple(Node(stage, along[stage.name,], across[stage.name,]) for stage in found),
        tuple(tuple((along[place], across[place]) for place in chain) for chain in chains),
        len(order),
        max(across.values(), default=0.0),
    )


def _reduced(found: Sequence[Stage]) -> list[tuple[str, str]]:
    """Edges that no longer path implies."""
    after = {stage.name: set(stage.after) for stage in found}

    def ancestors(name: str) -> set[str]:
        return after[name].union(*(ancestors(other) for other in after[name]))

    return [
        (other, stage.name)
        for stage in found
        for other in stage.after
        if not any(other in ancestors(third) for third in after[stage.name])
    ]


def _layers(names: list[str], edges: list[tuple[str, str]]) -> dict[str, int]:
    """The longest way to the end decides: each stage stands just before the first that reads it."""

    def height(name: str) -> int:
        return max((height(b) + 1 for a, b in edges if a == name), default=0)

    heights = {name: height(name) for name in names}
    return {name: max(heights.values()) - value for name, value in heights.items()}


def _chain(a: str, b: str, layer: Mapping[str, int]) -> list[Place]:
    return [(a,), *((a, b, str(number)) for number in range(layer[a] + 1, layer[b])), (b,)]


def _order(names: list[Place], chains: list[list[Place]], layer: Mapping[str, int]) -> list[list[Place]]:
    """Places of each layer from first to last, sorted by the mean place of their neighbours, forth and back."""
    places = names + [place for chain in chains for place in chain[1:-1]]
    number = {place: layer[place[0]] if len(place) == 1 else int(place[2]) for place in places}
    order = [[place for place in places if number[place] == n] for n in range(max(layer.values(), default=-1) + 1)]
    for sweep in range(NUM_SWEEPS):
        step = 1 if sweep % 2 == 0 else -1
        for n in range(len(order))[::step][1:]:
            rank = {place: index for index, place in enumerate(order[n - step])}
            near = _neighbours(chains, -step)
            keys = {
                place: _mean([float(rank[other]) for other in near.get(place, [])], float(index))
                for index, place in enumerate(order[n])
            }
            order[n].sort(key=keys.__getitem__)
    return order


def _spread(order: list[list[Place]], chains: list[list[Place]]) -> dict[Place, float]:
    """Coordinates within the layers: near their neighbours, in order, at least 1 apart, on halves."""
    across = {place: float(index) for places in order for index, place in enumerate(places)}
    near: dict[Place, list[Place]] = {}
    for step in (1, -1):
        for place, others in _neighbours(chains, step).items():
            near.setdefault(place, []).extend(others)
    for chain in chains:  # the crossings of a long edge wish to be in line
        for place in chain[1:-1]:
            near[place] = chain[1:-1] if len(chain) > 3 else near[place]
    for _ in range(4 * NUM_SWEEPS):
        for places in order:
            wish = [_mean([across[other] for other in near.get(place, [])], across[place]) for place in places]
            found: list[float] = []
            for value in wish:
                found.append(max(value, found[-1] + 1) if found else value)
            shift = _mean([a - b for a, b in zip(wish, found, strict=True)], 0.0)
            across |= {place: value + shift for place, value in zip(places, found, strict=True)}
    least = min(across.values(), default=0.0)
    return {place: math.floor(2 * (value - least) + 0.5) / 2 for place, value in across.items()}


def _neighbours(chains: list[list[Place]], step: int) -> dict[Place, list[Place]]:
    """Who stands next along the edges: after a place (step 1) or before it (-1)."""
    near: dict[Place, list[Place]] = {}
    for chain in chains:
        for a, b in zip(chain, chain[1:], strict=False):
            key, other = (a, b) if step == 1 else (b, a)
            near.setdefault(key, []).append(other)
    return near


def _mean(values: list[float], default: float) -> float:
    return sum(values) / len(values) if values else default
