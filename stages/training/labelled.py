"""Images of a trained model: new ones for asked-for labels, or held-out ones through its codec.

A family that needs a latent has no prior: what it can show is a reconstruction, which knows the image it is compared
with. Every other family makes each class equally often, each image from a seed of its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from stages.media import image
from stages.protocols.model import Masked
from stages.protocols.spec import Code
from stages.training import coding, seeds
from stages.training.model_folder import Loaded

AT_ONCE = 500


def images(loaded: Loaded, held_out: Sequence[Code], num: int, seed: int, sampling: Any) -> list[image.Clip]:
    """`num` new images, or the held-out ones reconstructed."""
    if "latent" in loaded.model.needs:
        return [clip for part in parts(len(held_out)) for clip in again(loaded, held_out[part], seed, sampling)]
    return [clip for part in parts(num) for clip in new(loaded, range(num)[part], seed, sampling)]


def parts(num: int) -> Iterator[slice]:
    return (slice(start, min(start + AT_ONCE, num)) for start in range(0, num, AT_ONCE))


def again(loaded: Loaded, codes: Sequence[Code], seed: int, sampling: Any) -> list[image.Clip]:
    own = [seeds.derive(seed, "again", code.id) for code in codes]
    known = [image.labels(code.conditions) for code in codes]
    made = coding.round_trip(loaded, codes, own, sampling)
    return [replace(clip, labels=labels) for clip, labels in zip(made, known, strict=True)]


def new(loaded: Loaded, numbers: Sequence[int], seed: int, sampling: Any) -> list[image.Clip]:
    """Image k is of class k modulo the number of classes; the spec's only condition is the label."""
    spec = loaded.representation.spec
    ((name, field),) = spec.conditions.items()
    assert field.num_classes is not None and spec.data.num_steps is not None, "labelled images of one size"
    digits = [number % field.num_classes for number in numbers]
    own = [seeds.derive(seed, "new", number) for number in numbers]
    label = Masked(torch.tensor(digits)[:, None], torch.ones(len(digits), 1, dtype=torch.bool))
    device = next(loaded.model.parameters()).device
    given = {name: Masked(label.value.to(device), label.mask.to(device))}
    names = [f"new-{number:05d}" for number in numbers]
    made = coding.new(loaded, names, own, spec.data.num_steps, sampling, given)
    return [replace(clip, labels={name: digit}) for clip, digit in zip(made, digits, strict=True)]
