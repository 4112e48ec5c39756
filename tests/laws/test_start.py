"""Starting from another experiment: what is taken over is the same, what fits is known before anything is trained."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from stages import train
from stages.pipeline import artifacts, plugins
from stages.pipeline.params import SCRATCH, Experiment, Params, plain
from stages.protocols.model import Masked
from stages.training import family_config, loop, start
from stages.training.config import TrainConfig
from stages.training.model_folder import Loaded
from tests.faults.test_dvc import fill_cache
from tests.laws import test_families as small

ROOT = Path(__file__).parents[2]
FROZEN = {"encoder": "frozen", "flow_start": 0.0, "quantiser_start": 0.0}
CODECS = [name for name in small.FAMILIES if plugins.load("families", name).parts(small.model_of(name).config)]


def started(name, other, **changes):
    """A new model of the family, with what it takes over from the other."""
    model = small.model_of(name, **changes)
    return model, start.take_over(model, Loaded(other, None, {}))


def shapes(module):
    return {name: value.shape for name, value in module.state_dict().items()}


@pytest.mark.parametrize("name", small.FLOWS)
def test_a_frozen_flow_writes_the_codes_of_the_autoencoder_it_started_from(name):
    autoencoder, batch = small.fitted("autoencoder"), small.batch_of(seed=7)
    model, part = started(name, autoencoder, **FROZEN)
    assert part == "codec"
    optimiser = torch.optim.Adam(model.train().parameters(), lr=3e-3)
    for step in range(3):
        model.begin_step(step, 3)
        optimiser.zero_grad()
        loss = model.loss(small.batch_of(seed=step), "model", step)
        loss.total.mean().backward()
        optimiser.step()
        assert "noise_to_signal_db" not in loss.terms, "a codec that rests costs no losses"
    model.eval()
    own, its = (one.quantise(one.encode(batch)) for one in (model, autoencoder))
    assert torch.equal(own.value, its.value)
    latent = model.dequantise(own)
    steps = batch.data.mask.sum(1)
    latent = Masked(latent.value[:, : small.STEPS], latent.mask[:, : small.STEPS] & batch.data.mask)
    asked = small.request(latent, steps, range(len(batch.ids)))
    guess = autoencoder.generate(asked, autoencoder.Sampling()).value
    features = model.codec.decoder.features(latent.value, latent.mask)
    mine = model.codec.standardise.inverse(model.codec.decoder(features, latent.mask))
    assert torch.equal(mine, guess)
    assert not torch.equal(model.generate(asked, model.Sampling()).value, guess)


def test_a_mean_flow_goes_on_from_the_velocities_of_flow_matching():
    other = small.fitted("flow_matching")
    model, part = started("mean_flow", other)
    assert part == "flow"
    same = zip(model.flow.state_dict().values(), other.flow.state_dict().values(), strict=True)
    assert all(torch.equal(mine, its) for mine, its in same)


@pytest.mark.parametrize("name", CODECS)
def test_equal_forms_are_equal_shapes_and_no_field_but_those_of_the_form_decides_them(name):
    """Of every part, changing one number at a time."""
    model = small.model_of(name)
    own = type(model).parts(model.config)
    for field in fields(model.config):
        value = getattr(model.config, field.name)
        if type(value) is not int:
            continue
        config = replace(model.config, **{field.name: value * 2})
        changed = small.model_of(name, **{field.name: value * 2})
        for part, form in type(model).parts(config).items():
            same = shapes(getattr(model, part)) == shapes(getattr(changed, part))
            assert same == (form == own[part]), (part, field.name)


def test_a_frozen_encoder_whose_codebooks_were_never_placed_is_refused():
    model = small.model_of("improved_mean_flow", **FROZEN)
    with pytest.raises(ValueError, match="start from an experiment"):
        model.begin_step(0, 10)


def config_of(name, model, start_from):
    family = plugins.load("families", name)
    tiny = {"network": "convnext", "latent_dim": 4, "width": 8, "depth": 1, "num_codebooks": 2, "codebook_size": 16}
    tiny |= {"code_dim": 4, "quantiser_start": 0.0} | model
    steps = TrainConfig(num_steps=6, batch_size=2, learning_rate=1e-2, num_threads=1, seed=0, crop_steps=20)
    steps = replace(steps, validate_every=3, checkpoint_every=2)
    return train.Config(name, "mdct", name, plain(family.Config(**tiny)), steps, start_from)


def test_a_started_training_that_is_cut_off_ends_in_the_same_bytes(tmp_path, monkeypatch):
    """What it started from is loaded again when it goes on, and the checkpoint wins."""
    monkeypatch.setenv("PARTITA_TRACKING", "off")
    fill_cache(tmp_path / "cache")

    def trained(name, out, model, start_from):
        (tmp_path / out / "work").mkdir(parents=True, exist_ok=True)
        paths = (tmp_path / "cache", tmp_path / start_from / "model", tmp_path / out / "model", tmp_path / out / "work")
        train.run(config_of(name, model, start_from), *paths)
        return (tmp_path / out / "model/model.safetensors").read_bytes()

    trained("autoencoder", "autoencoder", {}, SCRATCH)
    flow = ("improved_mean_flow", {"encoder": "frozen", "flow_start": 0.0, "flow_width": 8, "flow_depth": 1})
    whole = trained(flow[0], "whole", flow[1], "autoencoder")
    step = loop.Run.step
    with monkeypatch.context() as patch:
        patch.setattr(loop.Run, "step", lambda run, number, batch: step(run, number, batch) if number < 5 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            trained(flow[0], "cut", flow[1], "autoencoder")
    assert trained(flow[0], "cut", flow[1], "autoencoder") == whole
    codec, taken = (
        artifacts.read_tensors(tmp_path / at / "model/model.safetensors", "") for at in ("autoencoder", "cut")
    )
    of_flow = {name.removeprefix("flow.ground."): value for name, value in taken.items()}
    assert all(torch.equal(value, of_flow[name]) for name, value in codec.items())


def shipped(**block):
    """The problems of params.yaml's flow after a change of its block, and what it would load."""
    tree = YAML(typ="safe").load(ROOT / "params.yaml")
    tree["representations"]["wide"] = tree["representations"]["mdct"] | {"num_bins": 640}
    tree["representations"]["mine"] = tree["representations"]["mdct"] | {"corpus": "mine"}
    model = tree["experiments"]["improved_mean_flow_mdct"]["model"] | block.pop("model", {})
    tree["experiments"]["improved_mean_flow_mdct"] |= {**block, "model": model}
    params = Params(tree)
    experiment = params.experiment("improved_mean_flow_mdct")
    config = family_config.of(params, "improved_mean_flow_mdct", experiment)
    return params.problems, start.checked(params, "improved_mean_flow_mdct", experiment, config)


@pytest.mark.parametrize(("own", "other"), [("absent", "joint"), ("joint", "absent")])
def test_a_flow_with_a_codec_and_one_without_do_not_fit(own, other):
    configs = [small.model_of("mean_flow", encoder="joint").config] * 2
    own, other = (replace(config, encoder=kind) for config, kind in zip(configs, (own, other), strict=True))
    family = plugins.load("families", "mean_flow")
    assert family.parts(own)["flow"] and start.problems(family, own, family, other)
    assert start.problems(family, own, family, own) == []


@pytest.mark.parametrize("block", [{}, {"representation": "mine"}])
def test_what_fits_loads_the_others_family(block):
    assert shipped(**block) == ([], [("families", "autoencoder")])


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"start_from": "autoencoder_mdtc"}, "did you mean 'autoencoder_mdct'?"),
        ({"model": {"width": 96}}, "model.width = 96, and 192 in the codec it would take over"),
        ({"model": {"encoder": "absent"}}, "no part in common with Autoencoder"),
        ({"start_from": "scratch"}, "name an experiment that has one"),
        ({"representation": "wide"}, "mdct differs from wide in more than the corpus"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_trained(block, message):
    problems, loads = shipped(**block)
    assert loads is None
    assert any(message in problem for problem in problems), problems
    assert all(problem.startswith("experiments.improved_mean_flow_mdct.start_from") for problem in problems)


def test_no_experiment_is_called_scratch():
    params, config = Params({"experiments": {}}), small.model_of("autoencoder").config
    experiment = Experiment("mdct", "autoencoder", "audio", "scratch")
    assert start.checked(params, "other", experiment, config) == []
    assert start.checked(params, "scratch", experiment, config) is None
    assert "choose another" in params.problems[0]
