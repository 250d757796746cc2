"""What it brings on CPUs to keep freed memory, in huge pages, instead of asking Linux for it at every layer."""

from __future__ import annotations

import multiprocessing
import os
import platform
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.measurements import NotMeasuredError, Row
from benchmarks.ranks import step_seconds

TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=8000000000"
"""Value of GLIBC_TUNABLES: huge pages where Linux has them, nothing mapped apart, 8 GB kept before any goes back."""


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Sets a variable for processes that start within the block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def measure_allocator(repeats: int, *, name: str, config: Path, steps: int = 20) -> list[Row]:
    """Compares training steps with and without `TUNABLES`, in turn, each in a fresh process.

    Args:
        repeats: Turns.
        name: Name of the row.
        config: A configuration of `mvg fit`.
        steps: Steps a turn.

    Raises:
        NotMeasuredError: If the C library is another.
    """
    if platform.libc_ver()[0] != "glibc":
        raise NotMeasuredError("GLIBC_TUNABLES is for Linux with glibc")
    threads, turns = torch.get_num_threads(), []
    for _ in range(repeats):
        pair = []
        for value in ("", TUNABLES):
            with (
                environment("GLIBC_TUNABLES", value),
                ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
            ):
                pair.append(pool.submit(step_seconds, config, 1, threads, steps).result())
        turns.append(pair)
    plain, ours = (statistics.median(seconds) for seconds in zip(*turns, strict=True))
    ratio = statistics.median(first / second for first, second in turns)
    title = f"training step of {config.name}, {threads} threads, GLIBC_TUNABLES as in docs/scale.md"
    return [Row(name, title, ("unset", plain), ("set", ours), "s", ratio, "times as fast", repeats)]
