"""What holds for flow_matching, mean_flow and improved_mean_flow: samplers, guidance, and flows without a codec."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stages.pipeline import plugins
from stages.protocols.model import Batch, Masked, Request
from stages.protocols.spec import Field, Spec, Statistics
from stages.training import losses
from tests.laws.test_families import FLOWS, batch_of, fitted, model_of, request

MEAN_FLOWS = FLOWS[1:]
every_flow = pytest.mark.parametrize("name", FLOWS)
every_mean_flow = pytest.mark.parametrize("name", MEAN_FLOWS)
CLASSES = 3
LABELLED = Spec("image", Field((2,), num_steps=4), {"digit": Field((), CLASSES, num_steps=1)}, "v")
MOMENTS = Statistics(np.full(2, 99), np.array([1.0, -2.0]), np.array([2.0, 0.5]), None)


def absent(name, spec=LABELLED, **changes):
    """A flow on the data themselves."""
    torch.manual_seed(0)
    family = plugins.load("families", name)
    size = {"flow_width": 12, "flow_depth": 1} | changes
    return family(family.Config("convnext", 4, 8, 1, encoder="absent", **size), spec, MOMENTS, lambda m: m).double()


def labelled(num=8, seed=0, label=None, steps=4):
    """Clips whose standardised values lie within 0.1 of label - 1; every fourth does not say its label."""
    draw = torch.Generator().manual_seed(seed)
    digits = torch.arange(num) % CLASSES if label is None else torch.full((num,), label)
    known = torch.ones(num, 1, dtype=torch.bool) if label is not None else (torch.arange(num) % 4 != 3).unsqueeze(1)
    data = torch.randn(num, steps, 2, generator=draw, dtype=torch.float64) * 0.1 + digits.reshape(-1, 1, 1) - 1
    data = torch.from_numpy(MOMENTS.mean) + torch.from_numpy(MOMENTS.std) * data
    present = torch.ones(num, steps, dtype=torch.bool)
    conditions = {"digit": Masked((digits.unsqueeze(1) * known), known)}
    return Batch(tuple(map(str, range(num))), torch.arange(num) + 1000 * seed, Masked(data, present), conditions)


def every_case(names):
    """With a codec and without."""
    cases = [(name, makes) for name in names for makes in ("codec", "absent")]
    return pytest.mark.parametrize(("name", "ground"), cases, ids=["-".join(case) for case in cases])


def prepared(name, ground, **changes):
    """A model some steps old, and a batch for it."""
    if ground == "codec":
        return fitted(name, quantiser="none", **changes).train(), batch_of(seed=40)
    return absent(name, **changes).train(), labelled()


class TestSamplers:
    @pytest.mark.parametrize(
        ("name", "sampling"),
        [
            ("flow_matching", {"num_steps": 100}),
            ("flow_matching", {"num_steps": 25, "solver": "heun"}),
            ("mean_flow", {"num_steps": 1}),
            ("improved_mean_flow", {"num_steps": 1}),
            ("improved_mean_flow", {"num_steps": 4}),
        ],
    )
    def test_a_gaussian_oracle_gives_its_mean_and_covariance(self, name, sampling):
        """The exact u of x ~ N(m, K): z_r = (1 - r) m + S_r^1/2 S_t^-1/2 (z_t - (1 - t) m), S_t = (1-t)^2 K + t^2."""
        mean = torch.tensor([0.7, -0.4]).double()
        values, vectors = torch.linalg.eigh(torch.tensor([[1.5, 0.6], [0.6, 0.5]]).double())
        model = absent(name, replace(LABELLED, conditions={})).eval()

        def oracle(z, r, t, context):
            r, t = float(r[0]), float(t[0])
            size = {time: (1 - time) ** 2 * values + time**2 for time in (r, t)}
            centred = (z - (1 - t) * mean) @ vectors
            if r == t:
                return ((-(1 - t) * values + t) / size[t] * centred) @ vectors.T - mean
            moved = (1 - r) * mean + ((size[r] / size[t]).sqrt() * centred) @ vectors.T
            return (z - moved) / (t - r)

        model.flow.velocity.forward = oracle
        asked = Request(torch.tensor([3]), torch.tensor([40000]), {})
        with torch.no_grad():
            made = model.generate(asked, model.Sampling(**sampling)).value[0]
        scale = torch.from_numpy(MOMENTS.std)
        expected = vectors @ torch.diag(values) @ vectors.T * torch.outer(scale, scale)
        # 4 standard errors of 40,000 draws; Euler's 100 steps err by 1 %
        torch.testing.assert_close(made.mean(0), torch.from_numpy(MOMENTS.mean) + scale * mean, rtol=0.02, atol=0.05)
        torch.testing.assert_close(torch.cov(made.T), expected, rtol=0.04, atol=0.03)

    @every_case(FLOWS)
    def test_evaluations_are_counted_as_they_happen(self, name, ground):
        changes = {"feature_drop": 0.3} if ground == "codec" else {}
        model, batch = prepared(name, ground, **changes)
        calls = []
        model.flow.velocity.network.register_forward_hook(lambda *_: calls.append(1))
        conditions = batch.conditions | ({"latent": model.encode(batch)} if ground == "codec" else {})
        asked = Request(batch.seeds, batch.data.mask.sum(1), conditions)
        solvers = [{"solver": "euler"}, {"solver": "heun"}] if name == "flow_matching" else [{}]
        for num_steps in (1, 2, 5):
            for solver in solvers:
                for guided in ({}, {"guidance": 2.0}, {"guidance": 2.0, "guidance_low": 0.3, "guidance_high": 0.7}):
                    sampling = model.Sampling(num_steps=num_steps, **solver, **guided)
                    calls.clear()
                    with torch.no_grad():
                        model.generate(asked, sampling)
                    assert len(calls) == model.num_function_evaluations(sampling), sampling

    def test_evaluations_are_those_of_the_formulas(self):
        flow, mean = absent("flow_matching"), absent("improved_mean_flow")
        count = {num: flow.num_function_evaluations(flow.Sampling(num, solver="heun")) for num in (1, 2, 25)}
        assert count == {1: 1, 2: 3, 25: 49}
        assert [flow.num_function_evaluations(flow.Sampling(num)) for num in (1, 50)] == [1, 50]
        guided = mean.Sampling(num_steps=4, guidance=2.0, guidance_low=0.5)  # of 1, .75, .5, .25 three are guided
        assert mean.num_function_evaluations(guided) == 7

    @every_mean_flow
    @pytest.mark.parametrize("num_steps", [1, 3])
    def test_a_mean_flow_is_asked_for_whole_jumps_that_end_at_the_data(self, name, num_steps):
        """Traps: h = 0 while sampling, and a step past t = 0."""
        model, asked = absent(name).eval(), []

        def watched(z, r, t, context):
            asked.append((float(r[0]), float(t[0])))
            return torch.zeros_like(z)

        model.flow.velocity.forward = watched
        model.generate(request(None, [4], [1]), model.Sampling(num_steps=num_steps))
        ends = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64).tolist()
        assert asked == list(zip(ends[1:], ends[:-1], strict=True))

    @pytest.mark.parametrize("solver", ["euler", "heun"])
    def test_a_plain_flow_is_asked_for_instants_before_the_data(self, solver):
        model, asked = absent("flow_matching").eval(), []

        def watched(z, r, t, context):
            asked.append((float(r[0]), float(t[0])))
            return torch.zeros_like(z)

        model.flow.velocity.forward = watched
        model.generate(request(None, [4], [1]), model.Sampling(num_steps=5, solver=solver))
        assert asked[0] == (1, 1) and all(r == t and 0 < t <= 1 for r, t in asked)

    def test_guidance_leads_away_from_the_unconditional(self):
        model, batch = prepared("improved_mean_flow", "absent")

        def u(z, r, t, context):
            return context.label[:, :2].unsqueeze(1).expand_as(z)

        model.flow.velocity.forward = u
        known = Request(
            batch.seeds[:1], torch.tensor([4]), {"digit": Masked(torch.tensor([[1]]), torch.ones(1, 1) > 0)}
        )
        with torch.no_grad():
            table = model.flow.ground.labels.tables["digit"].weight[:, :2]
            made = [model.generate(known, model.Sampling(guidance=scale)).value for scale in (1.0, 3.0)]
        pushed = -2 * (table[1] - table[CLASSES]) * model.flow.ground.scale
        torch.testing.assert_close(made[1] - made[0], pushed.expand_as(made[0]))

    def test_guidance_needs_a_model_that_knows_its_absence(self):
        for model in (fitted("improved_mean_flow"), absent("flow_matching", replace(LABELLED, conditions={}))):
            with pytest.raises(ValueError, match="guidance = 2.0.*feature_drop"):
                model.generate(request(None, [4], [1]), model.Sampling(guidance=2.0))
        with pytest.raises(ValueError, match="guidance_weight = 2.0"):
            absent("mean_flow", replace(LABELLED, conditions={}), guidance_weight=2.0)


class TestWithoutCodec:
    @every_flow
    def test_there_is_no_latent_and_labels_may_be_unknown(self, name):
        model, batch = absent(name).eval(), labelled()
        assert model.latent is None and model.codes is None and not model.needs
        for method in (model.encode, model.quantise, model.dequantise):
            with pytest.raises(TypeError, match="has no"):
                method(batch)
        asked = [Request(batch.seeds, torch.full((8,), 4), known) for known in (batch.conditions, {})]
        with torch.no_grad():
            one, other = (model.generate(request, model.Sampling()).value for request in asked)
        unknown = ~batch.conditions["digit"].mask[:, 0]
        torch.testing.assert_close(other[unknown], one[unknown], rtol=1e-12, atol=1e-12)
        assert bool(((one - other).abs().amax((1, 2)) > 1e-6)[~unknown].all())

    @every_flow
    def test_the_width_of_a_latent_that_is_not_there_changes_nothing(self, name):
        family, batch = plugins.load("families", name), labelled()
        losses = []
        for latent_dim in (1, 64):
            torch.manual_seed(0)
            config = family.Config("convnext", latent_dim, latent_dim, 1, encoder="absent", flow_width=12, flow_depth=1)
            model = family(config, LABELLED, MOMENTS, lambda m: m).double()
            losses.append(model.loss(batch, "model", 0).total)
        assert torch.equal(*losses)

    def test_only_class_labels_can_be_told(self):
        for field in (Field((3,), 5, num_steps=1), Field((), num_steps=1), Field((), 5, num_steps=7)):
            with pytest.raises(ValueError, match="condition 'pitch'.*class label"):
                absent("flow_matching", replace(LABELLED, conditions={"pitch": field}))
        with pytest.raises(ValueError, match="frames of real numbers"):
            absent("flow_matching", replace(LABELLED, data=Field((2,), 7)))

    def test_a_bin_that_hardly_varies_stays_finite(self):
        family = plugins.load("families", "flow_matching")
        config = family.Config("convnext", 1, 1, 1, encoder="absent", flow_width=12, flow_depth=1, least_std=0.1)
        statistics = Statistics(np.full(2, 9), np.zeros(2), np.array([2.0, 0.0]), None)
        model = family(config, LABELLED, statistics, lambda m: m)
        torch.testing.assert_close(model.flow.ground.scale, torch.tensor([2.0, 0.2]))

    @every_flow
    def test_a_flow_learns_what_its_label_says(self, name):
        """200 steps suffice for a third of the distance between labels."""
        model = absent(name, flow_width=32, fraction_uniform=0.5).train()
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
        for step in range(200):
            optimiser.param_groups[0]["lr"] = 1e-2 * (1 - step / 200)
            optimiser.zero_grad()
            model.loss(labelled(24, seed=step + 1), "model", step).total.mean().backward()
            optimiser.step()
        model.eval()
        sampling = model.Sampling(num_steps=10 if name == "flow_matching" else 1)
        for label in range(CLASSES):
            batch = labelled(32, 5000, label)
            with torch.no_grad():
                made = model.generate(Request(batch.seeds, torch.full((32,), 4), batch.conditions), sampling).value
            means = (made.mean((0, 1)) - torch.from_numpy(MOMENTS.mean)) / torch.from_numpy(MOMENTS.std)
            assert (means - (label - 1)).abs().max() < 0.33


def test_every_problem_of_a_mean_flows_config_at_once():
    wrong = {"fraction_equal": 2.0, "jump_start": 1.0, "guidance_low": 0.9, "guidance_mix": 1.0, "flow_depth": 0}
    with pytest.raises(ValueError) as found:
        model_of("mean_flow", guidance_high=0.1, **wrong)
    assert all(key in str(found.value) for key in wrong)
    for wrong in ({"num_steps": 0}, {"temperature": -1.0}, {"guidance_low": 0.7, "guidance_high": 0.2}):
        with pytest.raises(ValueError, match="expected"):
            plugins.load("families", "mean_flow").Sampling(**wrong)


class TestTheTemperatureChosenOnValidation:
    """A made-up ear likes 0.7 best; a temperature of 1 costs `cost_db` of the guess's distortion."""

    @pytest.mark.parametrize(("cost_db", "chosen"), [(0.0, 0.6), (2.5, 0.4), (99.0, 0.0)])
    def test_the_best_that_distortion_allows(self, monkeypatch, cost_db, chosen):
        model, batch = model_of("improved_mean_flow").eval(), batch_of()
        codec, ground = model.flow.codec, model.flow.ground
        learned = ground.learn(batch, flowing=True)
        guess_db = learned.terms["noise_to_signal_db"]

        def distortion(sound, data):
            return losses.Distortion(guess_db, guess_db + cost_db * sound.mean((1, 2)))

        monkeypatch.setattr(ground, "learn", lambda batch, flowing: learned)
        monkeypatch.setattr(ground, "sound", lambda asked, sample, batch, told, t: torch.full_like(told.mean, t))
        monkeypatch.setattr(codec, "mel_distance", lambda sound, data: (sound.mean((1, 2)) - 0.7).abs())
        monkeypatch.setattr(codec, "distortion", distortion)
        assert model.calibrate([batch]) == {"temperature": chosen}
        assert float(ground.temperature) == pytest.approx(chosen)

    def test_where_nothing_was_heard_the_noise_is_as_it_was_learned(self):
        model = model_of("improved_mean_flow").eval()
        assert model.calibrate([]) == {} and float(model.flow.ground.temperature) == 1.0

    def test_decoding_starts_from_it_unless_told_otherwise(self):
        model, clips = fitted("improved_mean_flow").eval(), batch_of(num=2)
        model.flow.ground.temperature.fill_(0.4)
        wanted = Request(clips.seeds, clips.data.mask.sum(1), {"latent": model.encode(clips)})
        found = [model.generate(wanted, model.Sampling(temperature=t)).value for t in (None, 0.4, 0.0)]
        assert torch.allclose(found[0], found[1], atol=1e-6) and not torch.allclose(found[0], found[2], atol=1e-4)


@every_case(MEAN_FLOWS)
def test_jumps_are_learnt_and_heard_from_when_the_config_says_and_validated_always(name, ground):
    model, batch = prepared(name, ground, jump_start=0.5)
    by_step = {}
    for step, training in ((4, True), (5, True), (4, False)):
        model.begin_step(step, 10)
        model.train(training)
        terms = model.loss(batch, "model", step).terms
        by_step[step, training] = bool(terms["flow_error_r_before_t"].isfinite().any())
        assert ("mel_distance_sample" in terms) == (by_step[step, training] and ground == "codec")
    assert by_step == {(4, True): False, (5, True): True, (4, False): True}
