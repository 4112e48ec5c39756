"""A folder of yours: every .mid, .midi, .wav, .flac, .aiff, .ogg, .opus and .mp3 in it, however deep.

    corpora:
      music:
        source: folder
        path: /home/me/songs          # relative paths start where params.yaml lies
        licence: "my own recordings"  # kept in the manifest, word for word

Files are copied, never touched. DVC does not watch the folder: after changing it, `dvc repro -f download@music`.
A file that cannot be read goes to quarantine.json with the reason; the others are used.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from stages.media import tree
from stages.media.tree import Kinds
from stages.protocols.corpus import Collected, Corpus


@dataclass(frozen=True)
class FolderConfig:
    path: str
    kinds: Kinds = "all"
    num_pieces: int = 0
    """In natural order of their paths; 0 takes all."""
    licence: str = ""

    def __post_init__(self) -> None:
        if self.num_pieces < 0:
            raise ValueError(f"num_pieces = {self.num_pieces}: expected 0 (all) or more")
        if not self.path:
            raise ValueError("path = '': expected a folder of music")


class Folder(Corpus):
    """`source: folder`."""

    Config: ClassVar[type] = FolderConfig
    config: FolderConfig

    def collect(self, folder: Path, work: Path) -> Collected:
        root = Path(self.config.path).expanduser()
        if not root.is_dir():
            raise ValueError(f"path = {self.config.path!r}: there is no such folder; give the folder of your music")
        config = self.config
        return tree.gather(root, folder, work, config.kinds, config.num_pieces, config.licence, shutil.copyfile)
