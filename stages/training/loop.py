"""The training loop, the only one for generative models.

At step s every player of the family updates its own parameters by the gradient of the mean over clips of its loss

    g = (1 / B) sum_i d L_i / d theta,      scaled down to max_gradient_norm,

summed over micro-batches, which is exact because losses are per clip (but for the codebooks of an rvq, which follow
every micro-batch). The order of clips, their crops and noise, the learning rate and torch's global generator (for
libraries that draw from it) are functions of (seed, s): a resumed run repeats the unbroken one bit by bit with
parameters, buffers, optimisers, averages and log position saved alone.

With several processes (pipeline/ranks.py) each computes its share of the clips, the sum over micro-batches becomes one
over these and ranks (training/summed.py), and from equal gradients every rank does the same step. Rank 0 validates and
writes; before it saves, all must have the same bytes.

Validation looks at fixed crops with the averaged weights in float32. The exported weights are the averaged ones of the
validation with the lowest criterion (the first player's), among those after `select_after` of the steps; the last
weights where the valid split is empty.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from stages.pipeline import checkpoints, params, ranks
from stages.protocols.model import Batch, GenerativeModel, Loss
from stages.training import batches, device, interrupt, seeds, summed
from stages.training.config import TrainConfig
from stages.training.ema import Average
from stages.training.loader import Dataset, Loader, ahead
from stages.training.log import Log, means
from stages.training.optimiser import Optimiser, learning_rate

Row = Mapping[str, Any]
Weights = Mapping[str, Tensor]
LOG = "log.jsonl"
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Best:
    """The exported weights: after how many steps, and their validation criterion (None: there was no validation)."""

    num_steps: int
    criterion: str | None
    value: float | None
    calibrated: Mapping[str, float] = field(default_factory=dict)
    """What the model chose on the validation clips for decoding."""


def fit(
    model: GenerativeModel,
    train: Dataset,
    valid: Dataset,
    config: TrainConfig,
    work: Path,
    listen: Callable[[Row], None] = lambda row: None,
) -> Best:
    """Train `model` in place, where it is; afterwards it is in eval mode with the best averaged weights.

    `work` keeps log.jsonl and the checkpoints; a run killed at any time goes on from there. `listen` hears every row
    of the log. SystemExit after SIGTERM or SIGINT, with a checkpoint. ValueError names clips with non-finite losses.
    Of several ranks the first alone has the best weights, the log and what is heard.
    """
    run = Run(model, valid, config, work, listen)
    loader = Loader(train, config.batch_size, config.crop_steps, config.seed)
    steps = range(run.num_done, config.num_steps)
    model.train()
    pause_s = 0.5 if sys.stderr.isatty() else 30
    bar = tqdm(total=config.num_steps, initial=steps.start, unit="step", mininterval=pause_s, disable=not ranks.first())
    with closing(run), interrupt.watched() as request, bar:
        with closing(ahead(loader.batch, steps)) as upcoming:
            for step, batch in zip(steps, upcoming, strict=True):
                run.step(step, batch)
                bar.set_postfix(run.shown, refresh=False)
                bar.update()
                if number := ranks.most(request.signal):
                    run.save(step + 1)
                    raise SystemExit(interrupt.exit_code(number))
    return run.finish()


class Run:
    """The state of one training run: everything that step s + 1 takes from step s."""

    def __init__(
        self, model: GenerativeModel, valid: Dataset, config: TrainConfig, work: Path, listen: Callable[[Row], None]
    ) -> None:
        self.model = model
        self.config = config
        self.work = work
        self.listen = listen
        self.device = next(model.parameters()).device
        self.halves = device.halves(self.device, config.precision)
        ranks.from_first(list(model.state_dict().values()))
        self.average = Average(model, config.ema_decay)
        self.optimisers: dict[str, Optimiser] = {}
        looked_at = config.num_validation_clips if ranks.first() else 0
        self.valid = Loader(valid, config.batch_size, config.crop_steps, 0).fixed(looked_at)
        self.best: Best | None = None
        self.best_weights: Weights = {}
        self.num_done = 0
        settings = {"train": params.plain(config), "model": params.plain(model.config), "work": work.name}
        self.made_by = dict(params.leaves(settings))  # the name of `work` holds a hash of the plan and the data
        with ranks.first_alone():
            newest = checkpoints.newest(work / CHECKPOINTS, self.made_by)
        self.log = self.resume(newest)
        if len(begun := set(ranks.told(self.num_done))) > 1:
            raise ranks.Lost(f"ranks would go on from steps {sorted(begun)}: not all see the last checkpoint yet")
        self.shown: dict[str, str] = {}

    def step(self, step: int, batch: Batch) -> None:
        """One update of every player, then what is due: log, validation, checkpoint."""
        config, done = self.config, step + 1
        self.model.begin_step(step, config.num_steps)
        own = () if ranks.first() else (ranks.rank(),)  # no two ranks drop out the same; rank 0 does as one process
        torch.manual_seed(seeds.derive(config.seed, "step", step, *own))
        batch = batches.to(batch, self.device)
        for player in self.model.players(step):
            row = self.update(player, batch, step)
            if step % config.log_every == 0 or done == config.num_steps:
                self.note({"step": done, "split": "train", "player": player} | row())
        self.average.update(step)
        if done % config.validate_every == 0 or done == config.num_steps:
            self.validate(done)
        if done % config.checkpoint_every == 0 or done == config.num_steps:
            self.save(done)

    def update(self, player: str, batch: Batch, step: int) -> Callable[[], dict[str, float]]:
        """One player's optimiser step. Returns its log row, to be computed where it is wanted."""
        optimiser = self.optimiser(player)
        optimiser.clear()
        parameters = optimiser.active()
        losses, wrong = [], []
        for part in batches.split(batch, self.config.num_micro_batches):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.halves):
                loss = self.model(part, player, step)
            wrong += not_finite(loss, part)
            (loss.total.sum() / self.config.batch_size).backward(inputs=parameters)
            losses.append(loss)
        if summed.over_ranks(parameters, len(wrong)):
            raise NotFinite(f"step {step}, player {player}", ranks.told(wrong))
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.max_gradient_norm)
        if not norm.isfinite():
            self.blame(player, batch, step)
        rate = learning_rate(step, self.config)
        optimiser.step(rate)
        return lambda: summary(summed.gathered(losses)) | {"learning_rate": rate, "gradient_norm": norm.item()}

    def blame(self, player: str, batch: Batch, step: int) -> None:
        """Raise ValueError naming the clips whose gradient is not finite though their loss is."""
        parameters = self.optimiser(player).active()
        guilty = []
        for row, clip in enumerate(batch.ids):
            with ranks.apart():  # they have different clips, and perhaps not as many
                loss = self.model(batches.select(batch, [row]), player, step)
            gradients = torch.autograd.grad(loss.total.sum(), parameters, allow_unused=True)
            if not all(gradient.isfinite().all() for gradient in gradients if gradient is not None):
                guilty.append(clip)
        names = ", ".join(sum(ranks.told(guilty), []) or sum(ranks.told(list(batch.ids)), []))
        raise ValueError(
            f"step {step}, player {player}: the gradient is not finite on {names}; nothing was updated. "
            "Lower train.learning_rate, or look for a square root or logarithm of zero in the loss"
        )

    def validate(self, done: int) -> None:
        """Log the losses on the fixed crops, and keep the averaged weights where they are the best so far."""
        if not self.valid:
            return
        self.model.eval()
        with torch.no_grad(), self.average.applied():
            torch.manual_seed(seeds.derive("valid"))
            for first, player in enumerate(self.model.players(done - 1)):
                losses = []
                for batch in self.valid:
                    losses.append(self.model(batches.to(batch, self.device), player, done - 1))
                    if wrong := not_finite(losses[-1], batch):
                        raise NotFinite(f"validation after {done} steps, player {player}", [wrong])
                row = summary(losses)
                self.note({"step": done, "split": "valid", "player": player} | row)
                if first == 0:
                    self.consider(done, losses[0].criterion, row)
        self.model.train()

    def consider(self, done: int, criterion: str, row: Row) -> None:
        """Keep the model's present weights if they may be exported and nothing before was better."""
        value = row[criterion]
        late = done >= self.config.select_after * self.config.num_steps
        if late and (self.best is None or self.best.value is None or value < self.best.value):
            self.best = Best(done, criterion, value)
            self.best_weights = weights(self.model)

    def note(self, row: Row) -> None:
        if self.log is None:
            return
        self.log.write(row)
        self.listen(row)
        self.shown["loss" if row["split"] == "train" else "valid"] = f"{row['loss']:.4g}"

    def optimiser(self, player: str) -> Optimiser:
        if player not in self.optimisers:
            self.optimisers[player] = Optimiser(self.model, self.model.parameters_of(player), self.config)
        return self.optimisers[player]

    def finish(self) -> Best:
        """Put the exported weights into the model."""
        if self.best is None:
            with self.average.applied():
                self.best, self.best_weights = Best(self.config.num_steps, None, None), weights(self.model)
        self.model.load_state_dict(self.best_weights)
        self.model.eval()
        with torch.no_grad():
            chosen = self.model.calibrate(batches.to(batch, self.device) for batch in self.valid)
        return replace(self.best, calibrated=chosen)

    def save(self, done: int) -> None:
        """Write all that the next step depends on."""
        tensors = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average/{name}": value for name, value in self.average.values.items()}
        for player, optimiser in self.optimisers.items():
            tensors |= {f"optimiser/{player}/{name}": value for name, value in optimiser.state()}
        ranks.require_same(tensors)
        if self.log is None:
            return
        tensors |= {f"best/{name}": value for name, value in self.best_weights.items()}
        facts = {
            "log_position": self.log.position(),
            "log_sha256": self.log.sha256.hexdigest(),
            "players": list(self.optimisers),
            "best": self.best and [self.best.num_steps, self.best.criterion, self.best.value],
        }
        checkpoints.save(self.work / CHECKPOINTS, checkpoints.Checkpoint(done, tensors, facts, self.made_by))

    def resume(self, checkpoint: checkpoints.Checkpoint | None) -> Log | None:
        """Take up a checkpoint, where there is one. Returns the log as it was then; None: another rank has it."""
        if checkpoint is None:
            return Log(self.work / LOG) if ranks.first() else None
        self.num_done = checkpoint.step
        self.model.load_state_dict(under("model/", checkpoint.tensors))
        self.average.restore(under("average/", checkpoint.tensors))
        self.best_weights = under("best/", checkpoint.tensors)
        self.best = checkpoint.facts["best"] and Best(*checkpoint.facts["best"])
        for player in checkpoint.facts["players"]:
            self.optimiser(player).restore(under(f"optimiser/{player}/", checkpoint.tensors))
        if not ranks.first():
            return None
        print(f"going on from step {checkpoint.step} in {self.work}", file=sys.stderr)
        return Log(self.work / LOG, checkpoint.facts["log_position"], checkpoint.facts["log_sha256"])

    def close(self) -> None:
        if self.log is not None:
            self.log.close()


def weights(model: GenerativeModel) -> Weights:
    """A copy of the model's parameters and buffers, on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def under(prefix: str, tensors: Weights) -> dict[str, Tensor]:
    """The tensors whose names begin so, without the prefix."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def summary(losses: list[Loss]) -> dict[str, float]:
    """The mean over clips of the loss and its terms."""
    terms = {"loss": [loss.total.detach() for loss in losses]}
    return means(terms | {name: [loss.terms[name] for loss in losses] for name in losses[0].terms})


class NotFinite(ValueError):
    """Training cannot go on from such losses; the message names the clips, which each rank tells of its own."""

    def __init__(self, where: str, clips: Sequence[Sequence[str]]) -> None:
        names = ", ".join(clip for own in clips for clip in own)
        super().__init__(f"{where}: the loss is not finite on {names}; nothing was updated")


def not_finite(loss: Loss, batch: Batch) -> list[str]:
    """The clips whose loss is not finite. A term may be NaN: it does not apply to that clip."""
    finite = torch.stack([loss.total.isfinite(), *(~term.isinf() for term in loss.terms.values())]).all(0)
    return [clip for clip, good in zip(batch.ids, finite.tolist(), strict=True) if not good]
