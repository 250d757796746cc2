# nibabel carries no types.
# mypy: disable-error-code="no-untyped-call"
"""Peak memory of `mvg predict` against what `--dry-run` says before, for pictures, slices and windows.

    python -m benchmarks.prediction_memory [NAMES...] [--threads 1]

Each measurement writes random files and a network with random weights, then starts two processes of the command: one
says its estimate, the other answers and tells its peak. The estimate should never be below the peak, and at most 40 %
above.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel
import numpy as np
import torch
from PIL import Image

from mvg import weights
from mvg.models import CanvasViT, ConvStem, Medverse, UNetDecoder
from mvg.models.base import InContextModel
from mvg.task import Task
from tasks import Denoising, Segmentation

CHILD = """
import sys, torch
from pathlib import Path
torch.set_num_threads(int(sys.argv[1]))
from mvg.cli import main
main(["predict", *sys.argv[2:]])
status = Path("/proc/self/status").read_text().splitlines()
print("PEAK", next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""
MOST = 1.4


@dataclass(frozen=True)
class Shape:
    """What is measured.

    Attributes:
        network: Makes the network.
        size: Size of examples and query.
        examples: Number of examples.
        classes: Number of classes.
        queries: Number of queries.
        task: What is asked; without labels, targets are images.
    """

    network: Callable[[], InContextModel]
    size: tuple[int, ...]
    examples: int = 2
    classes: int = 1
    queries: int = 1
    task: Callable[[], Task] = Segmentation


def canvas(side: int, width: int = 192, depth: int = 6, dims: int = 2) -> InContextModel:
    """Makes a network like `mvg_small`."""
    stem = ConvStem(widths=[16, 32, 64])
    return CanvasViT([side] * dims, width=width, depth=depth, heads=width // 64, stem=stem, decoder=UNetDecoder())


def windows(side: int, width: int) -> InContextModel:
    """Makes a Medverse, one example at a time."""
    return Medverse([side] * 3, widths=[width * 2**stage for stage in range(5)], mini_context=1)


SHAPES: Mapping[str, Shape] = {
    "picture": Shape(partial(canvas, 64), (256, 256)),
    "picture, 8 examples, 4 classes": Shape(partial(canvas, 96), (512, 512), 8, 4),
    "16 pictures of 128": Shape(partial(canvas, 128), (256, 256), 4, 2, 16),
    "wide network": Shape(partial(canvas, 128, 768, 12), (256, 256), 4),
    "slices": Shape(partial(canvas, 96), (128, 128, 96), 2, 3),
    "slices of a large volume": Shape(partial(canvas, 64), (256, 256, 160), 1, 1),
    "restored picture": Shape(partial(canvas, 96), (1024, 1024), 4, task=Denoising),
    "16 restored pictures": Shape(partial(canvas, 96), (128, 128), 4, 1, 16, Denoising),
    "restored slices": Shape(partial(canvas, 96), (160, 160, 64), 2, task=Denoising),
    "windows": Shape(partial(windows, 64, 8), (96, 96, 80), 2, 2),
    "windows of a canvas": Shape(partial(canvas, 32, 128, 4, 3), (64, 64, 48), 2, 1),
    "windows of a large volume": Shape(partial(windows, 64, 4), (192, 192, 128), 1, 1),
}


def write_files(shape: Shape, folder: Path) -> None:
    """Writes weights, examples and queries."""
    torch.manual_seed(0)
    weights.save(folder / "weights", shape.network(), {"asked": shape.task()})
    rng = np.random.default_rng(0)
    for number in range(shape.examples + shape.queries):
        values = rng.integers(0, 255, shape.size, dtype=np.uint8)
        bands = np.arange(shape.size[0]) * (shape.classes + 1) // shape.size[0]
        labels = np.broadcast_to(bands.reshape(-1, *(1,) * (len(shape.size) - 1)), shape.size).astype(np.uint8)
        if number >= shape.examples:
            _write(folder / "queries" / str(number), values)
            continue
        _write(folder / "context" / "images" / str(number), values)
        _write(folder / "context" / "targets" / str(number), labels if shape.task().is_label else values)


def _write(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if values.ndim == 2:
        Image.fromarray(values).save(path.with_suffix(".png"))
    else:
        nibabel.Nifti1Image(values, np.eye(4)).to_filename(f"{path}.nii.gz")


def measure(shape: Shape, threads: int) -> tuple[float, float]:
    """Returns what is estimated and the peak, in GiB."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        write_files(shape, folder)
        words = ["--weights", str(folder / "weights"), "--context", str(folder / "context")]
        words += ["--input", str(folder / "queries"), "--output", str(folder / "answers")]
        said, done = (_run([*words, *more], threads) for more in (["--dry-run"], []))
    estimate, peak = re.search(r"memory: about ([\d.]+) GiB", said), re.search(r"PEAK (\d+)", done)
    assert estimate is not None
    assert peak is not None
    if "--verbose" in sys.argv:
        sys.stderr.write(next(line for line in said.splitlines() if line.startswith("memory")) + "\n")
    return float(estimate[1]), int(peak[1]) / (1 << 20)


def _run(words: Sequence[str], threads: int) -> str:
    """Runs the command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(threads), *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"`mvg predict` failed: {done.stderr[-500:]}")
    return done.stdout


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line; `args` stands in for `sys.argv` in tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(SHAPES)}; all by default")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--verbose", action="store_true", help="also say what the estimate consists of")
    options = parser.parse_args(args)
    if unknown := [name for name in options.names if name not in SHAPES]:
        parser.error(f"unknown measurement {unknown[0]!r}; valid names are {', '.join(SHAPES)}")
    sys.stdout.write("| what | estimate | peak | estimate / peak | within |\n|---|---:|---:|---:|---|\n")
    for name in options.names or SHAPES:
        estimate, peak = measure(SHAPES[name], options.threads)
        fits = "yes" if 1 <= estimate / peak <= MOST else "no"
        sys.stdout.write(f"| {name} | {estimate:.2f} GiB | {peak:.2f} GiB | {estimate / peak:.2f} | {fits} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
