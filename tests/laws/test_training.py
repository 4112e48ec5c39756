"""The loop: stateless order, exact resume, averages, rates, refusals. Oracles are written out beside each test."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from stages.protocols.spec import Code, Field, Spec
from stages.training import batches, interrupt, loader, loop, seeds
from stages.training.config import TrainConfig
from stages.training.ema import Average
from stages.training.muon import Muon
from stages.training.optimiser import Optimiser, learning_rate, matrices
from tests import fakes

CONFIG = TrainConfig(
    num_steps=24,
    batch_size=4,
    learning_rate=1e-2,
    num_threads=1,
    seed=3,
    crop_steps=7,
    num_warmup_steps=4,
    log_every=1,
    validate_every=5,
    checkpoint_every=7,
    num_micro_batches=2,
)
RESUMED = ("quantised", "two_players", "recurrent")


def fitted(case, config, work, listen=lambda row: None):
    model = case.model()
    best = loop.fit(model, case.dataset(), replace(case.dataset(), codes=case.codes[:3]), config, work, listen)
    return best, model.state_dict(), (work / "log.jsonl").read_bytes()


def same(one, other):
    assert one[0] == other[0]
    assert one[2] == other[2]
    assert one[1].keys() == other[1].keys()
    assert all(torch.equal(value, other[1][name]) for name, value in one[1].items())


class TestOrder:
    def test_every_example_comes_once_per_epoch(self):
        for length, batch in ((10, 4), (3, 8), (1, 2)):
            places = [p for step in range(3 * length) for p in seeds.positions(5, step * batch, batch, length)]
            for epoch in range(3):
                assert sorted(e for k, e in places if k == epoch) == list(range(length))
            assert places == sorted(places, key=lambda place: place[0])

    def test_orders_differ_between_epochs_and_seeds(self):
        orders = {tuple(seeds.permutation(seed, epoch, 20)) for seed in range(3) for epoch in range(3)}
        assert len(orders) == 9

    def test_a_derived_seed_depends_on_every_part_and_its_kind(self):
        found = {seeds.derive(*parts) for parts in [(1, 2), (12,), ("1", 2), (2, 1), ("1, 2",), (1,), ()]}
        assert len(found) == 7 and all(0 <= seed < 2**63 for seed in found)

    def test_a_long_clip_counts_by_its_length(self):
        spec = Spec("series", Field((1,)), {}, "v")
        codes = [Code(str(n), np.zeros((n, 1), np.float32), np.ones(n, bool)) for n in (0, 1, 10, 25)]
        data = loader.Dataset(codes, spec, fakes.Frames().view)
        ids = [name for step in range(6) for name in loader.Loader(data, 1, 10, 0).batch(step).ids]
        assert sorted(ids[:5]) == ["1", "10", "25", "25", "25"]
        assert len(loader.Loader(data, 1, 10, 0)) == 5 and len(loader.Loader(data, 1, 0, 0)) == 3

    def test_a_batch_is_a_function_of_its_step(self):
        made = loader.Loader(fakes.case("energy").dataset(), 4, 7, 0)
        again = loader.Loader(fakes.case("energy").dataset(), 4, 7, 0)
        later = again.batch(9)
        for step in range(9):
            made.batch(step)
        assert torch.equal(made.batch(9).data.value, later.data.value)
        assert torch.equal(made.batch(9).seeds, later.seeds) and made.batch(9).ids == later.ids
        assert len(set(made.batch(9).seeds.tolist()) | set(made.batch(8).seeds.tolist())) == 8

    def test_a_crop_is_drawn_from_the_seed_that_the_batch_carries(self):
        data = fakes.case("energy").dataset()
        by_id = {code.id: code for code in data.codes}
        for step in range(4):
            batch = loader.Loader(data, 4, 7, 0).batch(step)
            for row, name in enumerate(batch.ids):
                expected = data.view(by_id[name], 7, int(batch.seeds[row])).data
                assert np.array_equal(batch.data.value[row, : len(expected)], expected)

    def test_reading_ahead_keeps_the_order_and_raises_at_its_step(self):
        def make(step):
            if step == 5:
                raise ValueError("broken clip")
            return step

        assert list(loader.ahead(make, range(2, 5))) == [2, 3, 4]
        seen = []
        with pytest.raises(ValueError, match="broken clip"):
            for step in loader.ahead(make, range(9)):
                seen.append(step)
        assert seen == [0, 1, 2, 3, 4]

    def test_no_clip_is_refused(self, tmp_path):
        case = fakes.case("energy")
        with pytest.raises(ValueError, match="train split is empty"):
            loop.fit(case.model(), replace(case.dataset(), codes=[]), case.dataset(), CONFIG, tmp_path)


class TestBatches:
    def test_padding_is_zero_and_masked_and_absent_conditions_too(self):
        case = fakes.case("labelled_flow", num=5)
        batch = batches.collate(case.codes, range(5), case.representation.spec)
        assert batch.conditions["digit"].mask[:, 0].tolist() == [False, True, True, True, False]
        assert batch.conditions["digit"].value[:, 0].tolist() == [0, 1, 2, 0, 0]
        case = fakes.case("responses_to_codes", num=5)
        batch = batches.collate(case.codes, range(5), case.representation.spec)
        assert batch.data.value.dtype == torch.int64 and batch.conditions["responses"].value.dtype == torch.float32
        for row, code in enumerate(case.codes):
            length = len(code.data)
            assert np.array_equal(batch.data.value[row, :length], code.data)
            assert np.array_equal(batch.data.mask[row, :length], code.mask)
            assert not batch.data.value[row, length:].any() and not batch.data.mask[row, length:].any()

    def test_no_clip_has_the_condition(self):
        case = fakes.case("labelled_flow", num=9)
        batch = batches.collate([case.codes[0], case.codes[4]], [0, 1], case.representation.spec)
        assert batch.conditions["digit"].value.shape == (2, 1) and not batch.conditions["digit"].mask.any()

    def test_micro_batches_are_the_batch(self):
        case = fakes.case("energy")
        batch = loader.Loader(case.dataset(), 7, 5, 0).batch(0)
        parts = batches.split(batch, 3)
        assert [len(part.ids) for part in parts] == [3, 2, 2]
        assert sum((part.ids for part in parts), ()) == batch.ids
        assert torch.equal(torch.cat([part.data.value for part in parts]), batch.data.value)
        assert torch.equal(torch.cat([part.seeds for part in parts]), batch.seeds)


class TestSchedule:
    def test_rate_warms_up_then_falls_along_a_half_cosine(self):
        config = replace(CONFIG, num_steps=100, num_warmup_steps=9, learning_rate=2.0)
        rates = [learning_rate(step, config) for step in range(100)]
        assert np.allclose(rates[:9], np.linspace(0, 2, 11)[1:10])
        assert rates[9] == 2.0 == max(rates)
        assert np.allclose(rates[9:], 1 + np.cos(np.pi * np.linspace(0, 1, 92)[:-1]))

    def test_one_step_has_the_full_rate(self):
        assert learning_rate(0, replace(CONFIG, num_steps=1)) == CONFIG.learning_rate

    def test_average_follows_its_formula_and_leaves_buffers(self):
        model = torch.nn.BatchNorm1d(3)
        average, expected = Average(model, 0.5), np.ones(3)
        for step in range(6):
            with torch.no_grad():
                model.weight += torch.tensor([1.0, 2.0, 3.0])
                model.running_mean += 1
            average.update(step)
            decay = min(0.5, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * model.weight.detach().numpy()
        own = model.weight.detach().clone()
        with average.applied():
            assert np.allclose(model.weight.detach(), expected, rtol=1e-6)
            assert torch.equal(model.running_mean, torch.full((3,), 6.0))
        assert torch.equal(model.weight, own)

    def test_muon_takes_matrices_and_turns_them_with_equal_strength(self):
        model = torch.nn.Sequential(torch.nn.Embedding(9, 6), torch.nn.Linear(6, 8), torch.nn.Conv1d(8, 8, 3))
        assert matrices(model) == {model[1].weight}
        optimiser = Optimiser(model, model.parameters(), replace(CONFIG, optimizer="muon", weight_decay=0.0))
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimiser.step(1e-2)
        change = {name: value.detach() - before[name] for name, value in model.named_parameters()}
        strengths = torch.linalg.svdvals(change["1.weight"]) / (1e-2 * 0.2 * math.sqrt(8))
        assert ((strengths > 0.6) & (strengths < 1.3)).all()
        assert torch.allclose(change["2.weight"].abs(), torch.tensor(1e-2), rtol=1e-3)  # AdamW's first step is the sign

    def test_muon_is_torchs_but_for_its_rounding(self):
        """torch's works in bfloat16, whose 8 bits the updates differ by."""
        generator = torch.Generator().manual_seed(0)
        shapes = [(12, 40), (40, 12), (8, 8), (12, 40), (12, 41)]
        own, other = ([torch.nn.Parameter(torch.zeros(shape)) for shape in shapes] for _ in range(2))
        mine = Muon(own, lr=0.1, weight_decay=0.3)
        theirs = torch.optim.Muon(other, lr=0.1, weight_decay=0.3, adjust_lr_fn="match_rms_adamw")
        for step in range(4):
            for place, (a, b) in enumerate(zip(own, other, strict=True)):
                rests = step == 2 and place == 3  # as frozen parameters do, beside others of their shape
                a.grad = None if rests else torch.randn(a.shape, generator=generator)
                b.grad = None if a.grad is None else a.grad.clone()
            mine.step()
            theirs.step()
        for a, b in zip(own, other, strict=True):
            assert float((a - b).norm() / b.norm()) < 0.03

    def test_the_optimiser_is_torch_adamw_on_clipped_mean_gradients(self, tmp_path):
        """A hand-written loop of eight lines gives the same weights."""
        case = fakes.case("energy")
        config = replace(
            CONFIG, num_steps=5, num_micro_batches=1, max_gradient_norm=0.3, ema_decay=0.0, weight_decay=0.0
        )
        config = replace(config, select_after=1.0)
        model, own = case.model(), case.model()
        loop.fit(model, case.dataset(), replace(case.dataset(), codes=[]), config, tmp_path)
        optimiser = torch.optim.AdamW(own.parameters(), betas=(0.9, 0.99), weight_decay=0.0)
        batch_of = loader.Loader(case.dataset(), 4, 7, config.seed)
        for step in range(5):
            optimiser.zero_grad()
            own.loss(batch_of.batch(step), "model", step).total.mean().backward()
            torch.nn.utils.clip_grad_norm_(own.parameters(), 0.3)
            optimiser.param_groups[0]["lr"] = learning_rate(step, config)
            optimiser.step()
        for name, value in own.state_dict().items():
            torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-5, atol=1e-7)


class TestResume:
    @pytest.mark.parametrize("family", RESUMED)
    @pytest.mark.parametrize("optimizer", ["adamw", "muon"])
    def test_a_run_cut_off_anywhere_goes_on_bit_by_bit(self, family, optimizer, tmp_path):
        """Cut by an error (nothing saved then) at steps before, at and after checkpoints, again and again."""
        case = fakes.case(family)
        config = replace(CONFIG, optimizer=optimizer)
        whole = fitted(case, config, tmp_path / "whole")
        for cut in (3, 8, 14, 20, 24):

            def stop(row, cut=cut):
                if row["step"] == cut:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                fitted(case, config, tmp_path / "cut", stop)
        same(fitted(case, config, tmp_path / "cut"), whole)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_saves_the_step_under_way_and_exits(self, number, tmp_path):
        case = fakes.case("two_players")
        before = signal.getsignal(number)  # ignored, where a shell started us in the background
        whole = fitted(case, CONFIG, tmp_path / "whole")

        def kill(row):
            if row["step"] == 10 and row["split"] == "train" and row["player"] == "critic":
                os.kill(os.getpid(), number)

        with pytest.raises(SystemExit) as stopped:
            fitted(case, CONFIG, tmp_path / "cut", kill)
        assert stopped.value.code == 128 + number
        assert sorted(path.name for path in (tmp_path / "cut/checkpoints").iterdir())[-1] == "step_000000010"
        steps = []
        same(fitted(case, CONFIG, tmp_path / "cut", lambda row: steps.append(row["step"])), whole)
        assert steps[0] == 11, "nothing is done twice"
        assert signal.getsignal(number) is before

    def test_a_damaged_checkpoint_is_named_and_the_one_before_serves(self, tmp_path, capfd):
        case = fakes.case("quantised")
        whole = fitted(case, CONFIG, tmp_path / "whole")
        fitted(case, CONFIG, tmp_path / "cut")
        last = tmp_path / "cut/checkpoints/step_000000024/tensors.safetensors"
        data = bytearray(last.read_bytes())
        data[-3] ^= 16
        last.write_bytes(data)
        same(fitted(case, CONFIG, tmp_path / "cut"), whole)
        told = capfd.readouterr().err
        assert "step_000000024/tensors.safetensors is damaged" in told and "going on from step 21" in told

    def test_a_finished_run_is_not_trained_again(self, tmp_path):
        case = fakes.case("coupling")
        first = fitted(case, CONFIG, tmp_path)
        rows = []
        same(fitted(case, CONFIG, tmp_path, rows.append), first)
        assert rows == []

    def test_two_checkpoints_are_kept(self, tmp_path):
        fitted(fakes.case("coupling"), CONFIG, tmp_path)
        assert len(list((tmp_path / "checkpoints").iterdir())) == 2


class TestLog:
    def test_rows_say_what_happened(self, tmp_path):
        case = fakes.case("two_players")
        _, _, log = fitted(case, replace(CONFIG, log_every=10), tmp_path)
        rows = [json.loads(line) for line in log.decode().splitlines()]
        train = [row for row in rows if row["split"] == "train"]
        assert [(row["step"], row["player"]) for row in train] == [
            (step, player) for step in (1, 11, 21, 24) for player in ("generator", "critic")
        ]
        assert set(train[0]) == {
            *("step", "split", "player", "loss", "squared_error", "kl_nats", "learning_rate", "gradient_norm")
        }
        valid = [row for row in rows if row["split"] == "valid" and row["player"] == "generator"]
        assert [row["step"] for row in valid] == [5, 10, 15, 20, 24]
        assert set(valid[0]) == {"step", "split", "player", "loss", "squared_error", "kl_nats"}

    def test_a_term_that_does_not_apply_to_a_clip_does_not_count(self, tmp_path):
        from stages.training.log import means

        parts = [torch.tensor([1.0, torch.nan]), torch.tensor([3.0])]
        assert means({"a": parts, "b": [torch.tensor([torch.nan])]}) == {"a": 2.0}

    def test_the_best_validation_after_half_of_the_steps_is_exported(self, tmp_path):
        """A family whose criterion is best at first: unquantised, say."""
        case = fakes.case("energy")
        model = case.model()
        plain = type(model).loss

        class Late(type(model)):
            def loss(self, batch, player, step):
                found = plain(self, batch, player, step)
                wanted = {5: 0.0, 10: 1.0, 15: 3.0, 20: 2.0, 24: 4.0}.get(step + 1, 9.0)
                return replace(found, terms={"score_error": torch.full_like(found.total, wanted).detach()})

        model.__class__ = Late
        best = loop.fit(model, case.dataset(), case.dataset(), CONFIG, tmp_path)
        assert best == loop.Best(20, "score_error", 2.0)
        other = case.model()
        other.__class__ = Late
        best = loop.fit(other, case.dataset(), case.dataset(), replace(CONFIG, select_after=0.0), tmp_path / "all")
        assert best.num_steps == 5

    def test_without_validation_clips_the_last_average_is_exported(self, tmp_path):
        case = fakes.case("energy")
        best = loop.fit(case.model(), case.dataset(), replace(case.dataset(), codes=[]), CONFIG, tmp_path)
        assert best == loop.Best(24, None, None)


class TestRefusals:
    def test_a_clip_that_is_not_finite_is_named_and_nothing_is_updated(self, tmp_path):
        case = fakes.case("coupling", num=4)
        case.codes[2].data[:] = np.nan
        model = case.model()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(ValueError, match=r"step 0, player model: the loss is not finite on sound2; nothing was"):
            whole = replace(CONFIG, crop_steps=0)
            loop.fit(model, case.dataset(), replace(case.dataset(), codes=[]), whole, tmp_path)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_a_gradient_that_is_not_finite_is_traced_to_its_clip(self, tmp_path):
        """The square root at zero: a finite loss with an infinite slope."""
        case = fakes.case("coupling", num=4)
        model = case.model()
        bias = model.nets[0][2].bias
        plain = type(model).loss

        class Rooted(type(model)):
            def loss(self, batch, player, step):
                found = plain(self, batch, player, step)
                root = (0 * bias).sum().sqrt()
                extra = torch.stack([root if name == "sound1" else 0 * bias.sum() for name in batch.ids])
                return replace(found, total=found.total + extra)

        model.__class__ = Rooted
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(ValueError, match="gradient is not finite on sound1; nothing"):
            whole = replace(CONFIG, crop_steps=0)
            loop.fit(model, case.dataset(), replace(case.dataset(), codes=[]), whole, tmp_path)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_config_says_everything_that_is_wrong(self):
        with pytest.raises(ValueError) as told:
            replace(CONFIG, num_steps=0, learning_rate=0.0, ema_decay=1.5, num_micro_batches=9)
        assert [line.split(" = ")[0] for line in str(told.value).splitlines()] == [
            *("num_steps", "learning_rate", "ema_decay", "num_micro_batches")
        ]


def test_bfloat16_stays_near_float32_and_the_weights_stay_float32(tmp_path):
    case = fakes.case("coupling")
    logs = []
    for precision in ("float32", "bfloat16"):
        model = case.model()
        config = replace(CONFIG, precision=precision)
        loop.fit(model, case.dataset(), case.dataset(), config, tmp_path / precision)
        assert all(value.dtype == torch.float32 for value in model.state_dict().values())
        rows = [json.loads(line) for line in (tmp_path / precision / "log.jsonl").read_text().splitlines()]
        logs.append([row["loss"] for row in rows if row["split"] == "train"])
    assert logs[0] != logs[1]
    assert np.allclose(logs[0], logs[1], rtol=0.02)


def test_a_killed_process_leaves_a_checkpoint_that_goes_on(tmp_path):
    """SIGKILL, which nothing can catch, in a process of its own; then the rest here."""
    case = fakes.case("quantised")
    whole = fitted(case, CONFIG, tmp_path / "whole")
    script = (
        "import os, sys; from pathlib import Path; from tests import fakes; from tests.laws.test_training import *\n"
        "stop = lambda row: os.kill(os.getpid(), 9) if row['step'] == 17 else None\n"
        "fitted(fakes.case('quantised'), CONFIG, Path(sys.argv[1]), stop)"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "cut"], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    shutil.copytree(tmp_path / "cut", tmp_path / "copy")
    same(fitted(case, CONFIG, tmp_path / "cut"), whole)


@pytest.mark.parametrize("number", interrupt.SIGNALS)
def test_echoes_of_a_signal_are_one_request_and_a_later_one_is_another(number, monkeypatch):
    heard = []
    outside = signal.signal(number, lambda *_: heard.append(number))
    try:
        with interrupt.watched() as request:
            for _ in range(3):  # as the kernel tells the child of many threads
                signal.raise_signal(number)
            assert request.signal == number and heard == []
            now = time.monotonic()
            monkeypatch.setattr(time, "monotonic", lambda: now + interrupt.ECHO_S)
            signal.raise_signal(number)
            assert heard == [number]
    finally:
        signal.signal(number, outside)
