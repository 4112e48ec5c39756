"""One file over https, whole or not at all: verified, resumed, capped, and never from an address it must not reach.

What has come so far lies in `<path>.part`, and the next attempt asks for the rest by Range; a server that cannot resume
starts over. Only bytes with the stated sha256 ever get the final name. Every hop of a redirect is held to the same
rules: https, a certificate that is valid for its host, and no address of this machine or its link (and, after the
first hop, none of a private network), so that a public server cannot send us to a service it could not reach itself.
"""

import ipaddress
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from stages.pipeline import artifacts

if TYPE_CHECKING:
    import requests

NUM_REDIRECTS = 5
NUM_ATTEMPTS = 5
"""In a row without a new byte."""
TIMEOUT_S = 30.0
BLOCK = 1 << 20


@dataclass(frozen=True)
class Trust:
    """Exceptions for tests, which serve on this machine: hosts that may be local, and who signed their certificates."""

    hosts: frozenset[str] = frozenset()
    certificates: Path | None = None
    pause_s: float = 2.0


class Interrupted(Exception):
    """The connection broke; what came so far is kept."""


def fetch(url: str, path: Path, sha256: str, max_bytes: int, trust: Trust | None = None) -> None:
    """Bring `url` to `path`, resuming from an earlier call's part. ValueError where it must not or cannot be had."""
    trust, part = trust or Trust(), path.with_name(f"{path.name}.part")
    if path.exists() and artifacts.sha256(path) == sha256:
        return
    resumed = part.exists()
    receive(url, part, max_bytes, trust)
    found = artifacts.sha256(part)
    if found != sha256 and resumed:  # the rest belonged to another version than the part
        part.unlink()
        receive(url, part, max_bytes, trust)
        found = artifacts.sha256(part)
    if found != sha256:
        part.unlink()
        raise ValueError(
            f"{url} has sha256 {found}, params.yaml expects {sha256}: it is not the file that was chosen. "
            "If you trust what is there now, write its sha256 into params.yaml"
        )
    part.replace(path)


def receive(url: str, part: Path, max_bytes: int, trust: Trust) -> None:
    """Append to `part` until the server has no more; attempts that bring something start the count anew."""
    failures = 0
    while True:
        before = size_of(part)
        try:
            return append(url, part, max_bytes, trust)
        except Interrupted as problem:
            failures = 1 if size_of(part) > before else failures + 1
            if failures == NUM_ATTEMPTS:
                raise ValueError(f"{url}: {problem}; run again, it resumes after {size_of(part):,} bytes") from problem
            time.sleep(trust.pause_s * failures)


def append(url: str, part: Path, max_bytes: int, trust: Trust) -> None:
    """One request for what is missing of `part`."""
    import requests
    from tqdm import tqdm
    from urllib3.exceptions import HTTPError

    offset = size_of(part)
    try:
        with requests.Session() as session, open_url(session, url, offset, trust) as response:
            if response.status_code == 416 and offset:  # nothing after the part: it is whole, or of another file
                return
            if response.status_code >= 500 or response.status_code in (408, 429):
                raise Interrupted(f"the server answers {response.status_code} {response.reason}")
            if response.status_code not in (200, 206):
                raise ValueError(f"{url}: the server answers {response.status_code} {response.reason}")
            begin = offset if resumes_at(response, offset) else 0
            total = begin + int(response.headers.get("Content-Length", 0)) or None
            refuse_large(url, total or 0, max_bytes, part)
            bar: Any = tqdm(
                total=total,
                initial=begin,
                unit="B",
                unit_scale=True,
                desc=urlsplit(url).path.rsplit("/", 1)[-1],
                mininterval=1.0,
            )
            with part.open("ab" if begin else "wb") as file, bar:
                for block in response.raw.stream(BLOCK, decode_content=False):
                    file.write(block)
                    bar.update(len(block))
                    refuse_large(url, file.tell(), max_bytes, part)
    except requests.exceptions.SSLError as problem:
        raise ValueError(f"{url}: its certificate is not to be trusted: {problem}") from problem
    except (requests.ConnectionError, requests.Timeout, HTTPError) as problem:
        raise Interrupted(f"the connection failed ({type(problem).__name__}: {problem})") from problem


def resumes_at(response: "requests.Response", offset: int) -> bool:
    return response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")


def refuse_large(url: str, num_bytes: int, max_bytes: int, part: Path) -> None:
    if num_bytes > max_bytes:
        part.unlink(missing_ok=True)
        raise ValueError(f"{url} is larger than max_gb allows: {num_bytes:,} bytes and more, at most {max_bytes:,}")


def name_of(url: str) -> str:
    return urlsplit(url).path.rsplit("/", 1)[-1]


def size_of(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def open_url(session: "requests.Session", url: str, offset: int, trust: Trust) -> "requests.Response":
    """The response after redirects, each of which is checked before it is followed."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    verify = str(trust.certificates) if trust.certificates else True
    for hop in range(NUM_REDIRECTS + 1):
        check_address(url, trust, is_redirect=hop > 0)
        response = session.get(
            url, headers=headers, stream=True, allow_redirects=False, timeout=TIMEOUT_S, verify=verify
        )
        if not response.is_redirect:
            return response
        response.close()
        url = urljoin(url, response.headers["Location"])
    raise ValueError(f"{url}: more than {NUM_REDIRECTS} redirects")


def check_address(url: str, trust: Trust, is_redirect: bool) -> None:
    """ValueError where `url` is not https or its host is, by any of its addresses, one that must not be reached."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError(f"{url}: only https is fetched" + (", the server redirects elsewhere" if is_redirect else ""))
    if parts.hostname in trust.hosts:
        return
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_STREAM)
    except socket.gaierror:
        return  # a proxy may know the name; without one the request itself says that nobody does
    for *_, place in found:
        address: Any = ipaddress.ip_address(str(place[0]).split("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        local = address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast
        if local or (is_redirect and not address.is_global):
            raise ValueError(f"{url}: {parts.hostname} is {address}, which is not fetched from")
