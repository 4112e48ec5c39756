"""The laws of generative models on every file in stages/families, shrunk to a few channels; a new file is tried too.

Float32 here, since families compute part of their losses in it: tolerances are its rounding, 1e-7, times a few hundred.
"""

import dataclasses
import functools
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.media import audio
from stages.pipeline import plugins, shards
from stages.protocols.model import Masked
from stages.training import batches, loop, model_folder
from stages.training.config import TrainConfig
from stages.training.loader import Dataset, Loader
from tests.laws.test_generative import asked

SMALL = {"network": "convnext", "latent_dim": 4, "width": 8, "depth": 1, "flow_width": 8, "flow_depth": 1}
SMALL |= {"num_codebooks": 2, "codebook_size": 16, "code_dim": 4, "quantiser_start": 0.0, "flow_start": 0.0}
CONFIG = TrainConfig(
    num_steps=6, batch_size=6, learning_rate=1e-2, num_threads=1, seed=0, crop_steps=20, num_warmup_steps=1, log_every=1
)
CONFIG = replace(CONFIG, validate_every=3, checkpoint_every=2)
VARIANTS = {
    "improved_mean_flow with a head": ("improved_mean_flow", {"velocity": "head"}),
    "flow_matching without codec": ("flow_matching", {"encoder": "absent"}),
    "mean_flow without codec": ("mean_flow", {"encoder": "absent"}),
    "improved_mean_flow without codec": ("improved_mean_flow", {"encoder": "absent", "velocity": "head"}),
    "mean_flow guided": ("mean_flow", {"guidance_weight": 1.5, "guidance_mix": 0.2, "feature_drop": 0.3}),
}
FAMILIES = [*plugins.names("families"), *VARIANTS]
every_family = pytest.mark.parametrize("family", FAMILIES)


class Trial:
    """A family on ten seconds of noise through a small MDCT."""

    def __init__(self, family, **changes):
        self.name, settings = VARIANTS.get(family, (family, {}))
        self.family = plugins.load("families", self.name)
        kind = plugins.load("representations", "mdct")
        self.representation = kind(kind.Config(num_bins=160, rate_hz=8000))
        generator = np.random.Generator(np.random.Philox(0))
        samples = generator.normal(0, 0.1, (10, 8000)).astype(np.float32)
        codes = [self.representation.encode(audio.Clip(f"clip{i}", one, 8000)) for i, one in enumerate(samples)]
        self.statistics = shards.statistics(shards.sums(codes, self.representation.spec.data))
        self.data = Dataset(codes, self.representation.spec, self.representation.view)
        known = {field.name for field in dataclasses.fields(self.family.Config)}
        self.config = self.family.Config(**{k: v for k, v in (SMALL | settings | changes).items() if k in known})

    def model(self):
        torch.manual_seed(0)
        return self.family(self.config, self.representation.spec, self.statistics, self.representation.signal)

    def fitted(self, work, config=CONFIG, listen=lambda row: None):
        model = self.model()
        loop.fit(model, self.data, self.data, config, work, listen)
        return model

    def batch(self):
        return Loader(self.data, 6, 20, 0).batch(1)


@functools.cache
def trained(family):
    """A trial and its model after CONFIG's steps, which laws that change nothing share."""
    trial = Trial(family)
    with tempfile.TemporaryDirectory() as work:
        return trial, trial.fitted(Path(work))


@every_family
def test_all_parameters_move_and_the_players_partition_them(family):
    trial, model = trained(family)
    before = dict(trial.model().named_parameters())
    assert not [name for name, value in model.named_parameters() if torch.equal(value, before[name])]
    owned = [id(p) for player in model.players(5) for p in model.parameters_of(player)]
    assert sorted(owned) == sorted(map(id, model.parameters()))


@pytest.mark.parametrize("family", plugins.names("families"))
@pytest.mark.parametrize("network", plugins.names("networks"))
def test_every_family_runs_on_every_network_by_name(family, network, tmp_path):
    trial = Trial(family, network=network)
    if "network" not in {field.name for field in dataclasses.fields(trial.config)}:
        pytest.skip("takes no network")
    before, batch = trial.model().state_dict(), trial.batch()
    model = trial.fitted(tmp_path, replace(CONFIG, num_steps=2))
    kind = plugins.load("networks", network)
    inside = [name for name, part in model.named_modules() if isinstance(part, kind)]
    assert inside
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert all(any(name.startswith(f"{network}.") for name in moved) for network in inside)
    with torch.no_grad():
        made = model.generate(asked(model, batch), model.Sampling())
    assert made.value.shape == batch.data.value.shape and bool(made.value.isfinite().all())


@every_family
def test_a_run_cut_off_goes_on_bit_by_bit(family, tmp_path):
    trial = Trial(family)
    whole = trial.fitted(tmp_path / "whole").state_dict()
    for cut in (3, 5):

        def stop(row, cut=cut):
            if row["step"] == cut:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            trial.fitted(tmp_path / "cut", listen=stop)
    again = trial.fitted(tmp_path / "cut").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    assert (tmp_path / "cut/log.jsonl").read_bytes() == (tmp_path / "whole/log.jsonl").read_bytes()


@every_family
def test_micro_batches_have_the_gradient_of_the_whole(family, tmp_path):
    trial = Trial(family, quantiser="none")
    state, found = trial.fitted(tmp_path / "fit").state_dict(), []
    batch = trial.batch()
    batch = replace(batch, data=Masked(batch.data.value.double(), batch.data.mask))
    for num in (1, 3):
        model = trial.model()
        model.load_state_dict(state)
        model.double()  # float32 loses five digits on the way through logarithms of faint magnitudes
        model.begin_step(5, 6)
        config = replace(CONFIG, num_micro_batches=num)
        run = loop.Run(model, replace(trial.data, codes=[]), config, tmp_path / str(num), print)
        for player in model.players(5):
            run.update(player, batch, 5)
        found.append({name: value.grad for name, value in model.named_parameters()})
    for name, whole in found[0].items():
        assert (found[1][name] - whole).norm() <= 1e-9 * whole.norm() + 1e-12, name


@every_family
def test_permuting_the_batch_permutes_loss_and_generation(family):
    (trial, model), order = trained(family), [4, 2, 0, 5, 1, 3]
    batch = trial.batch()
    with torch.no_grad():
        for player in model.players(5):
            one, other = (model.loss(b, player, 5) for b in (batch, batches.select(batch, order)))
            torch.testing.assert_close(other.total, one.total[order], rtol=1e-5, atol=1e-6)
        made, again = (model.generate(asked(model, b), model.Sampling()) for b in (batch, batches.select(batch, order)))
    torch.testing.assert_close(again.value, made.value[order], rtol=1e-4, atol=1e-5)
    assert made.value.shape == batch.data.value.shape


@every_family
def test_a_saved_model_has_the_same_loss(family, tmp_path):
    trial, model = trained(family)
    (tmp_path / "model").mkdir()
    facts = model_folder.Facts("x", trial.name, "mdct", {})
    model_folder.save(tmp_path / "model", model, trial.representation, trial.statistics, facts)
    loaded = model_folder.load(tmp_path / "model").model
    with torch.no_grad():
        for player in model.players(5):
            one, other = model.loss(trial.batch(), player, 5), loaded.loss(trial.batch(), player, 5)
            assert torch.equal(one.total, other.total) and one.criterion in one.terms


@every_family
def test_the_latent_has_latent_dim_channels_and_codes_are_classes(family):
    trial, model = trained(family)
    if model.latent is None:
        pytest.skip("no latent")
    z = model.encode(trial.batch())
    assert z.value.shape[2:] == model.latent.frame == (model.config.latent_dim,)
    if model.codes is not None:
        codes = model.quantise(z)
        assert codes.value.shape[2:] == model.codes.frame
        assert 0 <= codes.value.min() and codes.value.max() < model.codes.num_classes
