"""SIGTERM and Ctrl-C end training after the step under way, with a checkpoint; a later one ends it at once.

What follows within ECHO_S is the same one: when a process of many threads is killed, the kernel tells its children
(PR_SET_PDEATHSIG) once for each thread that they pass to.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
ECHO_S = 1.0


@dataclass
class Request:
    """What was asked from outside."""

    signal: int = 0
    """Its number; 0: nothing."""


def exit_code(number: int) -> int:
    """As a shell reports a process that a signal ended: 143 for SIGTERM, 130 for SIGINT."""
    return 128 + number


@contextmanager
def watched() -> Iterator[Request]:
    """Inside, the first signal only sets `signal`. In a thread other than the main one Python cannot hear signals."""
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    patience_ends = 0.0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal patience_ends
        if not request.signal:
            request.signal, patience_ends = number, time.monotonic() + ECHO_S
        elif time.monotonic() > patience_ends:
            signal.signal(number, before[number])
            signal.raise_signal(number)

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
