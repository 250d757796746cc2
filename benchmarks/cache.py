"""Formats for prepared volumes: how fast slices and patches are read, beside their size, writing time and memory.

    python -m benchmarks.cache [--reads 40] [--kinds nii.gz map ...]

Compared are `.nii.gz` as it comes, plain arrays read in parts as `mvg.data.cache` does or mapped into memory, zarr 3
and blosc2 (b2nd) in chunks of 64 x 64 x 64; the latter two are measured where their packages are installed. Each format
is written and read in a process of its own; volumes are phantoms of 256 x 256 x 128 voxels with noise, int16.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.index import resident
from mvg.data.cache import read_part, write_array

SHAPE = (256, 256, 128)
"""Extents along x, y and z; slices are axial."""
PATCH = 64
VOLUMES = 3

Array = NDArray[Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Format:
    """A way to keep volumes.

    Attributes:
        title: What it is.
        needs: Package that must be installed.
        write: Writes a volume `(z, y, x)` to a path.
        slice: Reads slice z of a path, `(y, x)`.
        patch: Reads a patch at the corner (z, y, x) of a path.
    """

    title: str
    needs: str
    write: Callable[[Path, Array], object]
    slice: Callable[[Path, int], Array]
    patch: Callable[[Path, Sequence[int]], Array]


def box(corner: Sequence[int]) -> tuple[slice, ...]:
    """Returns the slices of a patch."""
    return tuple(slice(start, start + PATCH) for start in corner)


def _write_nifti(path: Path, values: Array) -> None:
    import nibabel

    nibabel.Nifti1Image(values.transpose(2, 1, 0), np.eye(4)).to_filename(path)  # type: ignore[no-untyped-call]


def _nifti(path: Path) -> Any:
    import nibabel

    return nibabel.Nifti1Image.from_filename(path).dataobj


def _write_zarr(path: Path, values: Array) -> None:
    import zarr

    zarr.create_array(str(path), data=values, chunks=(PATCH,) * 3)


def _zarr(path: Path) -> Any:
    import zarr

    return zarr.open_array(str(path), mode="r")


def _write_blosc(path: Path, values: Array) -> None:
    import blosc2

    blosc2.asarray(np.ascontiguousarray(values), urlpath=str(path), chunks=(PATCH,) * 3, mode="w")


def _blosc(path: Path) -> Any:
    import blosc2

    return blosc2.open(str(path), mode="r")


def _map(path: Path) -> Array:
    mapped: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped


def _shape(values: Sequence[T]) -> tuple[T, ...]:
    return tuple(reversed(values))


FORMATS = {
    "nii.gz": Format(
        ".nii.gz, nibabel", "nibabel", _write_nifti,
        lambda path, z: np.asarray(_nifti(path)[:, :, z]).T,
        lambda path, corner: np.asarray(_nifti(path)[_shape(box(corner))]).transpose(2, 1, 0),
    ),
    "parts": Format(
        "array, read in parts (the cache)", "numpy", lambda path, values: write_array(path, values.view(np.uint16)),
        lambda path, z: read_part(path, z, _shape(SHAPE)).view(np.int16),
        lambda path, corner: np.stack(
            [read_part(path, z, _shape(SHAPE))[box(corner)[1:]] for z in range(corner[0], corner[0] + PATCH)]
        ).view(np.int16),
    ),
    "map": Format(
        "array, mapped", "numpy", lambda path, values: write_array(path, values.view(np.uint16)),
        lambda path, z: np.array(_map(path)[z]).view(np.int16),
        lambda path, corner: np.array(_map(path)[box(corner)]).view(np.int16),
    ),
    "zarr": Format(
        "zarr 3", "zarr", _write_zarr,
        lambda path, z: np.asarray(_zarr(path)[z]), lambda path, corner: np.asarray(_zarr(path)[box(corner)]),
    ),
    "blosc2": Format(
        "blosc2 (b2nd)", "blosc2", _write_blosc,
        lambda path, z: np.asarray(_blosc(path)[z]), lambda path, corner: np.asarray(_blosc(path)[box(corner)]),
    ),
}  # fmt: skip
"""Name to format; the first is what the others are compared with."""


def phantom(seed: int, shape: Sequence[int] = SHAPE) -> Array:
    """Makes a volume `(z, y, x)`, int16: ellipsoids of some tissues in air, with noise."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in _shape(shape)), indexing="ij", sparse=True)
    values = np.full(_shape(shape), -1000, dtype=np.float32)
    for size, tissue in ((0.85, -80), (0.78, 40), (0.4, 120), (0.25, -700), (0.12, 700)):
        centre = rng.uniform(-0.9, 0.9, 3) * (0.8 - size if size < 0.7 else 0)
        inside = sum(((axis - c) / size) ** 2 for axis, c in zip(axes, centre, strict=True)) < 1
        values[inside] = tissue
    values += rng.normal(0, 12, values.shape).astype(np.float32)
    return values.astype(np.int16)


def measure(kind: str, folder: Path, reads: int, shape: Sequence[int] = SHAPE) -> dict[str, float]:
    """Writes and reads volumes in one format.

    Args:
        kind: One of `FORMATS`.
        folder: Where.
        reads: Number of slices, and of patches.
        shape: Extents of the volumes.

    Returns:
        Size in MiB and seconds to write of a volume, milliseconds of a slice and of a patch (medians), and the MiB that
        reading needs.
    """
    format_, rng, written = FORMATS[kind], np.random.default_rng(0), []
    volumes = [phantom(seed, shape) for seed in range(VOLUMES)]
    paths = [folder / f"{kind}-{number}{'.nii.gz' if kind == 'nii.gz' else ''}" for number in range(VOLUMES)]
    for path, values in zip(paths, volumes, strict=True):
        start = time.perf_counter()
        format_.write(path, values)
        written.append(time.perf_counter() - start)
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    slices: list[float] = []
    patches: list[float] = []
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # lets the peak start anew
    for _ in range(reads):
        number = int(rng.integers(VOLUMES))
        corner = [int(rng.integers(n - PATCH + 1)) for n in _shape(shape)]
        z, start = int(rng.integers(shape[2])), time.perf_counter()
        plane = format_.slice(paths[number], z)
        middle = time.perf_counter()
        patch = format_.patch(paths[number], corner)
        slices.append(middle - start)
        patches.append(time.perf_counter() - middle)
        if not (np.array_equal(plane, volumes[number][z]) and np.array_equal(patch, volumes[number][box(corner)])):
            raise RuntimeError(f"{kind} does not return what was written")
    return {
        "size": sum(file.stat().st_size for file in files) / VOLUMES / 2**20,
        "write": statistics.median(written),
        "slice": 1e3 * statistics.median(slices),
        "patch": 1e3 * statistics.median(patches),
        "memory": max(0.0, resident("VmHWM") - before),
    }


def table(rows: dict[str, dict[str, float]]) -> str:
    """Returns the results as a Markdown table, with ratios to the first format."""
    lines = [
        "| format | size | write | slice | times as fast | 64^3 patch | times as fast | memory |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    base = next(iter(rows.values()))
    for kind, row in rows.items():
        ratios = [base[name] / row[name] for name in ("slice", "patch")]
        lines.append(
            f"| {FORMATS[kind].title} | {row['size']:.1f} MiB | {row['write']:.2f} s | {row['slice']:.2f} ms "
            f"| {ratios[0]:.0f} | {row['patch']:.2f} ms | {ratios[1]:.0f} | {row['memory']:.0f} MiB |"
        )
    return "\n".join(lines) + "\n"


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line; `args` stands in for `sys.argv` in tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reads", type=int, default=40, help="slices and patches that are read")
    parser.add_argument("--kinds", nargs="*", choices=FORMATS, default=list(FORMATS), help="formats")
    parser.add_argument("--measure", choices=FORMATS, help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    with tempfile.TemporaryDirectory() as folder:
        if options.measure is not None:
            sys.stdout.write(json.dumps(measure(options.measure, Path(folder), options.reads)) + "\n")
            return
    rows = {}
    for kind in options.kinds:
        if find_spec(FORMATS[kind].needs) is None:
            sys.stdout.write(f"{kind} was not measured: the package {FORMATS[kind].needs} is not installed.\n")
            continue
        words = [sys.executable, "-m", "benchmarks.cache", "--measure", kind, "--reads", str(options.reads)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        rows[kind] = json.loads(done.stdout)
    sys.stdout.write(table(rows))


if __name__ == "__main__":
    main()
