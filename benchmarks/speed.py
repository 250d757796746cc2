"""Speed and memory of the parts that decide them, always as a ratio to a plain implementation in the same run.

    python -m benchmarks.speed [NAMES...] [--threads 2] [--repeats 5]

The two sides take turns, so that whatever else runs on the machine slows both. How many times as fast ours is, is the
median over the turns; memory is that of ours relative to plain. Peak memory is read in a fresh process for each side,
less what imports and weights take.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mvg.models.attention import relative_attention
from mvg.models.position import relative_offsets, relative_tables

Work = Callable[[], Tensor]
Attend = Callable[[Tensor, Tensor, Tensor, Sequence[Tensor], Sequence[int]], Tensor]


@dataclass(frozen=True)
class Measurement:
    """Two ways to the same result.

    Attributes:
        title: What is measured, for the table.
        prepare: Builds weights and inputs for a side, "plain" or "ours", and returns the work that is timed. Both
            sides must return the same numbers.
        repeats: The most turns that fit into three minutes on two cores; None for as many as are asked for.
    """

    title: str
    prepare: Callable[[str], Work]
    repeats: int | None = None


def plain_attention(q: Tensor, k: Tensor, v: Tensor, tables: Sequence[Tensor], grid: Sequence[int]) -> Tensor:
    """Relative attention as it is written down: all scores at once, as the public MVG and Painter code keeps them.

    Args:
        q: `(B, heads, H * W, head_dim)`.
        k: Like `q`.
        v: Like `q`.
        tables: `(2 * H - 1, head_dim)` and `(2 * W - 1, head_dim)`.
        grid: `(H, W)`.

    Returns:
        `(B, heads, H * W, head_dim)`.
    """
    batch, heads, tokens, width = q.shape
    rows, columns = (table[relative_offsets(size)] for table, size in zip(tables, grid, strict=True))
    lines = q.reshape(batch, heads, *grid, width)
    scores = ((q * width**-0.5) @ k.mT).view(batch, heads, *grid, *grid)
    scores = scores + torch.einsum("bnhwd,hkd->bnhwk", lines, rows)[..., :, None]
    scores = scores + torch.einsum("bnhwd,wkd->bnhwk", lines, columns)[..., None, :]
    out: Tensor = scores.view(batch, heads, tokens, tokens).softmax(dim=-1) @ v
    return out


class Block(nn.Module):
    """A pre-norm transformer block with decomposed relative positions.

    Args:
        width: Channels.
        heads: Attention heads.
        grid: Tokens along each axis.
        attend: The attention of this side.
    """

    def __init__(self, width: int, heads: int, grid: Sequence[int], attend: Attend) -> None:
        super().__init__()
        self.heads, self.grid, self.attend = heads, grid, attend
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.tables = relative_tables(grid, width // heads)
        for table in self.tables:
            nn.init.normal_(table, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens `(B, tokens, width)` to the same shape."""
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.proj(self.attend(q, k, v, list(self.tables), self.grid).transpose(1, 2).flatten(2))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def relative_network(side: str, width: int, heads: int) -> Work:
    """Prepares a training step (forward and backward) of 24 blocks on an 896 x 448 canvas of 16-pixel patches.

    Args:
        side: "plain" or "ours".
        width: Channels.
        heads: Attention heads.

    Returns:
        The step; it returns the output tokens `(1, 1568, width)`.
    """
    torch.manual_seed(0)
    grid = (56, 28)
    attend = relative_attention if side == "ours" else plain_attention
    network = nn.Sequential(*(Block(width, heads, grid, attend) for _ in range(24)))
    tokens = torch.randn(1, grid[0] * grid[1], width)

    def step() -> Tensor:
        network.zero_grad(set_to_none=True)
        out: Tensor = network(tokens)
        torch.autograd.backward(out.square().mean())
        return out.detach()

    return step


MEASUREMENTS: Mapping[str, Measurement] = {
    "relative-384": Measurement(
        "24 blocks, width 384, 6 heads, 896 x 448, training step", partial(relative_network, width=384, heads=6)
    ),
    "relative-large": Measurement(
        "24 blocks, width 1024, 16 heads, 896 x 448, training step",
        partial(relative_network, width=1024, heads=16),
        repeats=2,
    ),
}
SIDES = ("plain", "ours")


def peak_memory() -> float:
    """Returns the most memory that this process has held, in MiB.

    Raises:
        ValueError: If the system does not tell (it must be Linux).
    """
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) / 1024
    raise ValueError("/proc/self/status holds no line VmHWM; measure peak memory on Linux")


def memory_of(name: str, side: str, threads: int) -> float:
    """Measures one side in a fresh process.

    Args:
        name: A key of `MEASUREMENTS`.
        side: "plain" or "ours".
        threads: Threads of the process.

    Returns:
        Peak memory of one run of the work, MiB, less what was held before it.
    """
    command = [sys.executable, "-m", "benchmarks.speed", name, "--threads", str(threads), "--memory-of", side]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def times_of(work: Mapping[str, Work], repeats: int) -> dict[str, list[float]]:
    """Runs the sides in turn.

    Args:
        work: The work of each side.
        repeats: Turns.

    Returns:
        Seconds of each turn, for each side.
    """
    seconds: dict[str, list[float]] = {side: [] for side in work}
    for _ in range(repeats):
        for side, run in work.items():
            start = time.perf_counter()
            run()
            seconds[side].append(time.perf_counter() - start)
    return seconds


def measure(name: str, threads: int, repeats: int) -> dict[str, Any]:
    """Takes one measurement.

    Args:
        name: A key of `MEASUREMENTS`.
        threads: Threads of PyTorch.
        repeats: Timed turns, at least 1.

    Returns:
        Seconds and MiB of both sides, their ratios, and the largest difference between their results.
    """
    measurement = MEASUREMENTS[name]
    memory = {side: memory_of(name, side, threads) for side in SIDES}
    work = {side: measurement.prepare(side) for side in SIDES}
    difference = (work["plain"]() - work["ours"]()).abs().max().item()  # which warms both up
    seconds = times_of(work, min(repeats, measurement.repeats or repeats))
    turns = [plain / ours for plain, ours in zip(seconds["plain"], seconds["ours"], strict=True)]
    return {
        "name": name,
        "title": measurement.title,
        "seconds": {side: statistics.median(values) for side, values in seconds.items()},
        "memory": memory,
        "speedup": statistics.median(turns),
        "memory_ratio": memory["ours"] / memory["plain"],
        "difference": difference,
    }


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Returns measurements as a Markdown table."""
    lines = [
        "| measurement | plain, s | ours, s | times as fast | plain, MiB | ours, MiB | memory | largest difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for record in records:
        seconds, memory = record["seconds"], record["memory"]
        lines.append(
            f"| {record['name']}: {record['title']} | {seconds['plain']:.2f} | {seconds['ours']:.2f} "
            f"| {record['speedup']:.2f} | {memory['plain']:.0f} | {memory['ours']:.0f} "
            f"| {record['memory_ratio']:.2f} | {record['difference']:.1e} |"
        )
    return "\n".join(lines)


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line; `args` stands in for `sys.argv` in tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(MEASUREMENTS)}; all by default")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
    parser.add_argument("--repeats", type=int, default=5, help="timed turns of each side")
    parser.add_argument("--memory-of", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    names = options.names or list(MEASUREMENTS)
    if unknown := [name for name in names if name not in MEASUREMENTS]:
        parser.error(f"unknown measurement {unknown[0]!r}; valid names are {', '.join(MEASUREMENTS)}")
    if options.threads < 1 or options.repeats < 1:
        parser.error(f"--threads and --repeats must be at least 1, got {options.threads} and {options.repeats}")
    torch.set_num_threads(options.threads)
    if options.memory_of:
        work = MEASUREMENTS[names[0]].prepare(options.memory_of)
        before = peak_memory()
        work()
        sys.stdout.write(json.dumps(peak_memory() - before))
    else:
        records = [measure(name, options.threads, options.repeats) for name in names]
        sys.stdout.write(table(records) + "\n")


if __name__ == "__main__":
    main()
