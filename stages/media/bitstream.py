"""A compressed clip as bytes: everything a decoder needs besides the model, and a proof that nothing is missing.

    magic "PRTA", form, coding | identity (8 bytes) | seed int64 | num_steps, num_code_steps uint32 | side | codes | crc

All little-endian. `identity` is a digest of representation and model, so that a stream is never decoded by another.
`side` is the representation's side information (exact num_samples for audio), names sorted, types and shapes as
Representation.side gives them. Codes are packed at a fixed ceil(log2(num_classes)) bits each, or range coded where that
was asked for and is shorter, or are float16 where the latent is not quantised. The CRC-32 is over everything before it.
"""

import hashlib
import math
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from stages.numerics import range_coder

HEADER = struct.Struct("<4sBB8sqII")
MAGIC, FORM = b"PRTA", 1
FLOAT16, FIXED, RANGE = 0, 1, 2
MOST_STEPS = 1 << 24
"""Longer clips (62 hours at 75 steps a second) are refused, so that a forged header cannot ask for all memory."""


Side = Callable[[int], Mapping[str, np.ndarray]]


class Refused(ValueError):
    """These bytes are not a whole stream of this model; the message names them and says why."""


@dataclass(frozen=True)
class Layout:
    """What both ends know before the first byte."""

    identity: str
    """Anything that changes when streams no longer fit: the versions of representation and model."""
    frame: tuple[int, ...]
    """Of one step of the codes, or of the latent where it is not quantised."""
    num_classes: int | None
    """None: not quantised."""


@dataclass(frozen=True)
class Stream:
    """One clip as it travels."""

    seed: int
    """Drives the reconstruction."""
    num_steps: int
    """Steps of the data; codes may have fewer."""
    side: Mapping[str, np.ndarray]
    codes: np.ndarray
    """int64 [T', *frame], or real numbers where the layout has no classes."""


def pack(stream: Stream, layout: Layout, side: Side, entropy_coding: bool = False) -> bytes:
    """The stream's bytes; `side` is Representation.side; with `entropy_coding` whichever coding is shorter."""
    if stream.codes.shape[1:] != layout.frame:
        raise ValueError(f"codes have the frame {stream.codes.shape[1:]}, expected {layout.frame}")
    if max(stream.num_steps, len(stream.codes)) > MOST_STEPS:
        raise ValueError(f"{stream.num_steps} steps are more than a stream may hold ({MOST_STEPS})")
    if _types(stream.side) != _types(side(stream.num_steps)):
        raise ValueError(f"side information is {_types(stream.side)}, expected {_types(side(stream.num_steps))}")
    coding, payload = _coded(stream.codes, layout, entropy_coding)
    head = (MAGIC, FORM, coding, _digest(layout), stream.seed, stream.num_steps, len(stream.codes))
    body = HEADER.pack(*head) + b"".join(stream.side[name].tobytes() for name in sorted(stream.side)) + payload
    return body + struct.pack("<I", zlib.crc32(body))


def unpack(data: bytes, name: str, layout: Layout, side: Side) -> Stream:
    """The inverse of `pack`; `side` is Representation.side. Raises Refused, naming the stream, for any other bytes."""
    if len(data) < HEADER.size + 4 or data[:4] != MAGIC:
        raise Refused(f"{name} is not a stream of this program: {len(data)} bytes that begin with {data[:4]!r}")
    body, crc = data[:-4], struct.unpack("<I", data[-4:])[0]
    if zlib.crc32(body) != crc:
        raise Refused(f"{name} is damaged or cut off: its checksum does not fit its {len(data)} bytes")
    _, form, coding, identity, seed, num_steps, num_code_steps = HEADER.unpack_from(body)
    if form != FORM:
        raise Refused(f"{name} has form {form}, this program reads form {FORM}")
    if identity != _digest(layout):
        raise Refused(f"{name} was written by another model or representation: decode it with the folder that wrote it")
    if max(num_steps, num_code_steps) > MOST_STEPS:
        raise Refused(f"{name} claims {num_steps} steps, at most {MOST_STEPS} are read")
    found, place = {}, HEADER.size
    for key, like in sorted(side(num_steps).items()):
        if place + like.nbytes > len(body):
            raise Refused(f"{name} ends within its side information {key!r}")
        found[key] = np.frombuffer(body, like.dtype, like.size, place).reshape(like.shape)
        place += like.nbytes
    codes = _decoded(body[place:], coding, num_code_steps, layout, name)
    return Stream(seed, num_steps, found, codes)


def _types(side: Mapping[str, np.ndarray]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (value.dtype.str, value.shape) for name, value in side.items()}


def _digest(layout: Layout) -> bytes:
    return hashlib.sha256(repr((layout.identity, layout.frame, layout.num_classes)).encode()).digest()[:8]


def _coded(codes: np.ndarray, layout: Layout, entropy_coding: bool) -> tuple[int, bytes]:
    if layout.num_classes is None:
        with np.errstate(over="ignore"):
            halves = codes.astype("<f2")
        if not np.isfinite(halves).all():
            raise ValueError("the latent holds numbers that float16 cannot")
        return FLOAT16, halves.tobytes()
    if codes.size and not 0 <= codes.min() <= codes.max() < layout.num_classes:
        raise ValueError(f"codes range from {codes.min()} to {codes.max()}, expected 0 to {layout.num_classes - 1}")
    fixed = to_bits(codes, layout.num_classes)
    if entropy_coding:
        coded = range_coder.encode(codes.reshape(len(codes), math.prod(layout.frame)), layout.num_classes)
        if len(coded) < len(fixed):
            return RANGE, coded
    return FIXED, fixed


def _decoded(payload: bytes, coding: int, num_steps: int, layout: Layout, name: str) -> np.ndarray:
    size = math.prod(layout.frame)
    if coding not in ((FLOAT16,) if layout.num_classes is None else (FIXED, RANGE)):
        raise Refused(f"{name} has coding {coding}, which this model does not write")
    if layout.num_classes is not None and coding == RANGE:
        return range_coder.decode(payload, num_steps, size, layout.num_classes).reshape(num_steps, *layout.frame)
    bits = 16 if layout.num_classes is None else num_bits(layout.num_classes)
    if len(payload) != -(-num_steps * size * bits // 8):
        raise Refused(f"{name} holds {len(payload)} bytes of codes, {num_steps} steps need another number")
    if layout.num_classes is None:
        return np.frombuffer(payload, "<f2").astype(np.float32).reshape(num_steps, *layout.frame)
    codes = from_bits(payload, num_steps * size, layout.num_classes).reshape(num_steps, *layout.frame)
    if codes.size and codes.max() >= layout.num_classes:
        raise Refused(f"{name} holds the code {codes.max()}, there are {layout.num_classes}")
    return codes


def num_bits(num_classes: int) -> int:
    """Bits of one code: ceil(log2(num_classes))."""
    return (num_classes - 1).bit_length()


def to_bits(codes: np.ndarray, num_classes: int) -> bytes:
    """Integers as num_bits each, most significant first, the last byte filled up with zeros."""
    places = np.arange(num_bits(num_classes))[::-1]
    return np.packbits((codes.reshape(-1, 1) >> places & 1).astype(np.uint8)).tobytes()


def from_bits(data: bytes, num: int, num_classes: int) -> np.ndarray:
    """The first `num` integers of `to_bits`. int64 [num]."""
    bits = num_bits(num_classes)
    found = np.unpackbits(np.frombuffer(data, np.uint8), count=num * bits).reshape(num, bits)
    return found.astype(np.int64) @ (1 << np.arange(bits)[::-1])
