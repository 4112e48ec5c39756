"""Shards give back what was written, one record at a time, name damage, and sum up what numpy would."""

import json
import weakref
from contextlib import closing

import numpy as np
import pytest
import safetensors.numpy

from stages.pipeline import artifacts, shards
from stages.pipeline.spool import DTYPES, Spool
from stages.protocols.spec import Code, Field

BINS = Field(frame=(5,), rate_hz=75.0)
CLASSES = Field(frame=(3,), num_classes=7)


def rng(seed):
    return np.random.Generator(np.random.Philox(seed))


def code(name, length, seed=0, masked=0, **parts):
    data = rng(seed).standard_normal((length, 5)).astype(np.float16)
    mask = np.ones(length, bool)
    mask[length - masked :] = False
    data[~mask] = 0
    return Code(name, data, mask, **parts)


def store(folder, codes, number=3):
    shards.write_index(folder, "v1", [shards.write_shard(folder, number, codes)])
    return shards.Shards(folder, "v1")


def same(one, other):
    assert one.id == other.id
    np.testing.assert_array_equal(one.data, other.data)
    np.testing.assert_array_equal(one.mask, other.mask)
    for mine, theirs in ((one.conditions, other.conditions), (one.side, other.side)):
        assert mine.keys() == theirs.keys()
        for name in mine:
            np.testing.assert_array_equal(mine[name], theirs[name])


CODES = [
    code("a", 4, 1, conditions={"label": np.array([3])}, side={"num_samples": np.array([17])}),
    code("b", 0, 2, side={"num_samples": np.array([0])}),
    code("c", 9, 3, conditions={"pitch": rng(5).standard_normal((9, 2))}, side={"num_samples": np.array([44])}),
]


def test_records_come_back_as_they_were_written(tmp_path):
    found = store(tmp_path, CODES[::-1])
    assert found.ids == ("a", "b", "c") and len(found) == 3
    for one, other in zip(CODES, found, strict=True):
        same(one, other)
        assert other.data.dtype == np.float16
    same(found.by_id("c"), CODES[2])
    same(found[-1], CODES[2])
    with pytest.raises(ValueError, match="'d'"):
        found.by_id("d")


def test_masks_are_kept_and_cost_nothing_where_all_is_there(tmp_path):
    masked = [code("a", 4, 1), code("b", 6, 2, masked=2)]
    for one, other in zip(masked, store(tmp_path / "masked", masked), strict=True):
        same(one, other)
    inner = Code("s", np.zeros((2, 4, 3)), np.array([[True] * 4, [True, True, False, False]]))
    same(store(tmp_path / "inner", [inner])[0], inner)
    store(tmp_path / "whole", CODES)
    assert "mask" not in shards.mapped(tmp_path / "whole/shard_003.safetensors")


def test_a_crop_reads_its_own_pages_alone(tmp_path):
    """The arrays are views of the mapped file: no copy is made before a slice of them is used."""
    found = store(tmp_path, [code("long", 200_000)])
    record = found[0]
    assert not record.data.flags.owndata and not record.data.flags.writeable
    base = record.data
    while isinstance(base, np.ndarray):
        base = base.base
    assert type(base).__name__ in ("mmap", "memoryview")


def test_the_same_records_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        store(tmp_path / name, CODES if name == "one" else CODES[::-1])
    for file in ("index.json", "shard_003.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_an_empty_split_is_a_folder_without_shards(tmp_path):
    shards.write_index(tmp_path / "valid", "v1", [])
    assert len(shards.Shards(tmp_path / "valid", "v1")) == 0


def test_a_flipped_bit_is_named_when_the_shard_is_opened(tmp_path):
    store(tmp_path, CODES)
    path = tmp_path / "shard_003.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(artifacts.Damaged, match="shard_003"):
        _ = shards.Shards(tmp_path)[0]


def test_codes_of_another_version_are_refused(tmp_path):
    store(tmp_path, CODES)
    with pytest.raises(ValueError, match="v1.*v2"):
        shards.Shards(tmp_path, "v2")


@pytest.mark.parametrize("order", [1, -1])
def test_the_file_is_what_safetensors_would_write_of_whole_arrays(tmp_path, order):
    """In every type of the format, rows coming in turns and an array at a time."""
    whole, rows = {}, {}
    with closing(Spool(tmp_path)) as spool:
        for place, (name, dtype) in enumerate(list(DTYPES.items())[::order]):
            parts = [(9 * rng(place).random((length, 3))).astype(dtype) for length in (2, 0, place)]
            rows |= {f"{name} {way}": [spool.add(name, part) for part in parts] for way in "ba"}
            whole |= {f"{name} {way}": np.concatenate(parts) for way in "ba"}
        spool.write(tmp_path / "found", rows)
    assert (tmp_path / "found").read_bytes() == safetensors.numpy.save(whole)
    assert [path.name for path in tmp_path.iterdir()] == ["found"]


def test_rows_of_one_array_are_of_one_kind(tmp_path):
    with closing(Spool(tmp_path)) as spool:
        for other in (np.zeros((2, 4), "f4"), np.zeros((2, 3), "f8")):
            with pytest.raises(ValueError, match="side/x: records have rows of different shapes or types"):
                spool.write(tmp_path / "x", {"side/x": [spool.add("x", np.zeros((2, 3), "f4")), spool.add("x", other)]})
        with pytest.raises(ValueError, match="x: arrays of complex128 cannot be kept"):
            spool.add("x", np.zeros((2, 3), complex))


def test_a_shard_is_written_with_one_record_in_memory(tmp_path):
    """Codes that come one by one are gone when the next comes."""
    alive = []

    def codes():
        for place in range(5):
            assert not any(one() is not None for one in alive[:-1]), "the last but one is still held"
            one = code(f"{place}", 3)
            alive.append(weakref.ref(one.data))
            yield one

    assert shards.write_shard(tmp_path, 0, codes()).ids == ("0", "1", "2", "3", "4")


def test_a_record_needs_rows(tmp_path):
    with pytest.raises(ValueError, match="side/scale"):
        store(tmp_path, [code("a", 2, side={"scale": np.array(2.0)})])


def test_a_piece_keeps_its_shard_and_shards_fill_evenly():
    numbers = [shards.shard_of(f"piece-{i}", 8) for i in range(4000)]
    counts = np.bincount(numbers, minlength=8)
    assert ((counts > 400) & (counts < 600)).all()  # binomial, std 21
    assert shards.shard_of("bwv253", 16) == 6  # written down: a changed hash would move every user's pieces


def test_statistics_of_real_data_are_numpys():
    codes = [code("a", 40, 1, masked=7), code("b", 0), code("c", 11, 2), code("d", 1, 3)]
    kept = np.concatenate([c.data[c.mask] for c in codes]).astype(np.float64)
    parts = [shards.sums(codes[:1], BINS), shards.sums(codes[1:2], BINS), shards.sums(codes[2:], BINS)]
    found = shards.statistics(shards.merge(shards.merge(parts[0], parts[1]), parts[2]))
    np.testing.assert_array_equal(found.num, np.full(5, len(kept)))
    np.testing.assert_allclose(found.mean, kept.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.std, kept.std(axis=0), rtol=1e-12)


def test_statistics_survive_a_large_mean():
    """Plain sums of squares would lose all digits of a variance of 1 around 1e9 in float64."""
    codes = [Code(str(i), 1e9 + rng(i).standard_normal((50, 5)), np.ones(50, bool)) for i in range(20)]
    found = shards.statistics(shards.sums(codes, BINS))
    np.testing.assert_allclose(found.std, np.concatenate([c.data for c in codes]).std(axis=0), rtol=1e-6)


def test_statistics_of_classes_are_counts(tmp_path):
    mask = np.array([[True] * 3, [True, False, False]])
    codes = [Code("a", np.array([[6, 0, 0], [2, 0, 0]]), mask), Code("b", np.array([[1, 1, 1]]), np.ones((1, 3), bool))]
    found = shards.statistics(shards.sums(codes, CLASSES))
    np.testing.assert_array_equal(found.num, [3, 2, 2])
    np.testing.assert_array_equal(found.class_counts, [2, 3, 1, 0, 0, 0, 1])
    assert found.mean is None and found.std is None
    shards.save_statistics(tmp_path / "s.safetensors", found)
    np.testing.assert_array_equal(shards.load_statistics(tmp_path / "s.safetensors").class_counts, found.class_counts)


def test_statistics_come_back_and_a_flipped_bit_is_named(tmp_path):
    path = tmp_path / "statistics.safetensors"
    found = shards.statistics(shards.sums(CODES, BINS))
    shards.save_statistics(path, found)
    back = shards.load_statistics(path)
    np.testing.assert_array_equal(back.std, found.std)
    assert back.class_counts is None
    whole = path.read_bytes()
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    for place in (len(whole) - 1, 8 + int.from_bytes(whole[:8], "little") + header["num"]["data_offsets"][0], 9):
        data = bytearray(whole)
        data[place] ^= 1
        path.write_bytes(data)
        with pytest.raises(artifacts.Damaged, match="statistics"):
            shards.load_statistics(path)
