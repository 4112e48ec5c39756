"""MIDI files: what mido and pretty_midi make of them, what is mended, and what may never be allocated."""

import io
import time
import tracemalloc

import mido
import numpy as np
import pretty_midi
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.media import midi
from stages.media.midi import Limits, Score, Voice

NO_PEDALS = np.zeros((0, 2), dtype=np.int64)


def number(value):
    """A variable-length quantity."""
    digits = [value & 0x7F]
    while value := value >> 7:
        digits.insert(0, value & 0x7F | 0x80)
    return bytes(digits)


def file(*tracks, division=480, kind=1):
    header = b"MThd" + (6).to_bytes(4) + kind.to_bytes(2) + len(tracks).to_bytes(2) + division.to_bytes(2)
    return header + b"".join(b"MTrk" + len(track).to_bytes(4) + track for track in tracks)


END = b"\x00\xff\x2f\x00"
NOTE = b"\x00\x90\x3c\x40" + number(480) + b"\x80\x3c\x00"


def score(*voices, tempos=((0, 500_000),), division=480):
    made = tuple(
        Voice("", program, False, np.array(sorted(notes), dtype=np.int64), NO_PEDALS) for program, notes in voices
    )
    return Score("piece", division, np.array(tempos, dtype=np.int64), made)


def test_one_note():
    read = midi.read(file(NOTE + END), "a")
    (voice,) = read.voices
    assert voice.notes.tolist() == [[0, 480, 60, 64]]
    assert read.duration_s == pytest.approx(0.5)
    assert not read.mended


def test_running_status_and_velocity_0_switch_off():
    track = b"\x00\x90\x3c\x40" + b"\x60\x3e\x40" + b"\x60\x3c\x00" + b"\x00\x3e\x00" + END
    (voice,) = midi.read(file(track), "a").voices
    assert voice.notes.tolist() == [[0, 192, 60, 64], [96, 192, 62, 64]]


def test_of_two_notes_of_one_pitch_the_first_to_begin_ends_first():
    track = b"\x00\x90\x3c\x40" + b"\x10\x3c\x41" + b"\x10\x3c\x00" + b"\x10\x3c\x00" + END
    (voice,) = midi.read(file(track), "a").voices
    assert voice.notes.tolist() == [[0, 32, 60, 64], [16, 48, 60, 65]]


def test_tempo_map_agrees_with_pretty_midi():
    tempos = [(0, 500_000), (480, 250_000), (1000, 1_500_000), (5000, 400_000)]
    notes = [(100, 300, 60, 90), (470, 2000, 62, 90), (1000, 7000, 64, 90), (6000, 9000, 65, 90)]
    written = midi.write(score((0, notes), tempos=tempos))
    theirs = pretty_midi.PrettyMIDI(io.BytesIO(written)).instruments[0].notes
    read = midi.read(written, "a")
    expected = sorted((note.start, note.end) for note in theirs)
    np.testing.assert_allclose(read.seconds(read.voices[0].notes[:, :2]), expected, atol=1e-9)
    assert read.duration_s == pytest.approx(expected[-1][1])


def test_mido_reads_what_is_written():
    notes = [(0, 480, 60, 90), (480, 960, 67, 1)]
    written = mido.MidiFile(file=io.BytesIO(midi.write(score((19, notes), (40, notes)))))
    assert [message.program for track in written.tracks for message in track if message.type == "program_change"] == [
        19,
        40,
    ]
    ticks = np.cumsum([message.time for message in written.tracks[1]])
    found = [
        (tick, m.type, m.note) for tick, m in zip(ticks, written.tracks[1], strict=True) if m.type.startswith("note")
    ]
    assert found == [(0, "note_on", 60), (480, "note_off", 60), (480, "note_on", 67), (960, "note_off", 67)]


@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 5000), st.integers(1, 2000), st.integers(0, 127), st.integers(1, 127)),
            min_size=1,
            max_size=20,
            unique_by=lambda note: note[2],  # notes of one pitch that overlap in one voice have no unique pairing
        ),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 0x7FFF),
)
@settings(max_examples=60, deadline=None)
def test_read_inverts_write(voices, division):
    made = score(
        *((7 * k, [(s, s + d, p, v) for s, d, p, v in notes]) for k, notes in enumerate(voices)), division=division
    )
    written = midi.write(made)
    read = midi.read(written, "piece")
    assert written == midi.write(made) == midi.write(read)
    assert read.ticks_per_quarter == division and not read.mended
    for before, after in zip(made.voices, read.voices, strict=True):
        assert before.program == after.program
        np.testing.assert_array_equal(before.notes, after.notes)


def test_programs_belong_to_channels_whatever_the_track():
    programs = b"\x00\xc0\x13\x00\xc1\x28" + END
    high = b"\x00\x90\x48\x40" + number(480) + b"\x80\x48\x00" + END
    low = b"\x00\x91\x30\x40" + number(480) + b"\x81\x30\x00" + END
    assert [voice.program for voice in midi.read(file(programs, high, low), "a").voices] == [0x13, 0x28]


def test_drums_are_channel_10():
    track = b"\x00\x99\x24\x40" + number(480) + b"\x89\x24\x00" + END
    assert midi.read(file(track), "a").voices[0].is_drum


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (
            file(b"\x00\x90\x3c\x40" + number(480) + b"\x90\x3e\x40" + number(480) + b"\x80\x3e\x00" + END),
            "note never switched off",
        ),
        (file(b"\x00\x80\x3c\x00" + NOTE + END), "note off without on"),
        (file(b"\x00\xff\x51\x03\x00\x00\x00" + NOTE + END), "impossible tempo"),
        (file(NOTE + b"\x00\x90\x3c\x40\x00\x80\x3c\x00" + END), "note of no length"),
        (file(NOTE + END)[:-4] + b"\x00", "truncated"),
    ],
)
def test_mends_and_counts(data, fault):
    read = midi.read(data, "a")
    assert read.mended[fault] >= 1
    assert [0, 480, 60, 64] in read.voices[0].notes.tolist() or fault == "note never switched off"
    assert read.duration_s > 0


def test_a_key_signature_out_of_range_loses_no_music():
    """mido refuses the whole file."""
    data = file(b"\x00\xff\x59\x02\x40\x05" + NOTE + END)
    with pytest.raises(mido.midifiles.meta.KeySignatureError):
        mido.MidiFile(file=io.BytesIO(data))
    assert midi.read(data, "a").num_notes == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "MThd"),
        (b"RIFF" + bytes(40), "MThd"),
        (file(NOTE + END, division=0), "0 ticks"),
        (file(NOTE + END, division=0xE728), "SMPTE"),
        (file(NOTE + END, kind=2), "type 2"),
        (file(END), "no notes"),
        (file(), "no notes"),
        (file(b"\xff\xff\xff\xff\x7f\x90\x3c\x40" + END), "more than four bytes"),
        (file(b"\x00\x90\x3c\xc0" + END), "data byte"),
        (file(b"\x00\x3c\x40" + END), "status"),
        (file(b"\x00\x90\x3c\x40" + number(2**28 - 1) * 1 + b"\x80\x3c\x00" + END), "s long"),
        (file((number(2**28 - 1) + b"\xb0\x01\x01") * 9 + NOTE + END), "ticks"),
    ],
)
def test_refuses_with_a_reason(data, reason):
    with pytest.raises(ValueError, match=reason):
        midi.read(data, "a")


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(num_bytes=100), "bytes"),
        (Limits(num_events=10), "events"),
        (Limits(num_notes=10), "notes, at most"),
        (Limits(duration_s=1.0), "s long"),
        (Limits(sounding_s=1.0), "sounding"),
    ],
)
def test_caps(limits, reason):
    with pytest.raises(ValueError, match=reason):
        midi.read(file(NOTE * 50 + END), "a", limits)


def test_a_small_file_cannot_ask_for_much():
    """A delta of 2^28 ticks at a slow tempo: nothing is allocated per tick, and too many notes stop early."""
    slow = file(b"\x00\xff\x51\x03\x00\x00\x01" + b"\x00\x90\x3c\x40" + number(9_900_000) + b"\x80\x3c\x00" + END)
    many = file(b"\x00\x90\x3c\x40" + b"\x00\x3c\x40" * 60_000 + END)
    tracemalloc.start()
    begun = time.process_time()
    assert midi.read(slow, "a").num_notes == 1
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    with pytest.raises(ValueError, match="events"):
        midi.read(many, "a", Limits(num_events=50_000))
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
    assert time.process_time() - begun < 15  # not a benchmark: all that mido makes of it would take far longer


@given(st.binary(max_size=200), st.integers(0, 3))
@settings(max_examples=300, deadline=None)
def test_noise_never_raises_anything_but_valueerror(noise, num_flips):
    whole = bytearray(midi.write(score((0, [(0, 480, 60, 90), (480, 960, 62, 90)]), (40, [(0, 960, 48, 90)]))))
    for k in range(min(num_flips, len(noise))):
        whole[(noise[k] * 7) % len(whole)] ^= 1 + k
    for data in (bytes(whole), file(noise), noise, bytes(whole[: len(noise)])):
        try:
            read = midi.read(data, "a")
        except ValueError:
            continue
        assert read.num_notes > 0 and np.isfinite(read.duration_s)


def test_melody_is_the_top_line_of_the_highest_voice():
    soprano = [(0, 480, 72, 90), (0, 480, 64, 90), (480, 960, 74, 90), (960, 1440, 71, 90), (960, 1440, 60, 90)]
    bass = [(k * 480, k * 480 + 480, 48 + k, 90) for k in range(4)]
    entry = [(0, 480, 100, 90)]  # one high note is no soprano
    made = score((0, bass), (0, soprano), (0, entry))
    assert midi.melody(made).tolist() == [72, 74, 71]
    assert midi.melody(score((0, bass))).tolist() == [48, 49, 50, 51]
