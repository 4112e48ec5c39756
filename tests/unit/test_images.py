"""Images from corpus to cache: digits that scikit-learn brings, MNIST's files, its split, stacks that are checked."""

import hashlib
import io
import ssl
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from stages import cache, download, split
from stages.corpora.mnist import FILES, Mnist, MnistConfig
from stages.media import fetch, idx, image
from stages.pipeline import artifacts, params, plugins, shards
from tests import images


def collect(tmp_path, source, **settings):
    out = tmp_path / "raw"
    download.run(download.Config(source, settings), out, tmp_path / "work")
    return artifacts.read_json(out / "manifest.json")["pieces"], out


def test_the_digits_are_those_of_scikit_learn(tmp_path):
    from sklearn.datasets import load_digits

    pieces, out = collect(tmp_path, "digits")
    pixels, known = image.read_stack(out / "digit.npy"), load_digits()
    np.testing.assert_array_equal(np.rint(image.widen(pixels) * 16), known.images)
    assert [dict(piece["labels"])["digit"] for piece in pieces] == known.target.tolist()
    assert len(pieces) == 1797 and [piece["index"] for piece in pieces] == list(range(1797))
    assert {piece["split"] for piece in pieces} == {""} and pieces[0]["licence"]
    again, _ = collect(tmp_path / "again", "digits", num_pieces=5)
    assert [piece["id"] for piece in again] == [piece["id"] for piece in pieces[:5]]


@pytest.mark.parametrize("packed", [False, True])
def test_mnist_from_a_folder_keeps_its_split(tmp_path, packed):
    pieces, out = collect(tmp_path, "mnist", path=str(images.write_mnist(tmp_path / "mnist", 20, packed)))
    assert [piece["split"] for piece in pieces] == ["test"] * 20 + ["train"] * 20
    for number, name in enumerate(("train", "test")):
        pixels, digits = images.blobs(20, 28, seed=number)
        np.testing.assert_array_equal(image.read_stack(out / f"{name}.npy"), pixels)
        mine = [piece for piece in pieces if piece["split"] == name]
        assert [dict(piece["labels"])["digit"] for piece in mine] == digits.tolist()


def damaged(kind):
    pixels = np.zeros((3, 4, 4), np.uint8)
    whole = images.idx(pixels)
    return {
        "short": whole[:-1],
        "long": whole + b"x",
        "cut in the header": whole[:7],
        "another type": b"\0\0\x0d\x03" + whole[4:],
        "other axes": images.idx(pixels[0]),
        "a lie": whole[:4] + b"\xff" * 12,
        "empty": b"",
    }[kind]


@pytest.mark.parametrize(
    "kind, said",
    [
        ("short", "48 bytes, it holds 47"),
        ("long", "48 bytes, it holds more"),
        ("cut in the header", "not an IDX file"),
        ("another type", "not an IDX file"),
        ("other axes", "not an IDX file"),
        ("a lie", "more than"),
        ("empty", "not an IDX file"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path, kind, said):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(damaged(kind))
    with pytest.raises(ValueError, match=rf"train-images.*{said}"):
        idx.read(path, 3)


def test_a_cut_gz_is_named_and_a_bomb_is_read_no_further(tmp_path):
    whole = images.idx(np.zeros((3, 4, 4), np.uint8), packed=True)
    (tmp_path / "a.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a\.gz"):
        idx.read(tmp_path / "a.gz", 3)
    import gzip

    (tmp_path / "b.gz").write_bytes(gzip.compress(images.idx(np.zeros((3, 4, 4), np.uint8)) + bytes(50_000_000)))
    with pytest.raises(ValueError, match="holds more"):
        idx.read(tmp_path / "b.gz", 3)


def test_labels_of_another_set_are_refused(tmp_path):
    images.write_mnist(tmp_path / "mnist")
    (tmp_path / "mnist/train-labels-idx1-ubyte").write_bytes(images.idx(np.zeros(7, np.uint8)))
    with pytest.raises(ValueError, match="20 train images with 7 labels"):
        collect(tmp_path, "mnist", path=str(tmp_path / "mnist"))
    (tmp_path / "mnist/train-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match="neither train-labels"):
        collect(tmp_path, "mnist", path=str(tmp_path / "mnist"))


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({}, "path and url"),
        ({"path": "a", "url": "https://b"}, "path and url"),
        ({"url": "http://b"}, "https"),
        ({"url": "https://b"}, "64 hex digits"),
        ({"url": "https://b", "sha256": {f"{name}.gz": "0" * 63 for name in FILES}}, "64 hex digits"),
        ({"path": "a", "num_pieces": -1}, "num_pieces = -1"),
    ],
)
def test_impossible_settings_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        params.parse(MnistConfig, wrong, where="corpora.digits")


def test_mnist_over_https_is_verified(tmp_path):
    trustme = pytest.importorskip("trustme")
    served = images.write_mnist(tmp_path / "served", packed=True)
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = ThreadingHTTPServer(("localhost", 0), partial(SimpleHTTPRequestHandler, directory=str(served)))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in served.iterdir()}
    trust = fetch.Trust(frozenset({"localhost"}), tmp_path / "ca.pem", 0.0)
    url = f"https://localhost:{server.server_port}"
    (tmp_path / "work").mkdir()
    try:
        collected = Mnist(MnistConfig(url=url, sha256=sums), trust).collect(tmp_path, tmp_path / "work")
        assert len(collected.pieces) == 40
        sums["t10k-labels-idx1-ubyte.gz"] = "0" * 64
        with pytest.raises(ValueError, match="t10k-labels.*expects 0000"):
            Mnist(MnistConfig(url=url, sha256=sums), trust).collect(tmp_path, tmp_path / "work")
    finally:
        server.shutdown()
        server.server_close()


def test_an_official_test_part_stays_the_test_and_the_rest_is_stable(tmp_path):
    raw = images.write_corpus(tmp_path / "raw", 200, splits=("train", "test"))
    split.run(split.Config(0.1, 0.5), raw, tmp_path / "split")
    places = artifacts.read_json(tmp_path / "split/split.json")["pieces"]
    assert all((place == "test") == name.startswith("test") for name, place in places.items())
    assert 5 < sum(place == "valid" for place in places.values()) < 40
    free = images.write_corpus(tmp_path / "free", 200)
    split.run(split.Config(0.1, 0.5), free, tmp_path / "split")
    found = list(artifacts.read_json(tmp_path / "split/split.json")["pieces"].values())
    assert 70 < found.count("test") < 130


def cached(tmp_path, module="reshape", num=120, **config):
    raw = images.write_corpus(tmp_path / "raw", num)
    split.run(split.Config(0.1, 0.3), raw, tmp_path / "split")
    cache.run(cache.Config(module, config, 3), raw, tmp_path / "split", tmp_path / "cache")
    return raw, tmp_path / "cache"


@pytest.mark.parametrize("module", ["reshape", "mdct_image"])
def test_the_cache_holds_every_image_with_its_label(tmp_path, module):
    raw, out = cached(tmp_path, module)
    kind = plugins.load("representations", module)
    representation = kind.load(out / "representation")
    pixels = image.widen(image.read_stack(raw / "digit.npy"))
    pieces = {piece["id"]: piece for piece in artifacts.read_json(raw / "manifest.json")["pieces"]}
    seen = []
    for name in ("train", "valid", "test"):
        for code in shards.Shards(out / name, representation.spec.version):
            decoded = representation.decode(code)
            np.testing.assert_allclose(decoded.pixels, pixels[pieces[code.id]["index"]], atol=1e-6)
            assert decoded.labels == dict(pieces[code.id]["labels"])
            seen.append(code.id)
    assert sorted(seen) == sorted(pieces)
    references = plugins.load("clips", "image")().read_references(out / "references")
    assert [clip.id for clip in references] == sorted(shards.Shards(out / "test").ids)
    for clip in references:
        np.testing.assert_array_equal(clip.pixels, pixels[pieces[clip.id]["index"]])


def test_a_changed_stack_is_named(tmp_path):
    raw = images.write_corpus(tmp_path / "raw")
    split.run(split.Config(0.1, 0.3), raw, tmp_path / "split")
    data = (raw / "digit.npy").read_bytes()
    (raw / "digit.npy").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(artifacts.Damaged, match=r"digit\.npy"):
        cache.run(cache.Config("reshape", {}, 3), raw, tmp_path / "split", tmp_path / "cache")


def test_images_of_another_size_are_named(tmp_path):
    with pytest.raises(ValueError, match="digit-00.* has 8 x 8 pixels, expected 28 x 28"):
        cached(tmp_path, height=28, width=28)


def test_too_few_images_say_what_to_do(tmp_path):
    told = {"pieces": {f"digit-{k:05d}": "train" for k in range(5)}}
    with pytest.raises(ValueError, match="num_pieces"):
        plugins.load("clips", "image")().by_split(images.write_corpus(tmp_path, 5), told)


def test_images_come_from_raw():
    block = {"module": "reshape", "corpus": "digits", "clips": "audio"}
    tree = params.Params({"corpora": {"digits": {}}, "representations": {"mine": block}})
    cache.configure(tree, "mine")
    assert any("reshape takes image clips, from data/raw" in problem for problem in tree.problems)


def test_pixels_beyond_the_range_are_refused():
    for wrong in (1.01, -0.01, np.nan):
        with pytest.raises(ValueError, match="0 to 1"):
            image.quantise(np.array([[0.5, wrong]]))


def test_a_png_holds_the_pixels_and_a_grid_places_them():
    pixels = np.arange(6, dtype=np.float32).reshape(3, 1, 2) / 5
    sheet = image.grid(pixels, 2)
    assert sheet.shape == (3, 5)
    np.testing.assert_allclose(sheet, [[0, 0.2, 1, 0.4, 0.6], [1, 1, 1, 1, 1], [0.8, 1, 1, 1, 1]], rtol=1e-6)
    data = image.png(sheet)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), image.quantise(sheet))
    assert data == image.png(sheet)
