"""A trained model as a codec: codes of clips -> bytes, bytes -> clips, and new clips from seeds alone.

Everything here sees a model folder's contents and nothing of the corpus.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stages.media import bitstream
from stages.pipeline import params, plugins
from stages.pipeline.params import Params
from stages.protocols.model import Masked, Request
from stages.protocols.spec import Code, Field
from stages.training import batches
from stages.training.model_folder import Loaded


@dataclass(frozen=True)
class Chosen:
    """What an experiment's coding stages read of params.yaml besides their own numbers."""

    sampling: Mapping[str, Any]
    """The family's Sampling as plain data."""
    plugins: tuple[tuple[str, str], ...]


def choose(tree: Params, key: str | None) -> Chosen | None:
    """For `configure`: the experiment's plugins and its sampling; None after problems."""
    experiment = tree.experiment(str(key))
    if experiment is None:
        return None
    module = tree.mapping(f"representations.{experiment.representation}").get("module")
    loads = [("families", experiment.family), ("representations", str(module))]
    loads += [("networks", experiment.network)] if experiment.network else []
    try:
        family: Any = plugins.load("families", experiment.family)
    except ValueError as problem:
        tree.problem(f"experiments.{key}.family: {problem}")
        return None
    sampling = tree.shared("sample", family.Sampling, experiment.sample, where=f"experiments.{key}.sample")
    return None if sampling is None else Chosen(params.plain(sampling), tuple(loads))


def sampling_of(loaded: Loaded, values: Mapping[str, Any]) -> Any:
    """The family's Sampling, from a stage's config."""
    return params.parse(type(loaded.model).Sampling, values, where="sample")


def layout(loaded: Loaded) -> bitstream.Layout:
    """What this model's streams look like; ValueError where it has no latent to write."""
    model, facts = loaded.model, loaded.facts
    if model.latent is None:
        raise ValueError(f"{facts['name']} has no latent, so nothing can be compressed with it")
    written = model.codes or model.latent
    return bitstream.Layout(
        f"{facts['version']} {facts['sha256']['model.safetensors']}", written.frame, model.codes and written.num_classes
    )


@torch.no_grad()
def to_bytes(loaded: Loaded, codes: Sequence[Code], seeds: Sequence[int], entropy_coding: bool) -> list[bytes]:
    """One stream per clip. Clips of one length make a batch without padding: pass those together."""
    form, device = layout(loaded), next(loaded.model.parameters()).device
    batch = batches.to(batches.collate(codes, seeds, loaded.representation.spec), device)
    latent = loaded.model.encode(batch)
    written = loaded.model.quantise(latent) if loaded.model.codes is not None else latent
    values, masks = written.value.cpu().numpy(), written.mask.cpu().numpy()
    streams = []
    for code, seed, value, mask in zip(codes, seeds, values, masks, strict=True):
        steps = mask.reshape(len(mask), -1).any(axis=1)
        if not mask[steps].all() or not code.mask.all():
            raise ValueError(f"{code.id}: steps that are masked in part cannot be written in a stream")
        stream = bitstream.Stream(seed, len(code.data), code.side, value[steps])
        streams.append(bitstream.pack(stream, form, loaded.representation.side, entropy_coding))
    return streams


def from_bytes(loaded: Loaded, data: bytes, name: str) -> bitstream.Stream:
    """Read one stream; bitstream.Refused, naming it, where it is not this model's."""
    return bitstream.unpack(data, name, layout(loaded), loaded.representation.side)


@torch.no_grad()
def decode(loaded: Loaded, names: Sequence[str], streams: Sequence[bitstream.Stream], sampling: Any) -> list[Any]:
    """The streams' clips, each driven by its own seed. All must have as many steps."""
    device = next(loaded.model.parameters()).device
    coded = torch.from_numpy(np.stack([stream.codes for stream in streams])).to(device)
    written = Masked(coded, torch.ones(coded.shape[:2], dtype=torch.bool, device=device))
    latent = loaded.model.dequantise(written) if loaded.model.codes is not None else written
    seeds, num_steps = [stream.seed for stream in streams], [stream.num_steps for stream in streams]
    codes = _generate(loaded, names, seeds, num_steps, {"latent": latent}, sampling)
    sides = [stream.side for stream in streams]
    whole = [Code(code.id, code.data, code.mask, side=side) for code, side in zip(codes, sides, strict=True)]
    return [loaded.representation.decode(code) for code in whole]


@torch.no_grad()
def new(
    loaded: Loaded,
    names: Sequence[str],
    seeds: Sequence[int],
    num_steps: int,
    sampling: Any,
    conditions: Mapping[str, Masked] | None = None,
) -> list[Any]:
    """New clips from their seeds, given conditions of the spec or none at all."""
    codes = _generate(loaded, names, seeds, [num_steps] * len(seeds), conditions or {}, sampling)
    return [loaded.representation.decode(code) for code in codes]


@torch.no_grad()
def round_trip(loaded: Loaded, codes: Sequence[Code], seeds: Sequence[int], sampling: Any) -> list[Any]:
    """The clips through encoder, quantiser and decoder, without bytes between. All must have as many steps."""
    model, spec = loaded.model, loaded.representation.spec
    latent = model.encode(batches.to(batches.collate(codes, seeds, spec), next(model.parameters()).device))
    if model.codes is not None:
        latent = model.dequantise(model.quantise(latent))
    names, lengths = [code.id for code in codes], [len(code.data) for code in codes]
    made = _generate(loaded, names, seeds, lengths, {"latent": latent}, sampling)
    return [loaded.representation.decode(code) for code in made]


def _generate(
    loaded: Loaded,
    names: Sequence[str],
    seeds: Sequence[int],
    num_steps: Sequence[int],
    conditions: Mapping[str, Masked],
    sampling: Any,
) -> list[Code]:
    model, representation = loaded.model, loaded.representation
    device = next(model.parameters()).device
    absent = {name: _unknown(len(seeds), field, device) for name, field in representation.spec.conditions.items()}
    request = Request(
        torch.tensor(seeds, dtype=torch.int64),
        torch.tensor(num_steps, dtype=torch.int64),
        absent | dict(conditions),
        grammar=representation.grammar({}),
    )
    made = model.generate(request, sampling)
    values, masks = made.value.cpu().numpy(), made.mask.cpu().numpy()
    codes = []
    for name, value, mask in zip(names, values, masks, strict=True):
        steps = mask.reshape(len(mask), -1).any(axis=1)
        codes.append(Code(name, value[steps], mask[steps], side=representation.side(int(steps.sum()))))
    return codes


def _unknown(num: int, field: Field, device: torch.device) -> Masked:
    empty = batches.unknown(num, field)
    return Masked(empty.value.to(device), empty.mask.to(device))


def alike(streams: Mapping[str, bitstream.Stream], most: int) -> Iterator[list[str]]:
    """Names of streams with equal numbers of steps, at most `most` at once, in a fixed order."""
    groups: dict[tuple[int, int], list[str]] = {}
    for name in sorted(streams):
        groups.setdefault((streams[name].num_steps, len(streams[name].codes)), []).append(name)
    for _, names in sorted(groups.items()):
        yield from (names[start : start + most] for start in range(0, len(names), most))
