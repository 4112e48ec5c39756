"""Scores on disk: Standard MIDI Files, read without trust and written canonically.

Reading is one pass over the bytes that counts before it keeps: bytes, ticks, events, notes, seconds and sounding
seconds each have a cap, nothing is ever allocated per tick, and a delta time longer than four bytes is refused. So a
37-byte file cannot ask for gigabytes, and nothing here needs a memory limit or a timeout. What musicians' files get
wrong without losing music is mended and counted (`Score.mended`): a note never switched off, tempo 0, a truncated
track, an unknown meta event. What leaves no music to trust is a ValueError with the reason.

Time: a tempo map [(tick, microseconds per quarter)] turns ticks into seconds,
    s(tick) = s(tick_i) + (tick - tick_i) * tempo_i / (10^6 * ticks_per_quarter).

Format: MIDI Manufacturers Association, Standard MIDI Files 1.0 (RP-001), 1996, https://midi.org.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

DEFAULT_TEMPO = 500_000  # microseconds per quarter, before the first tempo event
DRUM_CHANNEL = 9
SUSTAIN = 64
NUM_DATA_BYTES = {0x80: 2, 0x90: 2, 0xA0: 2, 0xB0: 2, 0xC0: 1, 0xD0: 1, 0xE0: 2}


@dataclass(frozen=True)
class Limits:
    """What a file may ask for; MAESTRO's largest has 0.3 MB, 28,000 notes and 44 minutes."""

    num_bytes: int = 4_000_000
    num_events: int = 500_000
    num_notes: int = 100_000
    num_ticks: int = 2**31
    duration_s: float = 7200.0
    sounding_s: float = 200_000.0
    """Sum of the notes' durations: what rendering has to compute."""


@dataclass(frozen=True)
class Voice:
    """The notes of one track, channel and program."""

    name: str
    program: int
    """General MIDI, 0-127."""
    is_drum: bool
    notes: np.ndarray
    """int64 [num_notes, 4]: start tick, end tick, pitch, velocity; sorted by rows."""
    pedals: np.ndarray
    """int64 [num_pedals, 2]: tick and value 0-127 of the sustain pedal; down from 64."""


@dataclass(frozen=True)
class Score:
    """One piece of symbolic music."""

    id: str
    ticks_per_quarter: int
    tempos: np.ndarray
    """int64 [num_tempos, 2]: tick, microseconds per quarter; the first at tick 0, ticks rise."""
    voices: tuple[Voice, ...]
    mended: Mapping[str, int] = field(default_factory=dict)
    """What was wrong with the file and how often."""

    @property
    def num_notes(self) -> int:
        return sum(len(voice.notes) for voice in self.voices)

    @property
    def duration_s(self) -> float:
        """Until the last note ends."""
        return float(self.seconds(np.array(max(voice.notes[:, 1].max() for voice in self.voices))))

    def seconds(self, ticks: np.ndarray) -> np.ndarray:
        """Ticks [*] as float64 seconds [*], by the tempo map."""
        starts, tempos = self.tempos.T
        per_tick = tempos / (1e6 * self.ticks_per_quarter)
        begins = np.concatenate([[0.0], np.cumsum(np.diff(starts) * per_tick[:-1])])
        i = np.searchsorted(starts, ticks, side="right") - 1
        return begins[i] + (ticks - starts[i]) * per_tick[i]


def melody(score: Score) -> np.ndarray:
    """The soprano line, int64 [num_notes]: of the voice that lies highest on average, the top note at each onset.

    Voices with fewer than a quarter of the fullest voice's notes (an obbligato's entry) do not count, nor do drums.
    """
    voices = [voice.notes for voice in score.voices if not voice.is_drum]
    most = max((len(notes) for notes in voices), default=0)
    if most == 0:
        return np.zeros(0, dtype=np.int64)
    notes = max((notes for notes in voices if 4 * len(notes) >= most), key=lambda notes: float(notes[:, 2].mean()))
    by_onset = notes[np.lexsort((notes[:, 2], notes[:, 0]))]
    is_top = np.append(np.diff(by_onset[:, 0]) > 0, True)
    return by_onset[is_top, 2]


def read(data: bytes, score_id: str, limits: Limits | None = None) -> Score:
    """The score in a file's bytes. ValueError says why there is none."""
    limits = limits or Limits()
    if len(data) > limits.num_bytes:
        raise ValueError(f"{len(data):,} bytes, at most {limits.num_bytes:,} are read")
    mended: Counter[str] = Counter()
    tracks, ticks_per_quarter = _chunks(data, mended)
    events: list[tuple[int, int, int, int, int]] = []  # tick, track, status, first and second value
    names: dict[int, str] = {}
    for k, track in enumerate(tracks):
        for tick, status, first, second in _events(track, limits, mended, names, k):
            events.append((tick, k, status, first, second))
            if len(events) > limits.num_events:
                raise ValueError(f"more than {limits.num_events:,} events")
    events.sort(key=lambda event: event[0])  # stable: file order within a tick
    tempos = np.array(_tempos(events), dtype=np.int64)
    score = Score(score_id, ticks_per_quarter, tempos, _voices(events, names, mended, limits), dict(mended))
    _check_length(score, limits)
    return score


def write(score: Score) -> bytes:
    """The score as a type 1 file: a track of tempos, then one per voice. The same score, the same bytes."""
    import io

    import mido

    file = mido.MidiFile(type=1, ticks_per_beat=score.ticks_per_quarter, charset="utf-8")
    tempos = [(int(tick), mido.MetaMessage("set_tempo", tempo=int(tempo))) for tick, tempo in score.tempos]
    file.tracks.append(mido.MidiTrack(_with_deltas(tempos)))
    melodic = [channel for channel in range(16) if channel != DRUM_CHANNEL]
    for k, voice in enumerate(score.voices):
        channel = DRUM_CHANNEL if voice.is_drum else melodic[k % len(melodic)]
        timed: list[tuple[int, int, mido.Message | mido.MetaMessage]] = []
        timed.append((0, 0, mido.MetaMessage("track_name", name=voice.name)))
        timed.append((0, 1, mido.Message("program_change", channel=channel, program=voice.program)))
        for tick, value in voice.pedals.tolist():
            timed.append((tick, 2, mido.Message("control_change", channel=channel, control=SUSTAIN, value=value)))
        for start, end, pitch, velocity in voice.notes.tolist():
            timed.append((start, 4, mido.Message("note_on", channel=channel, note=pitch, velocity=velocity)))
            timed.append((end, 3, mido.Message("note_off", channel=channel, note=pitch, velocity=0)))
        timed.sort(key=lambda item: item[:2])
        file.tracks.append(mido.MidiTrack(_with_deltas([(tick, message) for tick, _, message in timed])))
    buffer = io.BytesIO()
    file.save(file=buffer)
    return buffer.getvalue()


def _with_deltas(timed: list[tuple[int, Any]]) -> list[Any]:
    """(tick, message) pairs as messages whose time is the delta to the one before."""
    ticks = [0, *(tick for tick, _ in timed)]
    return [message.copy(time=tick - before) for (tick, message), before in zip(timed, ticks, strict=False)]


def _chunks(data: bytes, mended: Counter[str]) -> tuple[list[memoryview], int]:
    """The track chunks' contents and the division in ticks per quarter."""
    if data[:4] != b"MThd" or len(data) < 14:
        raise ValueError("not a MIDI file: it does not begin with an MThd header")
    kind, division = int.from_bytes(data[8:10]), int.from_bytes(data[12:14])
    if kind == 2:
        raise ValueError("type 2 (independent patterns) has no common time")
    if division >= 0x8000:
        raise ValueError("its time is in SMPTE frames, not in quarters")
    if division == 0:
        raise ValueError("0 ticks per quarter")
    tracks, at = [], 8 + int.from_bytes(data[4:8])
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8])
        if name == b"MTrk":
            tracks.append(memoryview(data)[at + 8 : at + 8 + size])
        if at + 8 + size > len(data):
            mended["truncated"] += 1
        at += 8 + size
    return tracks, division


def _events(
    track: memoryview, limits: Limits, mended: Counter[str], names: dict[int, str], k: int
) -> Iterator[tuple[int, int, int, int]]:
    """(tick, status, first, second) of the events that carry music; a tempo is (tick, 0xFF51, tempo, 0)."""
    tick = at = running = 0
    try:
        while at < len(track):
            delta, at = _number(track, at)
            tick += delta
            if tick > limits.num_ticks:
                raise ValueError(f"longer than {limits.num_ticks:,} ticks")
            status = track[at]
            if status in (0xF0, 0xF7) or status == 0xFF:
                meta = track[at + 1] if status == 0xFF else None
                size, at = _number(track, at + (1 if meta is None else 2))
                content, at = bytes(track[at : at + size]), at + size
                if meta == 0x2F:
                    return
                if meta == 0x03:
                    names.setdefault(k, content[:80].decode("utf-8", errors="replace"))
                elif meta == 0x51 and 0 < int.from_bytes(content) and len(content) == 3:
                    yield tick, 0xFF51, int.from_bytes(content), 0
                elif meta == 0x51:
                    mended["impossible tempo"] += 1
                continue
            if status >= 0x80:
                running, at = status, at + 1
            size = NUM_DATA_BYTES.get(running & 0xF0)
            if size is None or running < 0x80:
                raise ValueError(f"no event has status {status:#04x}")
            first, second = track[at], track[at + 1] if size == 2 else 0
            if first > 127 or second > 127:
                raise ValueError(f"a data byte of {max(first, second)}, at most 127")
            at += size
            yield tick, running, first, second
    except IndexError:
        mended["truncated"] += 1


def _number(track: memoryview, at: int) -> tuple[int, int]:
    """A variable-length quantity of at most four bytes, and where it ends."""
    value = 0
    for i in range(at, at + 4):
        value = value << 7 | track[i] & 0x7F
        if track[i] < 0x80:
            return value, i + 1
    raise ValueError("a length or delta time of more than four bytes")


def _tempos(events: list[tuple[int, int, int, int, int]]) -> list[tuple[int, int]]:
    """The tempo map; of several at one tick the last holds."""
    changes = {0: DEFAULT_TEMPO} | {tick: first for tick, _, status, first, _ in events if status == 0xFF51}
    return sorted(changes.items())


def _voices(
    events: list[tuple[int, int, int, int, int]], names: dict[int, str], mended: Counter[str], limits: Limits
) -> tuple[Voice, ...]:
    """Pair switched on with switched off, first in first out, per track, channel and pitch."""
    notes: dict[tuple[int, int, int], list[tuple[int, int, int, int]]] = defaultdict(list)
    pedals: dict[int, list[tuple[int, int]]] = defaultdict(list)
    open_notes: dict[tuple[int, int, int], deque[tuple[int, int, int]]] = defaultdict(deque)
    programs = [0] * 16
    for tick, track, status, first, second in events:
        kind, channel = status & 0xF0, status & 0x0F
        if kind == 0x90 and second > 0:
            open_notes[track, channel, first].append((tick, second, programs[channel]))
        elif status != 0xFF51 and kind in (0x80, 0x90):
            if not open_notes[track, channel, first]:
                mended["note off without on"] += 1
                continue
            start, velocity, program = open_notes[track, channel, first].popleft()
            notes[track, channel, program].append((start, tick, first, velocity))
        elif kind == 0xC0:
            programs[channel] = first
        elif kind == 0xB0 and first == SUSTAIN:
            pedals[channel].append((tick, second))
    for (track, channel, pitch), left in open_notes.items():
        for start, velocity, program in left:
            mended["note never switched off"] += 1
            notes[track, channel, program].append((start, max(events[-1][0], start), pitch, velocity))
    if sum(map(len, notes.values())) > limits.num_notes:
        raise ValueError(f"{sum(map(len, notes.values())):,} notes, at most {limits.num_notes:,} are read")
    voices = []
    for track, channel, program in sorted(notes):
        rows = [row for row in notes[track, channel, program] if row[1] > row[0]]
        if len(rows) < len(notes[track, channel, program]):
            mended["note of no length"] += len(notes[track, channel, program]) - len(rows)
        if rows:
            array = np.array(sorted(rows), dtype=np.int64)
            pedal = np.array(pedals[channel], dtype=np.int64).reshape(-1, 2)
            voices.append(Voice(names.get(track, ""), program, channel == DRUM_CHANNEL, array, pedal))
    return tuple(voices)


def _check_length(score: Score, limits: Limits) -> None:
    if not score.voices:
        raise ValueError("no notes")
    if score.duration_s > limits.duration_s:
        raise ValueError(f"{score.duration_s:,.0f} s long, at most {limits.duration_s:,.0f} s are read")
    lengths = [score.seconds(voice.notes[:, :2]) for voice in score.voices]
    sounding_s = float(sum((ends - starts).sum() for starts, ends in (pair.T for pair in lengths)))
    if sounding_s > limits.sounding_s:
        raise ValueError(f"{sounding_s:,.0f} s of sounding notes, at most {limits.sounding_s:,.0f} s are read")
