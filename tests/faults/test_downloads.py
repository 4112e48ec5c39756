"""Archives over https: verified, resumed, capped, and unpacked without harm. The server is this test's own."""

import hashlib
import http.server
import io
import ipaddress
import ssl
import struct
import tarfile
import threading
import time
import zipfile

import mido
import pytest
import trustme

from stages.corpora.url import Url, UrlConfig
from stages.media import archive, fetch
from stages.media.fetch import Trust
from tests.faults import processes, victims

pytestmark = pytest.mark.fault("download")


def song(pitch=60):
    file = mido.MidiFile()
    file.tracks.append(mido.MidiTrack())
    file.tracks[0].append(mido.Message("note_on", note=pitch, velocity=80, time=0))
    file.tracks[0].append(mido.Message("note_off", note=pitch, velocity=0, time=480))
    buffer = io.BytesIO()
    file.save(file=buffer)
    return buffer.getvalue()


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name.replace("__", "/").replace("_mid", ".mid"), data)
    return buffer.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` with Range, or misbehaves as told."""

    content = b""
    redirect = ""
    status = 200
    cut_after = None
    ignores_range = False
    states_length = True
    claims = 0
    """More bytes than there are."""
    endless = False
    pause_s = 0.0
    asked: list[str | None]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):  # noqa: N802
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        if server.redirect and self.path == "/moved.zip":
            self.send_response(302)
            self.send_header("Location", server.redirect)
            self.end_headers()
            return
        begin = 0 if wanted is None or server.ignores_range else int(wanted.removeprefix("bytes=").rstrip("-"))
        if begin and begin >= len(server.content):
            self.send_error(416)
            return
        self.send_response(server.status if not begin else 206)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(server.content) - 1}/{len(server.content)}")
        body = server.content[begin:]
        if server.states_length:
            self.send_header("Content-Length", str(len(body) + server.claims))
        self.end_headers()
        if server.endless or server.pause_s:
            self.drip(body)
            return
        if server.cut_after is not None:
            self.wfile.write(body[: server.cut_after])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
            return
        self.wfile.write(body)

    def drip(self, body):
        """Slowly, or for ever."""
        try:
            for begin in range(0, len(body), 1 << 16):
                self.wfile.write(body[begin : begin + (1 << 16)])
                time.sleep(self.server.pause_s)
            while self.server.endless:
                self.wfile.write(body)
        except OSError:
            self.close_connection = True  # the other end has gone, as it should

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def server(authority):
    made = Server(("127.0.0.1", 0), Handler)
    made.asked = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    made.socket = context.wrap_socket(made.socket, server_side=True)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def trust(authority, tmp_path, monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return Trust(frozenset({"localhost"}), tmp_path / "ca.pem", pause_s=0.0)


def at(server, name="music.zip"):
    return f"https://localhost:{server.server_address[1]}/{name}"


def sha(data):
    return hashlib.sha256(data).hexdigest()


def bring(server, trust, path, data=None, max_bytes=10**6, name="music.zip"):
    fetch.fetch(at(server, name), path, sha(server.content if data is None else data), max_bytes, trust)
    return path.read_bytes()


def test_a_corpus_from_an_archive(server, trust, tmp_path):
    server.content = zipped(a_mid=song(60), sub__b_mid=song(62), broken_mid=b"MThd", readme=b"hello")
    work, out = tmp_path / "work", tmp_path / "out"
    work.mkdir()
    out.mkdir()
    config = UrlConfig(at(server), sha(server.content), licence="CC0")
    collected = Url(config, trust).collect(out, work)
    assert [piece.id.split("-")[0] for piece in collected.pieces] == ["a", "sub"]
    assert {piece.licence for piece in collected.pieces} == {"CC0"}
    assert all(sha((out / piece.path).read_bytes()) == piece.sha256 for piece in collected.pieces)
    assert [refused.path for refused in collected.refused] == ["broken.mid"]
    assert [path.name for path in work.iterdir()] == ["lengths"]  # nothing is kept twice


def test_without_the_explicit_trust_this_machine_is_not_reached(server, tmp_path):
    server.content = b"secret"
    with pytest.raises(ValueError, match=r"127\.0\.0\.1|::1"):
        fetch.fetch(at(server), tmp_path / "a", sha(b"secret"), 100)
    assert server.asked == []


def test_an_untrusted_certificate_is_refused(server, trust, tmp_path):
    server.content = b"content"
    with pytest.raises(ValueError, match="certificate"):
        fetch.fetch(at(server), tmp_path / "a", sha(b"content"), 100, Trust(trust.hosts, None, 0.0))


def test_resumes_after_a_cut(server, trust, tmp_path):
    """The first attempts end early; what came is kept, and only the rest is asked for."""
    server.content = bytes(range(256)) * 1000
    server.cut_after = 100_000
    assert bring(server, trust, tmp_path / "a") == server.content
    assert server.asked == [None, "bytes=100000-", "bytes=200000-"]


def test_resumes_in_a_later_run(server, trust, tmp_path):
    server.content = bytes(range(256)) * 1000
    server.cut_after = 0
    (tmp_path / "a.part").write_bytes(server.content[:1000])
    with pytest.raises(ValueError, match="run again, it resumes after 1,000 bytes"):
        bring(server, trust, tmp_path / "a")
    assert len(server.asked) == fetch.NUM_ATTEMPTS
    server.cut_after = None
    assert bring(server, trust, tmp_path / "a") == server.content
    assert server.asked[-1] == "bytes=1000-"
    assert not (tmp_path / "a.part").exists()


def test_a_whole_part_and_a_whole_file_need_no_bytes(server, trust, tmp_path):
    server.content = b"content"
    (tmp_path / "a.part").write_bytes(b"content")
    assert bring(server, trust, tmp_path / "a") == b"content"
    num_asked = len(server.asked)
    assert bring(server, trust, tmp_path / "a") == b"content"
    assert len(server.asked) == num_asked


def test_a_server_that_cannot_resume_starts_over(server, trust, tmp_path):
    server.content, server.ignores_range = b"content", True
    (tmp_path / "a.part").write_bytes(b"con")
    assert bring(server, trust, tmp_path / "a") == b"content"


def test_a_part_of_another_version_starts_over(server, trust, tmp_path):
    server.content = b"content"
    (tmp_path / "a.part").write_bytes(b"xyz")
    assert bring(server, trust, tmp_path / "a") == b"content"
    (tmp_path / "b.part").write_bytes(b"much longer than it")
    assert bring(server, trust, tmp_path / "b") == b"content"


def test_a_wrong_sha256_is_refused_and_told(server, trust, tmp_path):
    server.content = b"another"
    with pytest.raises(ValueError, match=sha(b"another")):
        bring(server, trust, tmp_path / "a", data=b"content")
    assert not any(tmp_path.glob("a*"))


@pytest.mark.parametrize("states_length", [True, False])
def test_the_cap_holds_whatever_the_server_says(server, trust, tmp_path, states_length):
    server.content, server.states_length = b"x" * 5000, states_length
    with pytest.raises(ValueError, match="max_gb"):
        bring(server, trust, tmp_path / "a", max_bytes=4999)
    assert not any(tmp_path.glob("a*"))


def test_an_endless_body_stops_at_the_cap(server, trust, tmp_path):
    server.content, server.states_length, server.endless = b"x" * 5000, False, True
    with pytest.raises(ValueError, match="max_gb"):
        bring(server, trust, tmp_path / "a", max_bytes=10**6)
    assert not any(tmp_path.glob("a*"))


def test_a_body_shorter_than_it_says_is_judged_by_its_sha256(server, trust, tmp_path):
    server.content, server.claims = bytes(range(256)) * 1000, 1000
    assert bring(server, trust, tmp_path / "a") == server.content
    assert server.asked == [None, "bytes=256000-"]
    with pytest.raises(ValueError, match="is not the file that was chosen"):
        bring(server, trust, tmp_path / "b", data=server.content + b"x")


def test_a_process_that_is_killed_in_the_middle_goes_on_where_it_was(server, trust, tmp_path):
    server.content, server.pause_s = bytes(range(256)) * 20_000, 0.02
    path, part = tmp_path / "a", tmp_path / "a.part"
    arguments = (at(server), path, sha(server.content), 10**7, trust)
    process = processes.start(victims.fetching, tmp_path / "told", *arguments)
    with processes.ending(process):
        processes.until(lambda: part.exists() and part.stat().st_size > 0, process)
    begun = part.stat().st_size
    assert not path.exists() and 0 < begun < len(server.content)
    server.pause_s = 0.0
    processes.run(victims.fetching, tmp_path / "told", *arguments)
    assert path.read_bytes() == server.content and server.asked[-1] == f"bytes={begun}-"


def test_an_error_page_is_no_archive(server, trust, tmp_path):
    server.content, server.status = b"gone", 404
    with pytest.raises(ValueError, match="404"):
        bring(server, trust, tmp_path / "a")
    server.status, server.asked = 503, []
    with pytest.raises(ValueError, match="503"):
        bring(server, trust, tmp_path / "a")
    assert len(server.asked) == fetch.NUM_ATTEMPTS


def test_follows_a_redirect_to_a_trusted_place(server, trust, tmp_path):
    server.content, server.redirect = b"content", at(server, "there.zip")
    assert bring(server, trust, tmp_path / "a", name="moved.zip") == b"content"


@pytest.mark.parametrize(
    "target",
    [
        "https://127.0.0.1:{port}/x",
        "https://[::1]:{port}/x",
        "https://[::ffff:127.0.0.1]:{port}/x",
        "https://0.0.0.0:{port}/x",
        "https://169.254.169.254/latest",
        "https://[fe80::1]/x",
        "https://10.0.0.1/x",
        "https://192.168.1.1/x",
        "http://localhost:{port}/x",
        "file:///etc/passwd",
        "ftp://localhost/x",
    ],
)
def test_refuses_redirects_it_must_not_follow(server, trust, tmp_path, target):
    server.content, server.redirect = b"content", target.format(port=server.server_address[1])
    with pytest.raises(ValueError, match=r"not fetched from|only https"):
        bring(server, trust, tmp_path / "a", name="moved.zip")
    assert len(server.asked) == 1


def test_redirects_end(server, trust, tmp_path):
    server.redirect = at(server, "moved.zip")
    with pytest.raises(ValueError, match="redirects"):
        bring(server, trust, tmp_path / "a", name="moved.zip")


@pytest.mark.parametrize("host", ["[::ffff:127.0.0.1]", "[::1]", "127.1.2.3", "[::ffff:169.254.169.254]", "224.0.0.1"])
def test_the_first_hop_too_stays_off_this_machine(host):
    with pytest.raises(ValueError, match="not fetched from"):
        fetch.check_address(f"https://{host}/x", Trust(), is_redirect=False)


def test_any_local_address_of_a_name_refuses_it(monkeypatch):
    """A name with one public and one local address."""

    def lookup(host, port, **options):
        return [(2, 1, 6, "", (address, port)) for address in ("93.184.216.34", "127.0.0.2")]

    monkeypatch.setattr(fetch.socket, "getaddrinfo", lookup)
    with pytest.raises(ValueError, match=r"127\.0\.0\.2"):
        fetch.check_address("https://example.org/x", Trust(), is_redirect=False)
    assert ipaddress.ip_address("93.184.216.34").is_global


# --- unpacking


def tarred(*members, mode="w:gz"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as file:
        for name, data, options in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in options.items():
                setattr(info, key, value)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def unpack(tmp_path, data, max_bytes=10**6):
    (tmp_path / "archive").write_bytes(data)
    refused = archive.extract(tmp_path / "archive", tmp_path / "out", (".mid",), max_bytes)
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    return found, [item.path for item in refused]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar_archives(tmp_path, mode):
    data = tarred(("a.mid", b"1", {}), ("deep/b.MID", b"2", {}), ("c.txt", b"3", {}), mode=mode)
    assert unpack(tmp_path, data) == ({"a.mid", "deep/b.MID"}, [])


@pytest.mark.parametrize(
    "name", ["../evil.mid", "a/../../evil.mid", "/tmp/evil.mid", "..\\evil.mid", "C:\\evil.mid", "\\evil.mid"]
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_name_that_leads_out_refuses_the_archive(tmp_path, name, kind):
    data = zipped(**{"ok.mid": b"1", name: b"2"}) if kind == "zip" else tarred(("ok.mid", b"1", {}), (name, b"2", {}))
    with pytest.raises(ValueError, match="hostile"):
        unpack(tmp_path, data)
    assert not list(tmp_path.rglob("evil*"))


def test_links_and_devices_are_never_made(tmp_path):
    members = [
        ("link.mid", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
        ("hard.mid", b"", {"type": tarfile.LNKTYPE, "linkname": "../../etc/passwd"}),
        ("pipe.mid", b"", {"type": tarfile.FIFOTYPE}),
        ("device.mid", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}),
        ("way", b"", {"type": tarfile.SYMTYPE, "linkname": "/tmp"}),
        ("way/through.mid", b"1", {}),
        ("ok.mid", b"1", {"mode": 0o4777}),
    ]
    found, refused = unpack(tmp_path, tarred(*members))
    assert found == {"ok.mid", "way/through.mid"}
    assert refused == ["link.mid", "hard.mid", "pipe.mid", "device.mid"]
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert (tmp_path / "out/ok.mid").stat().st_mode & 0o6111 == 0


def test_a_link_in_a_zip_is_refused(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        link = zipfile.ZipInfo("link.mid")
        link.external_attr = 0o120777 << 16
        file.writestr(link, "/etc/passwd")
        file.writestr("ok.mid", b"1")
    assert unpack(tmp_path, buffer.getvalue()) == ({"ok.mid"}, ["link.mid"])


def test_a_bomb_stops_at_the_cap(tmp_path):
    data = zipped(**{"zeros.mid": bytes(5_000_000)})
    assert len(data) < 10_000
    with pytest.raises(ValueError, match="max_gb"):
        unpack(tmp_path, data, max_bytes=3_000_000)
    assert sum(path.stat().st_size for path in (tmp_path / "out").rglob("*")) <= 3_000_000


def test_one_bad_member_spoils_nothing_else(tmp_path):
    data = bytearray(zipped(**{"a.mid": b"first" * 100, "b.mid": b"second" * 100}))
    data[data.index(b"a.mid") + 7] ^= 0xFF
    found, refused = unpack(tmp_path, bytes(data))
    assert (found, refused) == ({"b.mid"}, ["a.mid"])


@pytest.mark.parametrize(
    "data", [b"", b"not an archive" * 100, tarred(("a.mid", b"1" * 9999, {}))[:60]], ids=["empty", "text", "cut"]
)
def test_what_is_no_archive_is_told(tmp_path, data):
    with pytest.raises(ValueError, match=r"neither a zip nor a tar|damaged"):
        unpack(tmp_path, data)


def test_names_that_differ_only_in_case_are_one_file_on_some_disks(tmp_path):
    found, refused = unpack(tmp_path, zipped(**{"a.mid": b"1", "A.mid": b"2", "b.mid": b"3", "a.MID": b"4"}))
    assert (found, refused) == ({"a.mid", "b.mid"}, ["A.mid", "a.MID"])
    assert (tmp_path / "out/a.mid").read_bytes() == b"1"


def test_a_name_twice_keeps_the_first(tmp_path):
    data = tarred(("a.mid", b"1", {}), ("a.mid", b"2", {}), ("a.mid/b.mid", b"3", {}))
    found, refused = unpack(tmp_path, data)
    assert (found, refused) == ({"a.mid"}, ["a.mid", "a.mid/b.mid"])
    assert (tmp_path / "out/a.mid").read_bytes() == b"1"


@pytest.mark.parametrize("name", ["zeros.mid", "zeros.txt"])
def test_what_unpacks_to_a_hundred_times_its_size_is_a_bomb(tmp_path, name):
    """In a tar even where it is passed over: it must be inflated to be passed."""
    data = tarred((name, bytes(30_000_000), {}), ("b.mid", b"1", {}))
    assert len(data) < 100_000
    with pytest.raises(ValueError, match="100 times its size"):
        unpack(tmp_path, data, max_bytes=10**9)


def test_an_archive_within_is_not_opened(tmp_path):
    inner = zipped(**{"b.mid": b"1"})
    found, refused = unpack(tmp_path, zipped(**{"inner.zip": inner, "a.mid": inner}))
    assert (found, refused) == ({"a.mid"}, [])
    assert (tmp_path / "out/a.mid").read_bytes() == inner


def test_an_encrypted_member_is_refused(tmp_path):
    data = bytearray(zipped(**{"a.mid": b"first", "b.mid": b"second"}))
    for place in (data.index(b"PK\3\4") + 6, data.index(b"PK\1\2") + 8):
        data[place] |= 1
    assert unpack(tmp_path, bytes(data)) == ({"b.mid"}, ["a.mid"])


def test_a_million_members_are_too_many(tmp_path):
    """A table of contents made by hand: it is not even read. A shorter one is counted as it comes."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    num = archive.TABLE_BYTES // len(entry) + 1
    table = entry * num
    zip64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, num, num, len(table), 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(table), 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (tmp_path / "archive").write_bytes(table + zip64 + locator + end)
    with pytest.raises(ValueError, match="longer than 1,000,000 members need"):
        archive.extract(tmp_path / "archive", tmp_path / "out", (".mid",), 10**9)
    (tmp_path / "small").write_bytes(zipped(**{"a.mid": b"1", "b.mid": b"2", "c.mid": b"3"}))
    with pytest.raises(archive.TooLarge, match="more than 1,000,000 members"):
        list(archive.from_zip(tmp_path / "small", tmp_path / "out", (".mid",), archive.Budget(10, 10, num_members=2)))


def test_a_header_that_asks_for_all_memory_is_refused(tmp_path):
    """An extended header is read at once: 3 GB of them in a few kilobytes."""
    path = tmp_path / "archive"
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 3_000_000_000
    with path.open("wb") as file:
        file.write(info.tobuf(tarfile.USTAR_FORMAT))
        file.truncate(512 + info.size)  # a sparse file: nothing on the disk
    with pytest.raises(ValueError, match="cannot be unpacked: it needs more than 2 GB|damaged archive"):
        archive.extract_apart(path, tmp_path / "out", (".mid",), 10**10)
