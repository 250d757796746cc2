"""Speed and memory of networks, always as a ratio to a plain implementation in the same run.

Two sides take turns wherever that is possible, so that whatever else runs on the machine slows both; the ratio is the
median over the turns. Peak memory is read in a fresh process for each side, less what imports and weights take.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mvg.models import CanvasViT, PatchStem
from mvg.models.attention import relative_attention
from mvg.models.base import InContextModel
from mvg.models.position import relative_offsets, relative_tables

Work = Callable[[], Any]
Attend = Callable[[Tensor, Tensor, Tensor, Sequence[Tensor], Sequence[int]], Tensor]

SIDES = ("plain", "ours")
EQUAL = 1e-3
"""Largest difference between the results of two sides that rounding may make."""
BUDGET = 150.0
"""Seconds that the turns of a measurement may take, so that all of it takes less than three minutes."""


class NotMeasuredError(Exception):
    """Says in a sentence why a measurement cannot be taken here."""


@dataclass(frozen=True)
class Goal:
    """What a ratio must reach.

    Attributes:
        bound: The limit, in the unit of the ratio.
        least: Whether the ratio must be at least the limit; else it must be below.
    """

    bound: float
    least: bool = True

    def met(self, ratio: float) -> bool:
        """Whether a ratio reaches it."""
        return ratio >= self.bound if self.least else ratio < self.bound

    def __str__(self) -> str:
        return f"{'at least' if self.least else 'below'} {self.bound:g}"


@dataclass(frozen=True)
class Row:
    """A line of the table: two sides and how they compare.

    Attributes:
        name: What was measured, as the command line calls it.
        title: The same in words.
        base: Name and value of what is compared with.
        ours: Name and value of what is measured.
        unit: Unit of both values.
        ratio: How they compare.
        meaning: What the ratio says, such as "times as fast".
        turns: How often each side was run, or steps were timed.
        goal: What the ratio must reach; None where it is reported only.
        difference: Largest difference between the results of both sides; None where these are not comparable.
    """

    name: str
    title: str
    base: tuple[str, float]
    ours: tuple[str, float]
    unit: str
    ratio: float
    meaning: str
    turns: int
    goal: Goal | None = None
    difference: float | None = None

    @property
    def passed(self) -> bool | None:
        """Whether the goal is reached by equal results; None where there is no goal and nothing is wrong."""
        if self.difference is not None and not self.difference <= EQUAL:
            return False
        return None if self.goal is None else self.goal.met(self.ratio)


# ---------------------------------------------------------------------- tools


def take_turns(
    work: Mapping[str, Work], repeats: int, budget: float = BUDGET
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Runs the sides in turn.

    Args:
        work: The work of each side.
        repeats: The most turns, at least 1.
        budget: Seconds into which the turns must fit; the first is always taken.

    Returns:
        Seconds of each turn, and what the last turn returned, for each side.
    """
    seconds: dict[str, list[float]] = {side: [] for side in work}
    results: dict[str, Any] = {}
    for turn in range(repeats):
        if turn and sum(map(sum, seconds.values())) * (turn + 1) / turn > budget:
            break
        for side, run in work.items():
            start = time.perf_counter()
            results[side] = run()
            seconds[side].append(time.perf_counter() - start)
    return seconds, results


def speed_row(
    name: str,
    title: str,
    work: Mapping[str, Work],
    repeats: int,
    budget: float = BUDGET,
    goal: Goal | None = None,
) -> Row:
    """Times the sides "plain" and "ours", which are warm already and return tensors, and compares these."""
    seconds, results = take_turns(work, repeats, budget)
    difference = float((results["plain"] - results["ours"]).abs().max())
    turns = [plain / ours for plain, ours in zip(seconds["plain"], seconds["ours"], strict=True)]
    plain, ours = (statistics.median(seconds[side]) for side in SIDES)
    sides = ("plain", plain), ("ours", ours)
    return Row(name, title, *sides, "s", statistics.median(turns), "times as fast", len(turns), goal, difference)


def peak_memory() -> float:
    """Returns the most memory that this process has held, in MiB.

    Raises:
        NotMeasuredError: If the system does not tell (it must be Linux).
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return float(line.split()[1]) / 1024
    raise NotMeasuredError("peak memory is read from /proc/self/status, which only Linux has")


def added_memory(prepare: Callable[[], Work], threads: int) -> float:
    """Returns by how much the work raises the peak memory of this process, in MiB."""
    torch.set_num_threads(threads)
    work = prepare()
    before = peak_memory()
    work()
    return peak_memory() - before


def memory_of(prepare: Callable[[], Work]) -> float:
    """Returns the peak memory of some work in a fresh process, in MiB, less what was held when it was prepared."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(added_memory, prepare, torch.get_num_threads()).result()


# ---------------------------------------------------------------------- relative attention


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


class RelativeBlock(nn.Module):
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


def relative_network(side: str, width: int, heads: int, depth: int = 24, grid: Sequence[int] = (56, 28)) -> Work:
    """Prepares a training step (forward and backward) of a ViT with relative positions.

    Args:
        side: "plain" or "ours".
        width: Channels.
        heads: Attention heads.
        depth: Blocks.
        grid: Tokens along each axis; by default those of an 896 x 448 canvas in patches of 16.

    Returns:
        The step; it returns the output tokens `(1, tokens, width)`.
    """
    torch.manual_seed(0)
    attend = relative_attention if side == "ours" else plain_attention
    network = nn.Sequential(*(RelativeBlock(width, heads, grid, attend) for _ in range(depth)))
    tokens = torch.randn(1, grid[0] * grid[1], width)

    def step() -> Tensor:
        network.zero_grad(set_to_none=True)
        out: Tensor = network(tokens)
        torch.autograd.backward(out.square().mean())
        return out.detach()

    return step


def measure_attention(
    repeats: int, *, name: str, width: int, heads: int, depth: int = 24, grid: tuple[int, int] = (56, 28)
) -> list[Row]:
    """Compares attention in blocks of scores with attention that keeps all scores, in time and in memory.

    Args:
        repeats: The most turns.
        name: Name of the row.
        width: Channels.
        heads: Attention heads.
        depth: Blocks.
        grid: Tokens along each axis.
    """
    prepare = {side: partial(relative_network, side, width, heads, depth, grid) for side in SIDES}
    memory = {side: memory_of(prepare[side]) for side in SIDES}
    work = {side: prepare[side]() for side in SIDES}
    for warm_up in work.values():
        warm_up()
    pixels = " x ".join(str(16 * side) for side in grid)
    title = f"training step, {pixels}, patches of 16, {depth} blocks, width {width}, {heads} heads"
    sides = ("plain", memory["plain"]), ("ours", memory["ours"])
    ratio = memory["ours"] / memory["plain"]
    return [
        speed_row(name, title, work, repeats, BUDGET / 2),  # memory and warm-up took as long as two turns
        Row(f"{name} memory", title, *sides, "MiB", ratio, "of the memory", 1),
    ]


# ---------------------------------------------------------------------- remembered contexts


def remember_work(network: InContextModel, context: tuple[Tensor, Tensor], queries: Tensor) -> dict[str, Work]:
    """Prepares answering queries one after another.

    Args:
        network: The network, in evaluation mode.
        context: Images `(1, L, C_in, *S)` and targets `(1, L, C_out, *S)`.
        queries: `(Q, C_in, *S)`.

    Returns:
        Both sides, each returning `(Q, C_out, *S)`: "plain" reads the context again for every query, "ours" once.
    """

    @torch.inference_mode()
    def plain() -> Tensor:
        return torch.cat([network(query, *context) for query in queries.split(1)])

    @torch.inference_mode()
    def ours() -> Tensor:
        memory = network.remember(*context)
        return torch.cat([network.answer(query, memory) for query in queries.split(1)])

    return {"plain": plain, "ours": ours}


def measure_remember(
    repeats: int,
    *,
    name: str,
    pairs: int,
    queries: int = 100,
    size: int = 128,
    depth: int = 12,
    goal: Goal | None = None,
) -> list[Row]:
    """Compares one `remember` for many queries with reading the context again for each of them.

    Patches are small, so that the blocks decide: with patches of 16, the paper's head alone, which only the query
    passes, costs as much as twelve blocks of this width.

    Args:
        repeats: The most turns.
        name: Name of the row.
        pairs: Context pairs.
        queries: Queries, answered one after another.
        size: Side of the square images, pixels.
        depth: Blocks.
        goal: How many times as fast it should be.
    """
    torch.manual_seed(0)
    stem = PatchStem(8)
    network = CanvasViT((size, size), width=384, depth=depth, heads=6, stem=stem, attention="ordered").eval()
    context = torch.rand(1, pairs, 1, size, size), torch.rand(1, pairs, 1, size, size)
    asked = torch.rand(queries, 1, size, size)
    for warm_up in remember_work(network, context, asked[:2]).values():
        warm_up()
    title = f"{queries} queries in turn, {pairs} pairs, {size} x {size}, patches of 8, {depth} blocks, width 384, fp32"
    return [speed_row(name, title, remember_work(network, context, asked), repeats, goal=goal)]
