"""What the training loop reads: the shared section `train`, with an experiment's overrides."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainConfig:
    """Every number of the loop; what a family alone needs stands in its own Config."""

    num_steps: int
    """Optimiser steps."""
    batch_size: int
    """Clips per step, over all micro-batches."""
    learning_rate: float
    """The peak, reached after the warm-up; a cosine takes it to zero at the last step."""
    num_threads: int
    """Set by the stage: the number of threads changes float results, so it must not be the machine's."""
    seed: int
    """Where order, crops, noise and library randomness of every step start."""
    crop_steps: int = 150
    """Steps of one training example (2 s at 75 frames a second); 0 takes whole clips."""
    num_micro_batches: int = 1
    """Parts of a batch that are computed one after the other, for models that do not fit; the gradient is the same."""
    processes: int = 1
    """Processes that train together, each on its share of every batch and a GPU of its own where there are GPUs: a
    result of two differs from one's as much as additions in another order do."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: Muon for the matrices of the network, AdamW for everything else."""
    weight_decay: float = 0.01
    """On parameters of two dimensions or more."""
    num_warmup_steps: int = 50
    max_gradient_norm: float = 1.0
    """Gradients are scaled down to this norm, per player."""
    ema_decay: float = 0.999
    """Of the averaged weights that are validated and exported; lower in the first steps, see ema.py."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """bfloat16: autocast around the loss; validation stays in float32. auto: so on a GPU that computes in it, and never
    on a CPU: many have no instructions for it and are 30 times slower then, and results would depend on which."""
    log_every: int = 10
    validate_every: int = 250
    num_validation_clips: int = 64
    """Fixed crops of the valid split."""
    checkpoint_every: int = 250
    select_after: float = 0.5
    """Only validations after this fraction of the steps may choose the exported weights: before it a family's
    schedule (a quantiser that starts late) makes figures that cannot be compared."""

    def __post_init__(self) -> None:
        positive = ("num_steps", "batch_size", "num_threads", "num_micro_batches", "processes", "log_every")
        problems = [
            f"{name} = {getattr(self, name)}: expected at least 1"
            for name in (*positive, "validate_every", "checkpoint_every")
            if getattr(self, name) < 1
        ]
        problems += [
            f"{name} = {getattr(self, name)}: expected at least 0"
            for name in ("seed", "crop_steps", "num_warmup_steps", "num_validation_clips", "weight_decay")
            if getattr(self, name) < 0
        ]
        problems += [
            f"{name} = {getattr(self, name)}: expected more than 0"
            for name in ("learning_rate", "max_gradient_norm")
            if not getattr(self, name) > 0
        ]
        problems += [
            f"{name} = {getattr(self, name)}: expected 0 to 1"
            for name in ("ema_decay", "select_after")
            if not 0 <= getattr(self, name) <= 1
        ]
        if self.num_micro_batches > self.batch_size:
            problems.append(f"num_micro_batches = {self.num_micro_batches}: more than batch_size = {self.batch_size}")
        elif self.processes * self.num_micro_batches > self.batch_size:
            problems.append(
                f"processes = {self.processes}, each with num_micro_batches = {self.num_micro_batches}: "
                f"more than batch_size = {self.batch_size}, so a process would have none"
            )
        if problems:
            raise ValueError("\n".join(problems))
