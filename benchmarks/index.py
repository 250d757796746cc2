"""How fast a large data set opens, how much memory its index takes, and what it costs to draw from it.

    python -m benchmarks.index [--cases 28000] [--slices 90] [--classes 24] [--folder DIR]

A manifest, empty files and the facts of their slices are simulated as preparation would leave them; the rest is what
`mvg fit` does: `ManifestSource` reads the manifest, looks at every file and opens the index, and `EpisodeDataset` plans
episodes of segmentation with near context. The same is done for a hundredth of the cases, so that the cost of a draw
can be compared. Every data set is opened in a process of its own; memory is what it grows by.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mvg.data import EpisodeDataset, ManifestSource
from mvg.data.facts import Facts, join
from mvg.data.manifest import COLUMNS
from mvg.data.store import part_name, write_index
from tasks import Segmentation

SHARE = 0.01
"""Size of the small data set that draws are compared with."""
WARM, DRAWS = 300, 1000


def simulate(folder: Path, cases: int, slices: int, classes: int) -> Path:
    """Writes a manifest, its files (empty), and what preparation would have found in them.

    Args:
        folder: Where; made anew.
        cases: Number of volumes, a hundredth of them for validation, each of a patient of its own.
        slices: Slices of each.
        classes: Number of classes; a volume shows a third of them, each in half of its slices.

    Returns:
        The manifest.
    """
    folder.mkdir(parents=True)
    lines, rng = [",".join(COLUMNS)], np.random.default_rng(0)
    for number in range(cases):
        for role in ("image", "labels"):
            (folder / f"{role}-{number}.nii.gz").touch()
            split = "val" if number % 100 == 0 else "train"
            lines.append(f"c{number},p{number},{split},{role},{role}-{number}.nii.gz,CT,{number:064x}")
    manifest = folder / "manifest.csv"
    manifest.write_text("\n".join(lines) + "\n")
    source = open_source(manifest)
    source.folder.mkdir(parents=True)
    records, parts = {}, []
    for case, files in source.files().items():
        shown = sorted((rng.choice(classes, classes // 3, replace=False) + 1).tolist())
        records[case] = _record(source, case, source.mark(case, files), slices, shown)
        starts = rng.integers(0, slices // 2, len(shown)).tolist()
        pixels = {str(k): _run(slices, start) for k, start in zip(shown, starts, strict=True)}
        parts.append((slices, Facts.of({"image": [0.5] * slices}, {"labels": pixels})))
    write_index(source.folder, records, join(parts))
    open_source(manifest).records()
    return manifest


def open_source(manifest: Path) -> ManifestSource:
    """Opens a simulated data set as a configuration would."""
    return ManifestSource(str(manifest), cache=str(manifest.parent / "cache"), slices="axial")


def _record(source: ManifestSource, case: str, mark: str, slices: int, shown: list[int]) -> dict[str, Any]:
    names = {role: f"{part_name(case, mark)}-{role}.npy" for role in ("image", "labels")}
    for name in names.values():
        (source.folder / name).touch()
    facts = {"shape": [256, 256], "spacing": [1.0, 1.0], "ranges": {"image": [-160.0, 240.0]}}
    return {"stamp": mark, "files": names, "count": slices, "classes": {"labels": shown}, **facts}


def _run(slices: int, start: int) -> list[int]:
    """Pixels of a class that shows in half of the slices, from `start` on."""
    return [900 if start <= number < start + slices // 2 else 0 for number in range(slices)]


def measure(manifest: Path) -> dict[str, float]:
    """Opens a data set and plans episodes; run in a fresh process.

    Returns:
        Number of slices, seconds to open it, MiB that this took at its peak, and median and largest microseconds of a
        draw.
    """
    before, start = resident("VmRSS"), time.perf_counter()
    source = open_source(manifest)
    episodes = EpisodeDataset(
        {"source": source}, {"task": Segmentation()}, "train", 1 << 40, (64, 64), context_size=4, near=0.05
    )
    episodes.plan(0, np.random.default_rng(0))
    opened = time.perf_counter() - start
    seconds = []
    for index in range(WARM + DRAWS):
        rng, begin = np.random.default_rng(index), time.perf_counter()
        episodes.plan(index, rng)
        seconds.append(time.perf_counter() - begin)
    return {
        "slices": len(source.items("train")) + len(source.items("val")),
        "seconds": opened,
        "mib": resident("VmHWM") - before,
        "draw": 1e6 * statistics.median(seconds[WARM:]),
        "slowest": 1e6 * max(seconds[WARM:]),
    }


def resident(field: str) -> float:
    """Returns memory of this process in MiB, "VmRSS" for now and "VmHWM" for its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def table(rows: Sequence[dict[str, float]]) -> str:
    """Returns the results as a Markdown table."""
    lines = ["| slices | opens in | memory | a draw, median | a draw, slowest |", "|---:|---:|---:|---:|---:|"]
    lines += [
        f"| {row['slices']:,.0f} | {row['seconds']:.2f} s | {row['mib']:.0f} MiB | {row['draw']:.0f} us "
        f"| {row['slowest']:.0f} us |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line; `args` stands in for `sys.argv` in tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=28_000, help="volumes of the large data set")
    parser.add_argument("--slices", type=int, default=90, help="slices of a volume")
    parser.add_argument("--classes", type=int, default=24, help="classes of the data set")
    parser.add_argument("--folder", type=Path, help="where the simulated data sets stay; by default they are deleted")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    if options.measure is not None:
        sys.stdout.write(json.dumps(measure(options.measure)) + "\n")
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder, rows = options.folder or Path(temporary), []
        for cases in (max(100, round(SHARE * options.cases)), options.cases):
            place = folder / f"{cases}x{options.slices}x{options.classes}"
            if not place.exists():
                simulate(place, cases, options.slices, options.classes)
            words = [sys.executable, "-m", "benchmarks.index", "--measure", str(place / "manifest.csv")]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout))
    sys.stdout.write(table(rows))


if __name__ == "__main__":
    main()
