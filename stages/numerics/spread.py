"""How far samples of one clip lie from each other, against their distance from the truth.

Draws e_k = m + s_k scatter with variance s^2 around their mean, whose error is m^2. Squared errors of one draw and of
the mean of K draws are m^2 + s^2 and m^2 + s^2 / K on average, so

    m^2 = (K |mean - x|^2 - |one - x|^2) / (K - 1),      spread = 10 log10((m^2 + s^2) / m^2) dB

A sampler of the true posterior has s = m: 3.01 dB. Less says that its samples are too much alike, 0 that there is one.
"""

import numpy as np

CALIBRATED_DB = 10 * float(np.log10(2))


def spread_db(draws: np.ndarray, truth: np.ndarray) -> float | None:
    """Of draws [K, num_samples], K at least 2; None where chance leaves their mean no error."""
    num = len(draws)
    one = float(((draws - truth) ** 2).sum(axis=1).mean())
    mean = float(((draws.mean(axis=0) - truth) ** 2).sum())
    least = (num * mean - one) / (num - 1)
    return 10 * float(np.log10(one / least)) if least > 0 else None
