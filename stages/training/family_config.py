"""An experiment's block of params.yaml as its family's Config."""

import dataclasses
from typing import Any

from stages.pipeline import plugins
from stages.pipeline.params import Experiment, Params


def of(params: Params, key: str, experiment: Experiment) -> Any | None:
    """The family's Config from the shared section `model` and the experiment; its `network` is the experiment's."""
    where = f"experiments.{key}"
    try:
        family = plugins.load("families", experiment.family)
    except ValueError as problem:
        params.problem(f"{where}.family: {problem}")
        return None
    takes_network = "network" in {field.name for field in dataclasses.fields(family.Config)}
    if takes_network != (experiment.network is not None):
        verb = "runs on a network, name one of " + ", ".join(plugins.names("networks"))
        params.problem(f"{where}.network: {experiment.family} {verb if takes_network else 'takes none, remove it'}")
        return None
    if experiment.network is not None and experiment.network not in plugins.names("networks"):
        names = ", ".join(plugins.names("networks"))
        params.problem(f"{where}.network = {experiment.network!r}: there is no such network; there are {names}")
        return None
    overrides = dict(experiment.model) | ({"network": experiment.network} if takes_network else {})
    return params.shared("model", family.Config, overrides, where=f"{where}.model")
