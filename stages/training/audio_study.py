"""The audio study's cells: a family on a seed's codec, trained as long as every other, sampled in steps and warmths.

    codec      an autoencoder, study.codec_steps long, one per seed; every method starts from it (training/start.py)
    num_steps  of a method = train.num_steps / cost,   cost = its seconds per step / the autoencoder's

so that all methods train for the same time: train.num_steps counts the autoencoder's steps. What a method shares with
the others (bitrate, encoder, optimiser, corpus) stands in `model` and `train`; `methods` has what makes it itself.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.pipeline import plugins
from stages.pipeline.params import Params, parse, plain
from stages.training import start
from stages.training.config import TrainConfig
from stages.training.fitting import Task


@dataclass(frozen=True)
class Axes:
    """The section `study`; `matrix` in audio_study/dvc.yaml multiplies the first two."""

    families: tuple[str, ...]
    """Files of stages/families, or blocks of `methods` that name one."""
    seeds: tuple[int, ...]
    representation: str
    network: str
    classifier: str
    codec_steps: int
    """How long the codec trains that all start from."""
    num_steps: tuple[int, ...]
    """Of flows, each at the temperature that validation chose."""
    sweep_steps: tuple[int, ...]
    """Those that are sampled at every temperature, too."""
    temperatures: tuple[float, ...]
    num_draws: int = 8
    """Samples of one clip at temperature 1, whose mean is compared with one of them."""
    num_draw_clips: int = 4
    """Clips that are drawn so often."""
    num_played: int = 2
    """Clips on the page."""

    def __post_init__(self) -> None:
        found = []
        if self.codec_steps < 1:
            found.append(f"codec_steps = {self.codec_steps}: expected at least 1")
        if min((*self.num_steps, *self.sweep_steps), default=0) < 1:
            found.append(f"num_steps = {self.num_steps}, sweep_steps = {self.sweep_steps}: expected at least 1")
        if len(self.temperatures) < 2 or min(self.temperatures, default=-1.0) < 0:
            found.append(f"temperatures = {self.temperatures}: expected at least two, none below 0")
        if list(self.temperatures) != sorted(set(self.temperatures)):
            found.append(f"temperatures = {self.temperatures}: expected rising ones, each once")
        if 1.0 not in self.temperatures:
            found.append(f"temperatures = {self.temperatures}: expected 1.0 among them, where spread is measured")
        if self.num_draws < 2 or self.num_draw_clips < 1 or self.num_played < 0:
            found.append(f"{self}: expected num_draws at least 2, num_draw_clips at least 1, num_played at least 0")
        if found:
            raise ValueError("\n".join(found))

    @property
    def cells(self) -> tuple[str, ...]:
        """Their keys, in the order of the matrix."""
        return tuple(f"{family}-{seed}" for family in self.families for seed in self.seeds)


@dataclass(frozen=True)
class Method:
    """A block of `methods`: what a method overrides of the shared sections."""

    family: str | None = None
    """The file in stages/families; None: that of the block's name."""
    cost: float = 1.0
    """CPU seconds per training step, in units of the autoencoder's."""
    model: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.cost > 0:
            raise ValueError(f"cost = {self.cost}: expected more than 0")
        if fixed := sorted({"num_steps", "seed"} & set(self.train)):
            raise ValueError(f"train.{fixed[0]}: the study sets it, by train.num_steps / cost and by study.seeds")


@dataclass(frozen=True)
class Sampler:
    """One way to sample a trained model."""

    num_steps: int
    temperature: float | None
    """None: what validation chose, or there is none to choose."""
    sampling: Mapping[str, Any]
    """The family's Sampling."""

    @property
    def name(self) -> str:
        return f"{self.num_steps}-{'chosen' if self.temperature is None else f'{self.temperature:g}'}"


@dataclass(frozen=True)
class Codec:
    """What a seed starts from."""

    task: Task
    plugins: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Cell:
    """What a key stands for."""

    method: str
    seed: int
    task: Task
    samplers: tuple[Sampler, ...]
    draws: tuple[Sampler, ...]
    """Those whose samples' spread is measured."""
    plugins: tuple[tuple[str, str], ...]


CODEC = "autoencoder"
"""The method whose family, model and training are the codec's."""


def codec_name(folder: Path) -> str:
    """What the model in a codec's folder is called, which is named by its seed."""
    return f"codec_{folder.name}"


def codec(params: Params, seed: str) -> Codec | None:
    """For `configure`; None after problems."""
    axes, method = params.block("study", Axes), method_of(params, CODEC)
    if axes is None or method is None:
        return None
    family = method.family or CODEC
    module = str(params.mapping(f"representations.{axes.representation}").get("module"))
    loads = (("families", family), ("networks", axes.network), ("representations", module))
    model = model_of(params, axes, CODEC, method)
    train = trained(params, method, axes.codec_steps, int(seed), f"methods.{CODEC}")
    if train is None or model is None:
        return None
    return Codec(Task(module, family, plain(model), train), loads)


def cell(params: Params, key: str | None) -> Cell | None:
    """For `configure`; None after problems."""
    name, _, seed = str(key).rpartition("-")
    axes, method, first = params.block("study", Axes), method_of(params, name), codec(params, seed)
    if axes is None or method is None or first is None:
        return None
    family, num_steps = method.family or name, params.mapping("train").get("num_steps")
    model = model_of(params, axes, name, method)
    if not isinstance(num_steps, int) or isinstance(num_steps, bool):
        return params.problem(f"train.num_steps = {num_steps!r}: expected int")
    train = trained(params, method, round(num_steps / method.cost), int(seed), f"methods.{name}")
    if train is None or model is None:
        return None
    kind, its = plugins.load("families", family), plugins.load("families", first.task.family)
    for problem in start.problems(kind, model, its, parse(its.Config, first.task.model, where="model")):
        params.problem(f"methods.{name}: {problem}")
    loads = dict.fromkeys([("families", family), *first.plugins])
    task = Task(first.task.representation, family, plain(model), train)
    return Cell(name, int(seed), task, *samplers_of(axes, kind), tuple(loads))


def method_of(params: Params, name: str) -> Method | None:
    return params.block(f"methods.{name}", Method) if name in params.mapping("methods") else Method()


def model_of(params: Params, axes: Axes, name: str, method: Method) -> Any | None:
    """The Config of a method's family on the study's network."""
    loads = (("families", method.family or name), ("networks", axes.network))
    module = str(params.mapping(f"representations.{axes.representation}").get("module"))
    try:
        kind, *_ = [plugins.load(*one) for one in (*loads, ("representations", module))]
    except ValueError as problem:
        return params.problem(f"study: {problem}")
    own = {**method.model, "network": axes.network}
    return params.shared("model", kind.Config, own, where=f"methods.{name}.model")


def trained(params: Params, method: Method, num_steps: int, seed: int, where: str) -> TrainConfig | None:
    """The section `train`, for so many steps."""
    own = {**method.train, "seed": seed, "num_steps": num_steps}
    found = params.shared("train", TrainConfig, own, where=f"{where}.train")
    if found is not None and found.processes != 1:
        told = "a cell trains in one; several cells run side by side"
        return params.problem(f"{where}.train.processes = {found.processes}: {told}")
    return found


def samplers_of(axes: Axes, kind: Any) -> tuple[tuple[Sampler, ...], tuple[Sampler, ...]]:
    """Every sampler of a family, and those whose samples differ: what its Sampling can be told decides."""
    fields = {one.name: one for one in dataclasses.fields(kind.Sampling)}
    warm = "temperature" in fields
    chooses = not warm or fields["temperature"].default is None

    def sampler(num: int, temperature: float | None) -> Sampler:
        told = {"num_steps": num, "temperature": temperature}
        kept = {name: value for name, value in told.items() if name in fields and value is not None}
        return Sampler(num, temperature, plain(kind.Sampling(**kept)))

    steps = axes.num_steps if "num_steps" in fields else (1,)
    swept = axes.sweep_steps if "num_steps" in fields else (1,)
    found = [sampler(num, None) for num in steps] if chooses else []
    found += [sampler(num, temperature) for num in swept for temperature in axes.temperatures] if warm else []
    return tuple(found), tuple(sampler(num, 1.0) for num in swept) if warm else ()
