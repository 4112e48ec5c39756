"""The MDCT of a minute against torch.stft of the same minute: 320 bins, float32, one thread.

The ratio hangs on where large arrays come from. `fresh`: from the operating system at each call, whose page faults cost
torch.stft more, since it makes more of them. `kept`: from memory that the process has used before, so that arithmetic
alone counts. `default`: as glibc decides, which drifts from one to the other by chance. Each in a process of its own.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.benchmarks import table

pytestmark = pytest.mark.bench
MEMORY = {
    "default": {},
    "fresh": {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"},
    "kept": {"MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "4294967296"},
}
MEASURE = """
import json
import numpy as np
import torch
from stages.numerics import mdct
from tests.benchmarks import table
torch.set_num_threads(1)
samples = np.random.Generator(np.random.Philox(0)).standard_normal(60 * 24_000).astype(np.float32)
tensor, sine, hann = torch.from_numpy(samples), mdct.sine_window(320), torch.hann_window(640)
stft = lambda: torch.stft(tensor, 640, 320, window=hann, return_complex=True)
print(json.dumps(table.pairs(lambda: mdct.mdct(samples, sine), stft, num=41)))
"""


@pytest.mark.parametrize("memory", MEMORY)
def test_mdct_of_a_minute(figure, memory):
    environment = os.environ | MEMORY[memory] | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], env=environment, capture_output=True, text=True, check=True, cwd=table.ROOT
    )
    found = json.loads(done.stdout)
    unit = f"CPU time of torch.stft (60 s, N = 320, float32, {memory} memory)"
    figure(table.of(f"mdct_vs_stft_{memory}", [one / other for one, other in found], unit, must=0.7, aim=0.45))
    figure(table.of(f"mdct_60s_{memory}", [1000 * one for one, _ in found], "ms"))
    figure(table.of(f"stft_60s_{memory}", [1000 * other for _, other in found], "ms"))
