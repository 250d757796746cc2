"""Cost of a window of volumes: against the public Neuroverse3D with the same weights, and by the number of examples."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measurements import BUDGET, SIDES, Goal, NotMeasuredError, Row, Work, memory_of, speed_row
from mvg.models import Medverse
from mvg.models.medverse import ContextPair, VolumeMemory
from mvg.models.medverse_import import from_neuroverse3d

STAGES = 5
GAIN = 1.5
"""Factor on random weights of the comparison, so that answers vary by more than rounding."""


class DrawnPairs:
    """Context pairs that are drawn when they are asked for, the same each time.

    Args:
        number: How many.
        side: Side of the volumes.
    """

    def __init__(self, number: int, side: int) -> None:
        self.number, self.side = number, side

    def __iter__(self) -> Iterator[ContextPair]:
        """Draws one pair after another, images and targets `(1, 1, side, side, side)`."""
        for seed in range(self.number):
            image = torch.rand((1, 1, *[self.side] * 3), generator=torch.Generator().manual_seed(seed))
            yield image, (image > 0.5).float()


def public_network(reference: str | None, widths: list[int]) -> torch.nn.Module:
    """Builds the public Neuroverse3D with random weights.

    Args:
        reference: A checkout of its code.
        widths: Channels of each stage.

    Raises:
        NotMeasuredError: If there is no such checkout, or it cannot be imported.
    """
    if reference is None or not Path(reference, "neuroverse3D").is_dir():
        raise NotMeasuredError(
            "skipped, as it needs --reference DIR, a checkout of https://github.com/jiesihu/Neuroverse3D"
        )
    sys.path.insert(0, reference)
    try:
        module = importlib.import_module("neuroverse3D.models.neuroverse3D")
    except ImportError as error:
        raise NotMeasuredError(f"skipped, as the public code cannot be imported ({error})") from error
    finally:
        sys.path.remove(reference)
    torch.manual_seed(0)
    network: torch.nn.Module = module.Neuroverse3D(1, 1, len(widths), 3, widths, 2).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(GAIN)
    return network


def window_work(kind: str, reference: str | None, width: int, side: int, pairs: int) -> Work:
    """Prepares answering one window after a context, read one pair at a time.

    Args:
        kind: "plain" for the public code, "ours" for ours with the same weights.
        reference: A checkout of the public code.
        width: Channels of the first stage.
        side: Side of the window.
        pairs: Context pairs.

    Returns:
        The work; it returns the answer `(1, 1, side, side, side)`.
    """
    public = public_network(reference, [width * 2**stage for stage in range(STAGES)])
    context = list(DrawnPairs(pairs, side))
    image, images, targets = context[0][0].flip(2), *(torch.stack(part, 1) for part in zip(*context, strict=True))
    answer: Callable[..., Tensor] = partial(public, l=1)
    if kind == "ours":
        config, state = from_neuroverse3d(public.state_dict())
        network = Medverse(**config["init_args"], mini_context=1).eval()
        network.load_state_dict(state)
        answer = network
    return torch.inference_mode()(partial(answer, image, images, targets))


def measure_window(
    repeats: int, *, name: str, reference: str | None = None, width: int = 8, side: int = 64, pairs: int = 3
) -> list[Row]:
    """Compares a window's time, memory and answer with those of the public Neuroverse3D.

    Args:
        repeats: The most turns.
        name: Name of the row.
        reference: A checkout of the public code.
        width: Channels of the first stage; the released networks have 32.
        side: Side of the window; the released networks take 128.
        pairs: Context pairs.
    """
    prepare = {kind: partial(window_work, kind, reference, width, side, pairs) for kind in SIDES}
    work = {kind: make() for kind, make in prepare.items()}
    for warm_up in work.values():
        warm_up()
    memory = {kind: memory_of(make) for kind, make in prepare.items()}
    title = f"Neuroverse3D, window of {side}^3, {pairs} pairs one at a time, width {width}, fp32"
    sides = ("plain", memory["plain"]), ("ours", memory["ours"])
    share = memory["ours"] / memory["plain"]
    return [
        speed_row(name, title, work, repeats, BUDGET / 2, Goal(1)),
        Row(f"{name} memory", title, *sides, "MiB", share, "of the memory", 1, Goal(1, least=False)),
    ]


def stream_work(pairs: int, width: int, side: int) -> Work:
    """Prepares answering a window by a Medverse after a stream of pairs; arguments as in `measure_pairs`."""
    torch.manual_seed(0)
    network = Medverse([side] * 3, widths=[width * 2**stage for stage in range(STAGES)], mini_context=1).eval()
    memory, image = VolumeMemory(DrawnPairs(pairs, side)), torch.rand(1, 1, *[side] * 3)
    return torch.inference_mode()(partial(network.answer, image, memory))


def measure_pairs(
    repeats: int, *, name: str, reference: str | None = None, width: int = 8, side: int = 64, pairs: int = 16
) -> list[Row]:
    """Compares the peak memory of one answer after many examples with that after one.

    Args:
        repeats: The most fresh processes of each side, of which three at most are run; the least of their peaks counts,
            as peaks of equal work differ by a tenth.
        name: Name of the row.
        reference: Not used.
        width: Channels of the first stage.
        side: Side of the window, a multiple of 64.
        pairs: Number of examples.
    """
    if side % 64:
        raise NotMeasuredError(f"skipped, as Medverse takes windows of multiples of 64, not of {side}")
    turns = min(repeats, 3)
    peaks = [[memory_of(partial(stream_work, n, width, side)) for n in (1, pairs)] for _ in range(turns)]
    few, many = (min(each) for each in zip(*peaks, strict=True))
    ratio = many / few if few else math.inf
    title = f"Medverse, window of {side}^3, width {width}, fp32"
    sides = ("1 pair", few), (f"{pairs} pairs", many)
    return [Row(name, title, *sides, "MiB", ratio, "of the memory", turns, Goal(1.1, least=False))]
