"""How long the shipped weights take to load and to answer, in single precision and in bfloat16."""

from __future__ import annotations

import statistics
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

import mvg
from benchmarks.measurements import Row, Work, take_turns
from mvg import Predictor, ScalePredictor
from mvg.hub import shipped
from mvg.prediction.precision import Precision

EXAMPLES = 4
SIDES: tuple[Precision, Precision] = ("32", "bf16")


def images(size: tuple[int, ...]) -> tuple[list[NDArray[np.float32]], list[NDArray[np.uint8]]]:
    """Makes smooth noise, one image more than there are examples, and label maps of its bright parts."""
    rng = np.random.default_rng(0)
    made = [gaussian_filter(rng.normal(size=size), 3).astype(np.float32) for _ in range(EXAMPLES + 1)]
    return made, [(image > image.mean() + image.std()).astype(np.uint8) for image in made]


def measure_loading(repeats: int, *, name: str) -> list[Row]:
    """Times `mvg.load` of both kinds of weights."""
    works: dict[str, Work] = {kind: partial(mvg.load, shipped(kind)) for kind in ("2d", "3d")}
    seconds, _ = take_turns(works, repeats)
    flat, deep = (statistics.median(seconds[kind]) for kind in works)
    title = "mvg.load of the shipped weights, after imports"
    return [Row(name, title, ("2D", flat), ("3D", deep), "s", deep / flat, "times as long", repeats)]


def measure_image(repeats: int, *, name: str, side: int = 256) -> list[Row]:
    """Times the answer to an image in both precisions, its examples being remembered."""
    return _measure(repeats, name, Predictor, (side, side), f"shipped 2D weights, an image of {side}^2")


def measure_volume(repeats: int, *, name: str, side: int = 128) -> list[Row]:
    """Times the answer to a volume in both precisions."""
    return _measure(repeats, name, ScalePredictor, (side, side, side), f"shipped 3D weights, a volume of {side}^3")


def _measure(
    repeats: int, name: str, kind: type[Predictor | ScalePredictor], size: tuple[int, ...], what: str
) -> list[Row]:
    shown, targets = images(size)
    works: dict[str, Work] = {}
    for precision in SIDES:
        predictor = kind.from_pretrained(task="segmentation", precision=precision)
        predictor.set_context(shown[:EXAMPLES], targets[:EXAMPLES])
        works[precision] = partial(predictor, shown[EXAMPLES])
    seconds, _ = take_turns(works, repeats)
    exact, fast = (statistics.median(seconds[precision]) for precision in SIDES)
    ratio = statistics.median(a / b for a, b in zip(*(seconds[precision] for precision in SIDES), strict=True))
    title, turns = f"{what} after {EXAMPLES} examples, one structure", len(seconds[SIDES[0]])
    return [Row(name, title, ("32 bits", exact), ("bf16", fast), "s", ratio, "times as fast", turns)]
