"""Train the judge of images: a small network that reads digits, for its features and its opinion.

Its accuracy is that on the corpus' official test part, of which it learns nothing; without one it is found by 5-fold
cross-validation, and the judge that is kept then learns from every image: a judge that knew the training images better
than the test images would see a difference between them that is none of theirs.
"""

from pathlib import Path

import numpy as np
import torch

from stages.networks import digit_cnn
from stages.pipeline import artifacts, stage
from stages.pipeline.params import Params
from stages.pipeline.stage import Needs
from stages.training import device, reader
from stages.training.reader import ReaderConfig


def configure(params: Params, key: str | None) -> Needs | None:
    config = params.block(f"classifiers.{key}", ReaderConfig)
    return None if config is None else Needs(config)


def run(config: ReaderConfig, raw: Path, model: Path) -> None:
    """Train, and write the network with its accuracy."""
    known = reader.read(config, raw)
    parts = [known.held_out] if known.held_out.any() else reader.folds(config, len(known.label))
    scores = []
    with device.repeatable(config.num_threads):
        for part in parts:
            network = reader.fit(config, known, torch.nonzero(~part)[:, 0])
            scores.append(reader.accuracy(network, known, torch.nonzero(part)[:, 0]))
        if len(parts) > 1:
            network = reader.fit(config, known, torch.arange(len(known.label)))
    facts = {
        "accuracy": float(np.mean(scores)),
        "accuracy_by_fold": scores,
        "num_images": len(known.label),
        "num_features": digit_cnn.NUM_FEATURES,
        "num_classes": known.num_classes,
        "height": known.pixels.shape[1],
        "width": known.pixels.shape[2],
    }
    print(f"reads {facts['accuracy']:.2%} of the held-out images ({len(parts)} part(s) of {len(known.label)} images)")
    with artifacts.new_folder(model) as draft:
        digit_cnn.save(draft, network, facts)


if __name__ == "__main__":
    stage.main(run)
