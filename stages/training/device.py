"""Where and how tensors are computed: one GPU or the CPU, a fixed number of threads, repeatable algorithms."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from stages.pipeline import ranks


def best() -> torch.device:
    """The first CUDA device where there is one (CUDA_VISIBLE_DEVICES hides it), else the CPU; each rank has its own.

    ValueError where a rank has none.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if ranks.local() >= torch.cuda.device_count():
        found = f"rank {ranks.rank()} is number {ranks.local()} of this machine, which has {torch.cuda.device_count()}"
        raise ValueError(f"{found} visible GPUs: start as many processes as GPUs")
    return torch.device("cuda", ranks.local())


def halves(device: torch.device, precision: str) -> bool:
    """Whether losses are computed in bfloat16, as TrainConfig.precision says."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bfloat16"


@contextmanager
def repeatable(num_threads: int) -> Iterator[None]:
    """The same input gives the same bytes: threads as told, deterministic algorithms wherever torch has them.

    Where it has none it warns. Filling uninitialised memory would only cost time: nothing here reads it.
    """
    memory: Any = torch.utils.deterministic
    threads, fill = torch.get_num_threads(), memory.fill_uninitialized_memory
    algorithms = torch.get_deterministic_debug_mode()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats itself only with this
    torch.set_num_threads(num_threads)
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms loads a compiler, which takes a second
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(algorithms)
        memory.fill_uninitialized_memory = fill
