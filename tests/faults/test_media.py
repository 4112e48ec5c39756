"""Files that were made, or broke, to do harm, through the download stage: each is quarantined with a reason."""

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import mido
import numpy as np
import pytest
import soundfile

from stages.media import tree
from stages.pipeline import artifacts
from tests.faults import collecting

pytestmark = pytest.mark.fault("media")
ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 200_000_000
"""Resident, of a worker that looks through files."""
TEN_HOURS = 10 * 3600


def wav(rate_hz=8000, channels=1, data=b"\x01\x02" * 100, claim=None):
    bytes_per_second = rate_hz * channels * 2 & 0xFFFFFFFF
    form = struct.pack("<HHIIHH", 1, channels, rate_hz, bytes_per_second, 2 * channels & 0xFFFF, 16)
    size = struct.pack("<I", len(data) if claim is None else claim)
    return (
        b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + size + data
    )


def midi(body, division=480):
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, division) + b"MTrk" + struct.pack(">I", len(body)) + body


NOTE, END = b"\x00\x90\x3c\x40\x60\x80\x3c\x00", b"\x00\xff\x2f\x00"
FILES = {
    "rate_0.wav": (wav(rate_hz=0), "not readable"),
    "rate_2_to_31.wav": (wav(rate_hz=2**31), "not readable|samples a second"),
    "rate_1.wav": (wav(rate_hz=1), "1 samples a second"),
    "inflated.wav": (wav(claim=2**31), "tells of 2,147,483,648 bytes of sound, it holds 200"),
    "channels_255.wav": (wav(channels=255, data=bytes(51000)), "255 channels"),
    "empty.wav": (wav(data=b""), "no samples"),
    "nothing.flac": (b"", "not readable"),
    "noise.ogg": (bytes(range(256)) * 40, "not readable"),
    "midi.flac": (midi(NOTE + END), "not readable"),
    "riff.mid": (wav(), "MThd"),
    "million_notes.mid": (midi(b"\x00\x90\x3c\x40" + b"\x00\x3c\x40" * 2_700_000 + END), "at most 4,000,000 are read"),
    "many_notes.mid": (midi(b"\x00\x90\x3c\x40" + b"\x00\x3c\x40" * 700_000 + END), "500,000 events"),
    "huge_delta.mid": (midi(b"\x00\x90\x3c\x40\xff\xff\xff\x7f\x80\x3c\x00" + END), "s long"),
    "division_0.mid": (midi(NOTE + END, division=0), "0 ticks per quarter"),
    "division_smpte.mid": (midi(NOTE + END, division=0xE728), "SMPTE"),
}


@pytest.fixture(scope="module")
def looked_through(tmp_path_factory):
    """The corpus that came of them and two good files, and the workers' largest memory."""
    folder = tmp_path_factory.mktemp("media")
    songs = folder / "songs"
    songs.mkdir()
    for name, (data, _) in FILES.items():
        (songs / name).write_bytes(data)
    soundfile.write(songs / "nan.wav", np.full(1000, np.nan, np.float32), 8000, subtype="FLOAT")
    soundfile.write(songs / "silence_10_h.flac", np.zeros(TEN_HOURS * 8000, np.int16), 8000)
    soundfile.write(songs / "good.wav", 0.1 * np.sin(np.arange(8000) / 9), 8000)
    file = mido.MidiFile()
    file.tracks.append(mido.MidiTrack([mido.Message("note_on", note=60), mido.Message("note_off", note=60, time=480)]))
    file.save(songs / "good_song.mid")
    subprocess.run([sys.executable, "-m", collecting.__name__, folder], cwd=ROOT, check=True, timeout=240)
    told = artifacts.read_json(folder / "raw/quarantine.json")["refused"]
    return folder, {item["path"]: item["reason"] for item in told}


def test_every_file_is_quarantined_with_its_reason(looked_through, record_property):
    folder, reasons = looked_through
    wanted = {name: reason for name, (_, reason) in FILES.items()}
    wanted |= {"nan.wav": "not finite", "silence_10_h.flac": "nothing but silence"}
    assert reasons.keys() == wanted.keys()
    for name, reason in wanted.items():
        assert re.search(reason, reasons[name]), f"{name}: {reasons[name]}"
    pieces = artifacts.read_json(folder / "raw/manifest.json")["pieces"]
    assert [piece["id"] for piece in pieces] == ["good", "good_song"]
    assert sum(path.is_file() for path in (folder / "raw").rglob("*")) == 2 + 2, "nothing refused is left"
    record_property("trials", len(wanted))


def test_memory_stays_flat(looked_through):
    """Ten hours of sound and a million notes, in the worker and in the main process."""
    folder, _ = looked_through
    assert 20_000_000 < artifacts.read_json(folder / "memory.json")["workers"] < MOST_BYTES
    assert artifacts.read_json(folder / "memory.json")["grown"] < 100_000_000


def test_a_device_or_a_pipe_is_no_music(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "zero.wav").symlink_to("/dev/zero")
    (tmp_path / "gone.mid").symlink_to("/nowhere")
    assert tree.candidates(tmp_path, "all") == ([], [])
