"""Speed and memory of the parts that decide them, each against its goal.

    python -m benchmarks.speed [NAMES...] [--threads 2] [--repeats 5] [--reference DIR] [--side 64] [--width 8]

Without names, every measurement is taken that takes less than three minutes on two CPU cores; those of large volumes
(shipped-volume, volume-pairs-128, volume-pairs-256, volume-classes) are to be named. All are worth something on a
quiet machine only. Two sides take turns wherever that is possible, so that whatever else runs slows both; a ratio is
the median over them.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.allocator import measure_allocator
from benchmarks.data_path import measure_synthetic, measure_waiting
from benchmarks.measurements import Goal, NotMeasuredError, Row, measure_attention, measure_remember
from benchmarks.ranks import measure_processes
from benchmarks.shipped_speed import measure_image, measure_loading, measure_volume
from benchmarks.volume_cost import measure_classes, measure_pairs, measure_window

CONFIGS = Path(__file__).parents[1] / "configs"
MEASUREMENTS: Mapping[str, Callable[..., list[Row]]] = {
    name: partial(measure, name=name, **options)
    for name, measure, options in (
        ("relative-384", measure_attention, {"width": 384, "heads": 6}),
        ("relative-large", measure_attention, {"width": 1024, "heads": 16}),
        ("remember", measure_remember, {"pairs": 4, "goal": Goal(3)}),
        ("remember-8", measure_remember, {"pairs": 8, "goal": Goal(3)}),
        ("data-path", measure_waiting, {"config": CONFIGS / "quickstart.yaml", "goal": Goal(5, least=False)}),
        (
            "data-path-folders",
            measure_waiting,
            {"config": CONFIGS / "real_2d.yaml", "needs": "MVG_DATA", "goal": Goal(5, least=False)},
        ),
        ("synthetic", measure_synthetic, {"config": CONFIGS / "quickstart.yaml", "goal": Goal(4)}),
        ("allocator", measure_allocator, {"config": CONFIGS / "quickstart.yaml"}),
        ("processes", measure_processes, {"config": CONFIGS / "quickstart.yaml"}),
        ("shipped-loading", measure_loading, {}),
        ("shipped-image", measure_image, {}),
        ("shipped-volume", measure_volume, {}),
        ("volume-window", measure_window, {}),
        ("volume-pairs", measure_pairs, {}),
        ("volume-pairs-128", measure_pairs, {"side": 128}),
        ("volume-pairs-256", measure_pairs, {"side": 256}),
        ("volume-classes", measure_classes, {}),
    )
}
VOLUMES = ("volume-window", "volume-pairs")
"""Measurements that take --reference, --side and --width."""
LONG = ("shipped-volume", "volume-pairs-128", "volume-pairs-256", "volume-classes")
"""Measurements that take minutes, and are run where they are named."""
HEADER = """\
| measurement | goal | compared with | measured | ratio | turns | passed | largest difference |
|---|---|---|---|---|---|---|---|"""


def line(row: Row) -> str:
    """Returns a row as a line of the Markdown table."""
    sides = [f"{label} {value:,.4g} {row.unit}" for label, value in (row.base, row.ours)]
    passed = "" if row.passed is None else "yes" if row.passed else "no"
    difference = "" if row.difference is None else f"{row.difference:.1e}"
    ratio = f"{row.ratio:.2f} {row.meaning}"
    goal = "" if row.goal is None else str(row.goal)
    return f"| {' | '.join([f'{row.name}: {row.title}', goal, *sides, ratio, str(row.turns), passed, difference])} |"


def facts() -> str:
    """Says in a line what the figures depend on: processor, threads and versions, but not whose machine it is."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{cores} CPU cores ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()}), "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{platform.system()}; load before the start {os.getloadavg()[0]:.1f}"
    )


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command line; `args` stands in for `sys.argv` in tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(MEASUREMENTS)}")
    parser.add_argument("--threads", type=int, default=2, help="threads of PyTorch")
    parser.add_argument("--repeats", type=int, default=5, help="most turns of each side")
    parser.add_argument("--reference", help="checkout of the public Neuroverse3D, for volume-window")
    parser.add_argument("--side", type=int, default=64, help="side of the windows of volume measurements")
    parser.add_argument("--width", type=int, default=8, help="channels of their networks' first stage")
    options = parser.parse_args(args)
    names = options.names or [name for name in MEASUREMENTS if name not in LONG]
    if unknown := [name for name in names if name not in MEASUREMENTS]:
        parser.error(f"unknown measurement {unknown[0]!r}; valid names are {', '.join(MEASUREMENTS)}")
    if options.threads < 1 or options.repeats < 1:
        parser.error(f"--threads and --repeats must be at least 1, got {options.threads} and {options.repeats}")
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    torch.set_num_threads(options.threads)
    sys.stdout.write(f"{facts()}\n\n{HEADER}\n")
    skipped = []
    volumes = {"reference": options.reference, "side": options.side, "width": options.width}
    for name in names:
        try:
            rows = MEASUREMENTS[name](options.repeats, **(volumes if name in VOLUMES else {}))
        except NotMeasuredError as reason:
            skipped.append(f"\n{name} was not measured: {reason}.\n")
            continue
        sys.stdout.write("".join(f"{line(row)}\n" for row in rows))
        sys.stdout.flush()
    sys.stdout.write("".join(skipped))


if __name__ == "__main__":
    main()
