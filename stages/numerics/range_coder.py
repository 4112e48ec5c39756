"""Adaptive range coding: integers as about as few bits as their frequencies allow, exactly, without a table to send.

Column j of the symbols [T, C] has counts of its own, all 1 at first. A symbol with count n of a total N narrows the
interval [low, low + range) to its share n / N, so that it costs log2(N / n) bits; then its count rises by INCREMENT, on
both sides alike (a Dirichlet prior of 1 / INCREMENT per class). Integers only: every machine writes the same bytes.

G. N. N. Martin, "Range encoding: an algorithm for removing redundancy from a digitised message", 1979.
"""

import numpy as np

INCREMENT = 32
TOP = 1 << 56
"""The interval is [0, TOP) at first; a byte leaves whenever it has become smaller than TOP / 256."""
BYTES = 7


def encode(symbols: np.ndarray, num_classes: int) -> bytes:
    """Integers [T, C], each in [0, num_classes), as bytes."""
    low, width, out = 0, TOP, bytearray()
    bounds = _uniform(symbols.shape[1], num_classes)
    for row in symbols.tolist():
        for bound, symbol in zip(bounds, row, strict=True):
            unit = width // int(bound[-1])
            low += unit * int(bound[symbol])
            width = unit * int(bound[symbol + 1] - bound[symbol])
            bound[symbol + 1 :] += INCREMENT
            if low >= TOP:
                low -= TOP
                _carry(out)
            while width < TOP >> 8:
                out.append(low >> 48)
                low = low << 8 & TOP - 1
                width <<= 8
    return _finish(out, low, width)


def _carry(out: bytearray) -> None:
    place = len(out) - 1
    while out[place] == 255:
        out[place] = 0
        place -= 1
    out[place] += 1


def _finish(out: bytearray, low: int, width: int) -> bytes:
    """The shortest bytes that, followed by zeros, lie in the last interval."""
    for num in range(BYTES + 1):
        step = TOP >> 8 * num
        value = -(-low // step) * step
        if value < low + width:
            break
    if value >= TOP:
        value -= TOP
        _carry(out)
    out += value.to_bytes(BYTES, "big")
    return bytes(out).rstrip(b"\0")


def decode(data: bytes, num_steps: int, num_columns: int, num_classes: int) -> np.ndarray:
    """The inverse of `encode`, int64 [num_steps, num_columns]; bytes that it never wrote give some symbols too."""
    symbols = np.zeros((num_steps, num_columns), np.int64)
    bounds = _uniform(num_columns, num_classes)
    place, width = BYTES, TOP
    offset = int.from_bytes(data[:BYTES].ljust(BYTES, b"\0"), "big")  # of the coded value above low
    for row in symbols:
        for column, bound in enumerate(bounds):
            unit = width // int(bound[-1])
            target = min(offset // unit, int(bound[-1]) - 1)
            symbol = int(np.searchsorted(bound, target, side="right")) - 1
            row[column] = symbol
            offset -= unit * int(bound[symbol])
            width = unit * int(bound[symbol + 1] - bound[symbol])
            bound[symbol + 1 :] += INCREMENT
            while width < TOP >> 8:
                offset = offset << 8 | (data[place] if place < len(data) else 0)
                place += 1
                width <<= 8
    return symbols


def _uniform(num_columns: int, num_classes: int) -> np.ndarray:
    """Cumulative counts, all classes once. int64 [C, num_classes + 1]."""
    return np.tile(np.arange(num_classes + 1, dtype=np.int64), (num_columns, 1))
