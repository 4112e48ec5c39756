"""A random stretch of a long code: what training looks at, a pure function of code, length and seed."""

import numpy as np

from stages.protocols.spec import Code


def crop(code: Code, num_steps: int, seed: int) -> tuple[int, Code]:
    """First step and at most `num_steps` steps from it, every place equally likely; a shorter code comes whole.

    The arrays are views: of a mapped shard only the pages of these steps are read. Conditions are of the whole clip.
    """
    room = len(code.data) - num_steps
    if room <= 0:
        return 0, code
    start = int(np.random.Generator(np.random.Philox(seed)).integers(room + 1))
    stretch = slice(start, start + num_steps)
    return start, Code(code.id, code.data[stretch], code.mask[stretch], code.conditions, code.side)
