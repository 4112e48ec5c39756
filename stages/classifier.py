"""Train the judge: a small network that names the General MIDI instrument of a solo note.

It learns from the SoundFont alone, never from a corpus: every pitch from C2 to C6 on every pitched program, a second
each, at one level. Every fifth pitch is held out; the accuracy there is reported. What matters is not the accuracy but
that its features are the same for every corpus and every run.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from stages.media import notes
from stages.media.notes import PITCHES, PROGRAMS
from stages.networks import instrument_cnn
from stages.networks.instrument_cnn import RATE_HZ, InstrumentCNN, Mel
from stages.pipeline import artifacts, stage
from stages.pipeline.params import Params
from stages.pipeline.stage import Needs

HELD_OUT = 5
"""Of so many pitches one is held out."""
LEVEL_DEVIATION = 0.7
"""Of the random gain in training, in nepers."""


@dataclass(frozen=True)
class Config:
    num_steps: int
    seed: int
    batch_size: int = 192
    learning_rate: float = 1.5e-2
    weight_decay: float = 0.05
    num_threads: int = 2  # thread count changes float results

    def __post_init__(self) -> None:
        if min(self.num_steps, self.batch_size, self.num_threads) < 1:
            raise ValueError("num_steps, batch_size and num_threads must be at least 1")


@dataclass(frozen=True)
class Notes:
    """Mel magnitudes of solo notes [n, 64, num_frames], the place of each one's program in PROGRAMS, its pitch."""

    mel: Tensor
    label: Tensor
    pitch: Tensor


def configure(params: Params, key: str | None) -> Needs | None:
    config = params.block(f"classifiers.{key}", Config)
    return None if config is None else Needs(config)


def run(config: Config, model: Path) -> None:
    """Render the notes, train, and write the network with its accuracy on the held-out pitches."""
    torch.set_num_threads(config.num_threads)
    torch.set_deterministic_debug_mode("error")
    known = render()
    held_out = known.pitch % HELD_OUT == 2
    network = fit(config, known, torch.nonzero(~held_out)[:, 0])
    facts = {
        "accuracy": accuracy(network, known, torch.nonzero(held_out)[:, 0]),
        "accuracy_of_training": accuracy(network, known, torch.nonzero(~held_out)[:, 0]),
        "num_classes": len(PROGRAMS),
        "num_notes": len(known.label),
        "num_notes_held_out": int(held_out.sum()),
        "num_features": instrument_cnn.NUM_FEATURES,
        "programs": list(PROGRAMS),
    }
    print(f"names the instrument of {facts['accuracy']:.1%} of the held-out notes ({len(PROGRAMS)} instruments)")
    with artifacts.new_folder(model) as draft:
        instrument_cnn.save(draft, network, facts)


def render() -> Notes:
    """Every pitch on every program that the SoundFont can sing."""
    rows = [
        (label, pitch, samples)
        for label, program in enumerate(PROGRAMS)
        for pitch, samples in notes.solo(program, PITCHES, RATE_HZ).items()
    ]
    convert = Mel()
    mel = torch.cat([convert(part) for part in torch.from_numpy(np.stack([row[2] for row in rows])).split(256)])
    return Notes(mel, torch.tensor([row[0] for row in rows]), torch.tensor([row[1] for row in rows]))


def fit(config: Config, known: Notes, chosen: Tensor) -> InstrumentCNN:
    """Train on the chosen notes, at random levels and moments."""
    torch.manual_seed(config.seed)
    network = InstrumentCNN(len(PROGRAMS)).train()
    optimiser = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=config.num_steps + 1, pct_start=0.2
    )
    for _ in range(config.num_steps):
        batch = chosen[torch.randint(len(chosen), (config.batch_size,))]
        gain = torch.exp(LEVEL_DEVIATION * torch.randn(config.batch_size, 1, 1))
        mel = torch.roll(gain * known.mel[batch], int(torch.randint(known.mel.shape[2] // 2, ())), dims=2)
        loss = functional.cross_entropy(network(mel), known.label[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


@torch.no_grad()
def accuracy(network: InstrumentCNN, known: Notes, chosen: Tensor) -> float:
    """The share of the chosen notes whose instrument is named right."""
    named = torch.cat([network(known.mel[part]).argmax(dim=1) for part in chosen.split(256)])
    return float((named == known.label[chosen]).double().mean())


if __name__ == "__main__":
    stage.main(run)
