"""Cost of volumes: against the public Neuroverse3D with the same weights, and by the number of examples and classes."""

from __future__ import annotations

import importlib
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.measurements import BUDGET, SIDES, Goal, NotMeasuredError, Row, Work, memory_of, speed_row
from mvg.models import Medverse
from mvg.models.medverse import ContextPair, VolumeMemory
from mvg.models.medverse_import import from_neuroverse3d
from mvg.next_scale import NextScale
from mvg.prediction.scale_predictor import ScalePredictor
from tasks import Segmentation

STAGES = 5
GAIN = 1.5
"""Factor on random weights of the comparison, so that answers vary by more than rounding."""


def drawn_volume(seed: int, side: int) -> Tensor:
    """Draws a volume `(1, 1, side, side, side)` in [0, 1), the same each time."""
    return torch.rand((1, 1, *[side] * 3), generator=torch.Generator().manual_seed(seed))


class StoredPairs:
    """Context pairs that are read from disk when they are asked for, the same each time.

    Args:
        folder: Where the images lie, as `store_volumes` wrote them.
        number: How many.
    """

    def __init__(self, folder: str, number: int) -> None:
        self.folder, self.number = Path(folder), number

    def __iter__(self) -> Iterator[ContextPair]:
        """Reads one pair after another, images and targets `(1, 1, side, side, side)`."""
        for number in range(self.number):
            image = torch.from_numpy(np.load(self.folder / f"{number}.npy", allow_pickle=False)).float()
            yield image, (image > 0.5).float()


def store_volumes(folder: str, number: int, side: int) -> None:
    """Draws volumes and writes them in half precision."""
    for seed in range(number):
        np.save(Path(folder, f"{seed}.npy"), drawn_volume(seed, side).half().numpy())


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
    images = torch.stack([drawn_volume(seed, side) for seed in range(pairs)], 1)
    image, targets = images[:, 0].flip(2), (images > 0.5).float()
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


def small_medverse(side: int, width: int) -> Medverse:
    """Builds a Medverse with random weights for windows of `side`."""
    if side % 64:
        raise NotMeasuredError(f"skipped, as Medverse takes windows of multiples of 64, not of {side}")
    torch.manual_seed(0)
    return Medverse([side] * 3, widths=[width * 2**stage for stage in range(STAGES)], mini_context=1).eval()


def stream_work(folder: str, pairs: int, width: int, side: int) -> Work:
    """Prepares answering a window by a Medverse after a stream of pairs; arguments as in `measure_pairs`."""
    network, memory = small_medverse(side, width), VolumeMemory(StoredPairs(folder, pairs))
    return torch.inference_mode()(partial(network.answer, drawn_volume(-1, side), memory))


def measure_pairs(
    repeats: int, *, name: str, reference: str | None = None, width: int = 8, side: int = 64, pairs: int = 16
) -> list[Row]:
    """Compares the peak memory of one answer after many examples with that after two, and this with that after one.

    Examples are read from disk. From the second one on, the running mean of all maps lies beside the next maps.

    Args:
        repeats: The most fresh processes of each side, of which three at most are run, and one for sides above 64; the
            least of their peaks counts, as peaks of equal work differ by a tenth.
        name: Name of the row.
        reference: Not used.
        width: Channels of the first stage.
        side: Side of the window, a multiple of 64.
        pairs: Number of examples.
    """
    small_medverse(side, 1)
    turns = min(repeats, 3 if side <= 64 else 1)
    with tempfile.TemporaryDirectory() as folder:
        store_volumes(folder, pairs, side)
        peaks = [[memory_of(partial(stream_work, folder, n, width, side)) for n in (1, 2, pairs)] for _ in range(turns)]
    title = f"Medverse, window of {side}^3, width {width}, fp32, examples on disk"
    names = "1 pair", "2 pairs", f"{pairs} pairs"
    return [
        memory_row(name, title, [each[1:] for each in peaks], names[1:], Goal(1.1, least=False)),
        memory_row(f"{name} mean", title, [each[:2] for each in peaks], names[:2]),
    ]


def classes_work(classes: int, width: int, side: int, window: int) -> Work:
    """Prepares answering a volume for all classes of an example; arguments as in `measure_classes`."""
    predictor = ScalePredictor(small_medverse(window, width), Segmentation(), plan=NextScale(overlap=0.0))
    image = drawn_volume(0, side)[0, 0]
    planes = 1 + torch.arange(side) * classes // side
    predictor.set_context([image], [planes.view(-1, 1, 1).expand_as(image).clone()])
    return partial(predictor, drawn_volume(1, side)[0, 0])


def measure_classes(
    repeats: int, *, name: str, width: int = 8, side: int = 128, window: int = 64, classes: int = 20
) -> list[Row]:
    """Compares the peak memory of the answer to a volume after an example of many classes with that of one class.

    Args:
        repeats: Not used: one fresh process of each side is run.
        name: Name of the row.
        width: Channels of the first stage.
        side: Side of the volume.
        window: Side of the windows, a multiple of 64.
        classes: Number of classes.
    """
    peaks = [[memory_of(partial(classes_work, n, width, side, window)) for n in (1, classes)]]
    title = f"Medverse, volume of {side}^3, windows of {window}^3, width {width}, fp32"
    return [memory_row(name, title, peaks, ("1 class", f"{classes} classes"), Goal(1.1, least=False))]


def memory_row(name: str, title: str, peaks: list[list[float]], sides: Sequence[str], goal: Goal | None = None) -> Row:
    """Makes a row of the least peaks of two sides."""
    few, many = (min(each) for each in zip(*peaks, strict=True))
    ratio = many / few if few else math.inf
    return Row(name, title, (sides[0], few), (sides[1], many), "MiB", ratio, "of the memory", len(peaks), goal)
