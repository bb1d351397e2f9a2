"""How a process computes on a CPU: with how many threads, and without what would slow it down.

The number of threads is measured, because more is often slower.

A step of a small model is many short operations. On a busy machine a second thread makes each of them wait
for a core that somebody else holds; several times slower was seen.
"""

from __future__ import annotations

import ctypes
import os
import time
from contextlib import suppress
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True, kw_only=True)
class ThreadChoice:
    """``count`` is what to give to ``torch.set_num_threads``; ``reason`` says why in words."""

    count: int
    reason: str


def keep_memory(size: int = 2**29) -> None:
    """Asks glibc to keep freed blocks of up to ``size`` bytes for the next time; does nothing on other systems.

    By default it gives large ones back at once, and every step then pays page faults to touch them anew.
    """
    with suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        for option in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            library.mallopt(option, size)


def train_quickly() -> None:
    """What a process that trains asks for before its first thread begins: memory is kept, and numbers so small that a
    CPU takes a hundred times longer for them count as 0. Sharp attention makes many: a game was learned at two thirds
    of its speed for them, to the same losses."""
    keep_memory()
    torch.set_flush_denormal(True)


def choose_threads(most: int | None = None) -> ThreadChoice:
    """Times a model-like piece of work on 1, 2, 4 … threads up to ``most`` (default: the cores, at most 8).

    Takes a quarter of a second or so and leaves the thread count as it found it. ``OMP_NUM_THREADS`` decides if set.
    """
    wished = os.environ.get("OMP_NUM_THREADS", "")
    if wished.isdigit() and int(wished) > 0:
        return ThreadChoice(count=int(wished), reason="OMP_NUM_THREADS says so")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = min(cores, 8 if most is None else most)
    if limit <= 1:
        return ThreadChoice(count=1, reason="one core")
    counts = [n for n in (1, 2, 4, 8) if n <= limit]
    before = torch.get_num_threads()
    times: dict[int, float] = {}
    try:
        for count in counts:
            torch.set_num_threads(count)
            times[count] = _seconds_of_work()
    finally:
        torch.set_num_threads(before)
    # A tenth is not worth a second core.
    best = min(times.values())
    count = next(n for n in counts if times[n] <= best * 1.1)
    measured = ", ".join(f"{n}: {1000 * seconds:.1f} ms" for n, seconds in times.items())
    return ThreadChoice(count=count, reason=f"measured by thread count, {measured}")


@torch.inference_mode()
def _seconds_of_work() -> float:
    """The middle of several timings of a few transformer-sized products and a convolution."""
    x, weight = torch.ones(64, 256), torch.full((1024, 256), 1e-3)
    picture, kernel = torch.ones(4, 64, 32, 32), torch.full((64, 64, 3, 3), 1e-3)
    times = []
    for _ in range(9):
        start = time.perf_counter()
        for _ in range(6):
            x = F.layer_norm(F.gelu(x @ weight.T) @ weight, (256,))
        F.conv2d(picture, kernel, padding=1)
        times.append(time.perf_counter() - start)
    return sorted(times[2:])[len(times[2:]) // 2]
