"""Start a model from another experiment's: take over the largest part that both have.

    autoencoder -> improved_mean_flow    its codec; kept (encoder: frozen, flow_start: 0), both write the same codes
    flow_matching -> mean_flow           codec and flow: jumps are learnt from velocities

Standardising comes along with the weights that are used to it, so the same part may go on with another corpus.
"""

from typing import Any

from stages.pipeline import plugins
from stages.pipeline.params import SCRATCH, Experiment, Params, near
from stages.protocols.model import GenerativeModel
from stages.training import family_config
from stages.training.model_folder import Loaded


def checked(params: Params, key: str, experiment: Experiment, model: Any) -> list[tuple[str, str]] | None:
    """The plugins that the experiment `key`, of the Config `model`, loads to start.

    None where it cannot start so; `params` hears why. Rings of experiments are DVC's to refuse.
    """
    name, found, loads = experiment.start_from, [], []
    family = plugins.load("families", experiment.family)
    names = set(params.mapping("experiments")) - {key}
    if name == SCRATCH:
        found += family.missing(model)
    elif name not in names:
        found.append(f"expected {SCRATCH} or another experiment{near(name, names)}")
    else:
        other = params.experiment(name)
        others = other and family_config.of(params, name, other)
        if other is None or others is None:
            return None
        found += problems(family, model, plugins.load("families", other.family), others)
        if made(params, experiment) != made(params, other):
            found.append(f"{other.representation} differs from {experiment.representation} in more than the corpus")
        loads.append(("families", other.family))
    if key == SCRATCH:
        found.append("an experiment of this name cannot be told from a start from nothing, choose another")
    for problem in found:
        params.problem(f"experiments.{key}.start_from = {name}: {problem}")
    return None if found else loads


def made(params: Params, experiment: Experiment) -> dict[str, Any]:
    """How the experiment's representation makes codes, wherever the clips come from and the shards go."""
    block = params.mapping(f"representations.{experiment.representation}")
    return {name: value for name, value in block.items() if name not in ("corpus", "clips", "num_shards")}


def problems(family: type[GenerativeModel], config: Any, other: type[GenerativeModel], others: Any) -> list[str]:
    """Why a model of this family and Config cannot take over from that one; nothing where it can."""
    own, found = family.parts(config), other.parts(others)
    part = next((name for name in own if name in found), None)
    if part is None:
        return [f"{family.__name__} has no part in common with {other.__name__}"]
    mine, its = own[part], found[part]
    return [
        f"model.{name} = {mine.get(name)!r}, and {its.get(name)!r} in the {part} it would take over"
        for name in dict.fromkeys([*mine, *its])
        if mine.get(name) != its.get(name)
    ]


def take_over(model: GenerativeModel, loaded: Loaded) -> str:
    """Fill the part of `model` that both have, in place; returns its name. `checked` must have found no problem."""
    own, found = model.parts(model.config), loaded.model.parts(loaded.model.config)
    part = next(name for name in own if name in found)
    getattr(model, part).load_state_dict(getattr(loaded.model, part).state_dict())
    return part
