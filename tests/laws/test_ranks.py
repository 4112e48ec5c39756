"""Several processes that train one model are one process with the whole batch; and what they do when one has bad news.

The batch of five clips is shared as two and three. In float64: tolerances are the rounding of sums in another order.
"""

import json
import os
import re
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.pipeline import ranks
from stages.protocols.model import Masked
from stages.training import loop, summed
from stages.training.config import TrainConfig
from stages.training.loader import Loader
from tests import fakes, together
from tests.laws.test_every_family import Trial

NUM_STEPS = 4
CONFIG = TrainConfig(
    num_steps=NUM_STEPS,
    batch_size=5,
    learning_rate=1e-3,
    num_threads=1,
    seed=0,
    crop_steps=20,
    num_warmup_steps=1,
    log_every=1,
    checkpoint_every=2,
)
CASES = {
    "a codebook that starts by k-means and restarts entries": ("autoencoder", {"codebook_size": 64}, {}),
    "muon": ("autoencoder", {}, {"optimizer": "muon"}),
    "forward mode beside a codebook": ("improved_mean_flow", {"fraction_equal": 0.3}, {}),
    "forward mode with a head": ("improved_mean_flow", {"velocity": "head", "fraction_equal": 0.0}, {}),
    "no clip of a rank needs forward mode": ("mean_flow", {"fraction_equal": 0.9}, {}),
    "parameters that thaw": ("mean_flow", {"encoder": "frozen", "flow_start": 0.5}, {}),
    "micro-batches": ("improved_mean_flow", {"quantiser": "none"}, {"num_micro_batches": 2}),
    "two players": ("adversarial_autoencoder", {"adversarial_start": 0.5}, {}),
}


def trained(case, folder, num):
    """Some steps in float64 from the start; weights, codebooks, averages and gradients go to a file of each rank."""
    family, settings, changes = CASES[case]
    trial = Trial(family, **settings)
    config = replace(CONFIG, processes=num, **changes)
    model = trial.model().double()
    run = loop.Run(model, replace(trial.data, codes=[]), config, folder / "work", lambda row: None)
    loader = Loader(trial.data, config.batch_size, config.crop_steps, config.seed)
    for step in range(config.num_steps):
        batch = loader.batch(step)
        run.step(step, replace(batch, data=Masked(batch.data.value.double(), batch.data.mask)))
    run.close()
    left = {f"model/{name}": value for name, value in model.state_dict().items()}
    left |= {f"average/{name}": value for name, value in run.average.values.items()}
    left |= {f"gradient/{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    save_file({name: value.clone() for name, value in left.items()}, folder / f"left_{ranks.rank()}")


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_are_one_process_with_the_whole_batch(case, tmp_path):
    (tmp_path / "one").mkdir()
    trained(case, tmp_path / "one", 1)
    assert together.run(2, tmp_path, trained, case, tmp_path, 2) == [0, 0], (tmp_path / "told_0").read_text()
    one, first, second = (load_file(tmp_path / name) for name in ("one/left_0", "left_0", "left_1"))
    assert one.keys() == first.keys() == second.keys() and any(name.startswith("gradient/") for name in one)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
        assert (value.double() - one[name].double()).norm() <= 1e-9 * one[name].double().norm() + 1e-9, name
    rows, expected = (numbers(folder / "work/log.jsonl") for folder in (tmp_path, tmp_path / "one"))
    assert len(rows) == len(expected) >= NUM_STEPS and len(rows[0]) > 4
    torch.testing.assert_close(rows, expected, rtol=1e-6, atol=1e-9)


def numbers(log):
    """Those of every row; the use of codebooks that rest is each rank's own, of its own clips."""
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    resting = [row for row in rows if "codebook_usage" in row and "dead_code_restarts" not in row]
    for row in resting:
        del row["codebook_usage"]
    return [{name: value for name, value in row.items() if not isinstance(value, str)} for row in rows]


def unsynchronised(folder):
    """The trap: every rank steps by its own gradient."""
    summed.over_ranks = lambda parameters, num: num
    trained("muon", folder, 2)


def test_gradients_that_are_not_summed_are_noticed_before_anything_is_saved(tmp_path):
    assert together.run(2, tmp_path, unsynchronised, tmp_path) == [1, 1]
    for rank in range(2):
        assert (
            "differ between ranks, so their training has come apart: average/"
            in (tmp_path / f"told_{rank}").read_text()
        )
    assert not list((tmp_path / "work").glob("checkpoints/*"))


def fake(family, folder, change=lambda case: None):
    """A fake family through the whole loop."""
    case = fakes.case(family)
    change(case)
    config = replace(CONFIG, num_steps=9, batch_size=4, crop_steps=0, processes=2)
    valid = replace(case.dataset(), codes=case.codes[:3])
    loop.fit(case.model(), case.dataset(), valid, config, folder / "work")


def bad_clip(case):
    case.codes[2].data[:] = torch.nan


def test_a_loss_that_is_not_finite_on_one_rank_stops_all_and_names_the_clip(tmp_path):
    assert together.run(2, tmp_path, fake, "coupling", tmp_path, bad_clip) == [1, 1]
    for rank in range(2):
        told = (tmp_path / f"told_{rank}").read_text()
        assert re.search(r"step \d, player model: the loss is not finite on sound2; nothing was updated", told), told


def rooted(folder):
    """The square root at zero, of one clip: a finite loss with an infinite slope."""
    plain = fakes.Coupling.loss

    def loss(self, batch, player, step):
        found = plain(self, batch, player, step)
        zero = 0 * next(self.parameters()).sum()
        return replace(
            found, total=found.total + torch.stack([zero.sqrt() if n == "sound1" else zero for n in batch.ids])
        )

    fakes.Coupling.loss = loss
    fake("coupling", folder)


def test_a_gradient_that_is_not_finite_on_one_rank_is_traced_by_all(tmp_path):
    assert together.run(2, tmp_path, rooted, tmp_path) == [1, 1]
    for rank in range(2):
        told = (tmp_path / f"told_{rank}").read_text()
        assert "the gradient is not finite on sound1; nothing was updated" in told, told


def signalled(folder):
    """Rank 1 alone is told to stop, in the middle of a step."""
    plain = loop.Run.step

    def step(self, number, batch):
        if number == 4 and ranks.rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        plain(self, number, batch)

    loop.Run.step = step
    fake("coupling", folder)


def test_a_signal_to_one_rank_stops_all_after_the_same_step(tmp_path):
    assert together.run(2, tmp_path, signalled, tmp_path) == [143, 143]
    assert max(path.name for path in (tmp_path / "work/checkpoints").iterdir()) == "step_000000005"


def gathering():
    own = torch.arange(3.0 * ranks.rank()).reshape(-1, 3)  # 0 rows, 1 row, 2 rows
    assert ranks.gathered(own).tolist() == [[0, 1, 2], [0, 1, 2], [3, 4, 5]]
    assert ranks.total(torch.tensor([1.0, ranks.rank()])).tolist() == [3, 3]
    assert ranks.told(ranks.rank()) == [0, 1, 2] and ranks.most(-ranks.rank()) == 0
    held = torch.tensor([ranks.rank() == 0, False])
    ranks.from_first([held])
    assert held.tolist() == [True, False]
    shares = ranks.told(list(ranks.share(7)))
    assert sum(shares, []) == list(range(7)) and {len(share) for share in shares} == {2, 3}
    with ranks.apart():
        assert ranks.count() == 1 and len(ranks.gathered(own)) == len(own)


def test_what_ranks_tell_each_other(tmp_path):
    assert together.run(3, tmp_path, gathering) == [0, 0, 0], (tmp_path / "told_1").read_text()


def lonely():
    os._exit(9) if ranks.rank() == 1 else ranks.barrier()


def test_a_rank_that_lost_another_says_so(tmp_path):
    assert together.run(2, tmp_path, lonely) == [1, 9]
    assert "rank 0 lost another" in (tmp_path / "told_0").read_text()


def test_one_process_is_the_whole(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    rows = torch.ones(2, 3)
    with ranks.joined(1), ranks.first_alone():
        assert ranks.first() and ranks.count() == 1 and list(ranks.share(5)) == list(range(5))
        assert ranks.gathered(rows) is rows and ranks.total(rows) is rows and ranks.told(3) == [3]
        assert not torch.distributed.is_initialized()


def test_another_number_of_processes_than_the_params_say_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    for num in (1, 2):
        with pytest.raises(ValueError, match=f"train.processes = {num}, but WORLD_SIZE says that 4 were started"):
            with ranks.joined(num):
                pass


def test_every_process_must_have_a_clip():
    with pytest.raises(ValueError, match="processes = 3, each with num_micro_batches = 2: more than batch_size = 5"):
        replace(CONFIG, processes=3, num_micro_batches=2)
