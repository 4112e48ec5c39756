"""SIGTERM and Ctrl-C end training after the step under way, with a checkpoint; a second one ends it at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


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
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        request.signal = number
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
