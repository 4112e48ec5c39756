"""Streams: every bit comes back, every byte is counted, and no damaged, cut or foreign bytes are ever decoded."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.media import bitstream
from stages.media.bitstream import Layout, Refused, Stream
from stages.numerics import range_coder


def rng(seed):
    return np.random.Generator(np.random.Philox(seed))


def side(num_steps):
    return {"num_samples": np.array([num_steps * 320])}


def example(num_steps=750, frame=(8,), num_classes=1024, seed=-(2**63), num_samples=239_999):
    codes = rng(1).integers(num_classes, size=(num_steps, *frame))
    return Stream(seed, num_steps, {"num_samples": np.array([num_samples])}, codes)


LAYOUT = Layout("model-1", (8,), 1024)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 40),
    st.sampled_from([(), (1,), (8,), (3, 2)]),
    st.integers(1, 70_000),
    st.integers(-(2**63), 2**63 - 1),
    st.booleans(),
)
def test_everything_comes_back(num_steps, frame, num_classes, seed, entropy_coding):
    layout = Layout("m", frame, num_classes)
    stream = Stream(
        seed, num_steps, {"num_samples": np.array([5])}, rng(3).integers(num_classes, size=(num_steps, *frame))
    )
    found = bitstream.unpack(bitstream.pack(stream, layout, side, entropy_coding), "s", layout, side)
    assert (found.seed, found.num_steps, found.side["num_samples"].tolist()) == (seed, num_steps, [5])
    np.testing.assert_array_equal(found.codes, stream.codes)


def test_a_latent_that_is_not_quantised_travels_as_float16():
    layout = Layout("m", (4,), None)
    latent = rng(0).standard_normal((9, 4)).astype(np.float32)
    data = bitstream.pack(Stream(1, 18, side(18), latent), layout, side)
    found = bitstream.unpack(data, "s", layout, side)
    assert (found.num_steps, found.codes.dtype) == (18, np.float32)
    np.testing.assert_allclose(found.codes, latent, rtol=2**-11)
    with pytest.raises(ValueError, match="float16"):
        bitstream.pack(Stream(1, 18, side(18), latent * 1e6), layout, side)


def test_the_rate_is_what_it_says():
    """10 s of 75 frames, 8 codebooks of 10 bits: 7500 bytes, and 42 for header, sample count and checksum."""
    data = bitstream.pack(example(), LAYOUT, side)
    assert len(data) == 750 * 8 * 10 / 8 + 42
    assert len(data) * 8 / 10 / 1000 <= 6.1  # kbps


def test_fixed_bits_by_hand():
    assert bitstream.to_bits(np.array([5, 0, 7, 2]), 8) == bytes([0b10100011, 0b10100000])
    assert bitstream.from_bits(bytes([0b10100011, 0b10100000]), 4, 8).tolist() == [5, 0, 7, 2]
    assert [bitstream.num_bits(n) for n in (1, 2, 3, 1024, 1025)] == [0, 1, 2, 10, 11]


@pytest.mark.parametrize("entropy_coding", [False, True])
def test_every_flipped_bit_is_refused_by_name(entropy_coding):
    data = bitstream.pack(example(20), LAYOUT, side, entropy_coding)
    for place in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(Refused, match="clip-7"):
            bitstream.unpack(bytes(flipped), "clip-7", LAYOUT, side)


def test_every_cut_is_refused_by_name():
    data = bitstream.pack(example(20), LAYOUT, side)
    for length in range(len(data)):
        with pytest.raises(Refused, match="clip-7"):
            bitstream.unpack(data[:length], "clip-7", LAYOUT, side)
    with pytest.raises(Refused, match="clip-7"):
        bitstream.unpack(data + b"\0", "clip-7", LAYOUT, side)


@pytest.mark.parametrize("other", [("model-2", (8,), 1024), ("model-1", (4,), 1024), ("model-1", (8,), 512)])
def test_another_models_stream_is_refused_by_name(other):
    data = bitstream.pack(example(), LAYOUT, side)
    with pytest.raises(Refused, match="clip-7.*another model"):
        bitstream.unpack(data, "clip-7", Layout(*other), side)


@pytest.mark.parametrize("data", [b"", b"RIFF" + bytes(100), bytes(42)])
def test_foreign_bytes_are_refused_by_name(data):
    with pytest.raises(Refused, match="clip-7.*not a stream"):
        bitstream.unpack(data, "clip-7", LAYOUT, side)


def test_forged_headers_with_a_right_checksum_are_refused():
    def forged(*head, rest=b""):
        body = bitstream.HEADER.pack(*head) + rest
        return body + bitstream.struct.pack("<I", bitstream.zlib.crc32(body))

    identity = bitstream._digest(LAYOUT)
    for head, rest, said in [
        ((b"PRTA", 9, 1, identity, 0, 1, 1), bytes(18), "form 9"),
        ((b"PRTA", 1, 0, identity, 0, 1, 1), bytes(18), "coding 0"),
        ((b"PRTA", 1, 1, identity, 0, 1, 1), bytes(17), "17|9 bytes"),
        ((b"PRTA", 1, 1, identity, 0, 1, 1), bytes(7), "num_samples"),
        ((b"PRTA", 1, 2, identity, 0, 2**32 - 1, 2**32 - 1), bytes(18), "claims 4294967295 steps"),
    ]:
        with pytest.raises(Refused, match=said):
            bitstream.unpack(forged(*head, rest=rest), "clip-7", LAYOUT, side)
    layout = Layout("m", (1,), 5)
    body = (b"PRTA", 1, 1, bitstream._digest(layout), 0, 1, 1)
    with pytest.raises(Refused, match="code 7"):
        bitstream.unpack(forged(*body, rest=bytes(8) + b"\xe0"), "clip-7", layout, side)


def test_codes_out_of_range_are_never_written():
    for wrong in (-1, 1024):
        codes = np.full((3, 8), wrong)
        with pytest.raises(ValueError, match=str(wrong)):
            bitstream.pack(Stream(0, 3, side(3), codes), LAYOUT, side)
    with pytest.raises(ValueError, match="frame"):
        bitstream.pack(Stream(0, 3, side(3), np.zeros((3, 4), int)), LAYOUT, side)


def test_side_information_that_would_be_misread_is_never_written():
    for wrong in ({}, {"num_samples": np.array([5], np.int32)}, {"num_samples": np.array([5, 6])}):
        with pytest.raises(ValueError, match="side information"):
            bitstream.pack(Stream(0, 3, wrong, np.zeros((3, 8), int)), LAYOUT, side)


def test_entropy_coding_is_never_longer():
    uniform = example()
    assert len(bitstream.pack(uniform, LAYOUT, side, entropy_coding=True)) <= len(bitstream.pack(uniform, LAYOUT, side))
    skewed = Stream(0, 750, side(750), rng(2).geometric(0.05, (750, 8)).clip(0, 1023))
    assert len(bitstream.pack(skewed, LAYOUT, side, entropy_coding=True)) < 0.7 * len(
        bitstream.pack(skewed, LAYOUT, side)
    )


def ideal_bits(symbols, num_classes):
    """Sum of -log2 of the adaptive model's probabilities, by its definition."""
    bits = 0.0
    for column in symbols.T:
        counts = np.ones(num_classes)
        for symbol in column:
            bits -= math.log2(counts[symbol] / counts.sum())
            counts[symbol] += range_coder.INCREMENT
    return bits


@pytest.mark.parametrize("num_classes, num_steps", [(2, 3000), (5, 1), (1024, 200), (1, 50)])
def test_range_coder_reaches_its_models_bits(num_classes, num_steps):
    symbols = rng(4).integers(num_classes, size=(num_steps, 3)) * rng(5).integers(2, size=(num_steps, 3))
    data = range_coder.encode(symbols, num_classes)
    np.testing.assert_array_equal(range_coder.decode(data, num_steps, 3, num_classes), symbols)
    assert len(data) * 8 <= ideal_bits(symbols, num_classes) + 16


@pytest.mark.parametrize("pattern", [[0], [1], [1] * 7 + [0], [0] * 99 + [1]])
def test_range_coder_survives_carries_and_certainty(pattern):
    symbols = np.resize(np.array(pattern), (20_000, 1))
    data = range_coder.encode(symbols, 2)
    np.testing.assert_array_equal(range_coder.decode(data, len(symbols), 1, 2), symbols)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from([0, 1, 2, 254, 255]), max_size=80))
def test_range_coder_comes_back_from_the_edges(values):
    symbols = np.array(values, dtype=np.int64).reshape(-1, 1)
    data = range_coder.encode(symbols, 256)
    np.testing.assert_array_equal(range_coder.decode(data, len(symbols), 1, 256), symbols)
