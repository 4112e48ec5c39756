"""What train makes of params.yaml: one experiment resolved, or every problem with its place and a remedy."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages import train
from stages.pipeline import params, plugins
from stages.pipeline.params import Params

EXPERIMENTS = list(YAML(typ="safe").load(Path(__file__).resolve().parents[2] / "params.yaml")["experiments"])


def tree(**changes):
    """Shared sections and one experiment, some keys changed."""
    experiment = {"representation": "mdct", "family": "autoencoder", "network": "convnext", "classifier": "audio"}
    experiment["start_from"] = "scratch"
    return {
        "model": {"latent_dim": 64, "width": 192, "depth": 3, "dropout": 0.0},
        "train": {"num_steps": 9, "batch_size": 4, "learning_rate": 1e-3, "num_threads": 1, "seed": 0},
        "representations": {"mdct": {"module": "mdct"}},
        "experiments": {"own": experiment | changes},
    }


def told(values, key="own"):
    found = Params(values)
    assert train.configure(found, key) is None or found.problems
    return "\n".join(found.problems)


def test_an_experiment_is_resolved():
    values = tree(model={"width": 32}, train={"batch_size": 2})
    needs = train.configure(Params(values), "own")
    assert needs.plugins == (("families", "autoencoder"), ("representations", "mdct"), ("networks", "convnext"))
    config = needs.config
    assert (config.name, config.representation, config.family) == ("own", "mdct", "autoencoder")
    assert config.model["network"] == "convnext" and config.model["width"] == 32 and config.model["depth"] == 3
    assert config.train.batch_size == 2 and config.train.num_steps == 9
    assert params.parse(train.Config, params.plain(config), where="plan") == config, "the plan file says it all"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_shipped_experiment_is_resolved(name):
    found = params.read(Path(__file__).resolve().parents[2] / "params.yaml")
    needs = train.configure(found, name)
    assert not found.problems and needs is not None
    family = plugins.load("families", needs.config.family)
    assert params.parse(family.Config, needs.config.model, where="model")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"family": "autoencode"}, r"experiments\.own\.family: no families plugin 'autoencode'; did you mean 'autoenc"),
        (
            {"network": "convnex"},
            r"experiments\.own\.network = 'convnex': there is no such network; .*convnext",
        ),
        ({"network": None}, r"experiments\.own\.network: autoencoder runs on a network, name one of .*convnext"),
        ({"model": {"width": "wide"}}, r"experiments\.own\.model\.width = 'wide': expected int"),
        ({"train": {"seed": -1}}, r"seed = -1: expected at least 0"),
        ({"train": {"optimizer": "adam"}}, r"experiments\.own\.train\.optimizer = 'adam': .*did you mean 'adamw'"),
    ],
)
def test_a_mistake_is_told_with_its_place(changes, expected):
    assert re.search(expected, told(tree(**changes)))


def test_a_network_for_a_family_that_takes_none(monkeypatch):
    from tests import fakes

    monkeypatch.setattr(plugins, "load", fakes.load)
    assert "experiments.own.network: energy takes none, remove it" in told(tree(family="energy"))


def test_names_become_files():
    values = tree()
    values["experiments"]["Own-1"] = values["experiments"].pop("own")
    assert "experiments.Own-1: a name is made of [a-z0-9_]" in told(values, "Own-1")
