"""An archive on the web: a zip or tar of music, verified by its sha256.

    corpora:
      music:
        source: url                   # 1,276 piano performances, 199 h, as MIDI (58 MB; render them as_written)
        url: https://storage.googleapis.com/magentadata/datasets/maestro/v3.0.0/maestro-v3.0.0-midi.zip
        sha256: 70470ee253295c8d2c71e6d9d4a815189e35c89624b76d22fce5a019d5dde12c
        licence: CC BY-NC-SA 4.0

      drums:
        source: url                   # 13.6 h of drumming, recorded and as MIDI (5.1 GB)
        url: https://storage.googleapis.com/magentadata/datasets/groove/groove-v1.0.0.zip
        sha256: 21559feb2f1c96ca53988fd4d7060b1f2afe1d854fb2a8dcea5ff95cf3cce7e9
        licence: CC BY 4.0
        kinds: audio

The sha256 is what makes a corpus the same one tomorrow. Where a page does not state it: `curl -L URL | sha256sum`.
A download that breaks off resumes where it was, in the next run too; `max_gb` caps the archive and, apart from it, what
it unpacks to. MAESTRO with its recordings is maestro-v3.0.0.zip beside the MIDI (max_gb: 130.0, sha256
6680fea5be2339ea15091a249fbd70e49551246ddbd5ca50f1b2352c08c95291).

Curtis Hawthorne et al., "Enabling Factorized Piano Music Modeling and Generation with the MAESTRO Dataset", ICLR 2019,
https://magenta.tensorflow.org/datasets/maestro. Jon Gillick et al., "Learning to Groove with Inverse Sequence
Transformations", ICML 2019, https://magenta.tensorflow.org/datasets/groove.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from stages.media import archive, fetch, tree
from stages.media.fetch import Trust
from stages.media.tree import Kinds
from stages.protocols.corpus import Collected, Corpus


@dataclass(frozen=True)
class UrlConfig:
    url: str
    sha256: str
    kinds: Kinds = "all"
    num_pieces: int = 0
    """In natural order of their paths; 0 takes all."""
    max_gb: float = 10.0
    licence: str = ""

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme != "https":
            raise ValueError(f"url = {self.url!r}: expected https://...")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256 = {self.sha256!r}: expected 64 hex digits, from `curl -L URL | sha256sum`")
        if self.num_pieces < 0 or self.max_gb <= 0:
            raise ValueError("num_pieces: expected 0 (all) or more; max_gb: expected above 0")


class Url(Corpus):
    """`source: url`."""

    Config: ClassVar[type] = UrlConfig
    config: UrlConfig

    def __init__(self, config: UrlConfig, trust: Trust | None = None) -> None:
        super().__init__(config)
        self.trust = trust

    def collect(self, folder: Path, work: Path) -> Collected:
        config, path, unpacked = self.config, work / "archive", work / "unpacked"
        max_bytes = int(config.max_gb * 1e9)
        fetch.fetch(config.url, path, config.sha256, max_bytes, self.trust)
        archive.discard(unpacked)
        refused = archive.extract_apart(path, unpacked, tree.ENDINGS[config.kinds], max_bytes)
        found = tree.gather(unpacked, folder, work, config.kinds, config.num_pieces, config.licence, os.replace)
        archive.discard(unpacked)
        path.unlink()
        return Collected(found.pieces, (*refused, *found.refused))
