"""Looks at an installation and says in plain words what is wrong with it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distributions, entry_points, requires, version
from pathlib import Path

from packaging.requirements import Requirement

DISTRIBUTION = "mvg-generalist"
KNOWN_BAD = {
    "lightning": {"2.6.2": "it was malware", "2.6.3": "it was malware"},
    "pytorch-lightning": {"2.6.2": "it was malware", "2.6.3": "it was malware"},
}
ROOMS = ("tasks", "benchmarks")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        text: What was found.
        remedy: What to do about it; empty where all is well or nothing needs to be done.
        broken: Whether it keeps `mvg` from working as it should.
    """

    text: str
    remedy: str = ""
    broken: bool = False


def main() -> None:
    """Checks versions, packages, commands, devices and data; status 1 if something is broken."""
    findings = list(examine())
    for finding in findings:
        mark = "BROKEN" if finding.broken else "note  " if finding.remedy else "ok    "
        sys.stdout.write(f"{mark} {finding.text}{f'; {finding.remedy}' if finding.remedy else ''}\n")
    broken = sum(finding.broken for finding in findings)
    sys.stdout.write(f"{broken or 'no'} problem{'' if broken == 1 else 's'} found\n")
    if broken:
        sys.exit(1)


def examine() -> Iterator[Finding]:
    """Yields all findings, the cheapest first."""
    yield Finding(f"Python {platform.python_version()} on {platform.system()} {platform.machine()}")
    yield from check_versions()
    yield from check_rooms()
    yield from check_commands()
    yield from check_torch()
    yield check_data(os.environ.get("MVG_DATA"))


def check_versions() -> Iterator[Finding]:
    """Compares installed versions with the bounds of the distribution, and with releases known to be bad."""
    try:
        wanted = [Requirement(line) for line in requires(DISTRIBUTION) or []]
    except PackageNotFoundError:
        yield Finding(f"{DISTRIBUTION} is not installed", "run `pip install -e .` in its folder", broken=True)
        wanted = []
    for requirement in wanted:
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield check_version(requirement)
    for name, releases in KNOWN_BAD.items():
        for found in {each.version for each in distributions(name=name)} & set(releases):
            yield Finding(
                f"{name} {found} is installed: {releases[found]}",
                f"make a new environment, and change every password this one could read: pip install '{name}>=2.6.6'",
                broken=True,
            )


def check_version(requirement: Requirement) -> Finding:
    """Compares one installed version with its bounds."""
    name, bounds = requirement.name, str(requirement.specifier)
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(f"{name} is missing", f"run `pip install '{name}{bounds}'`", broken=True)
    if not requirement.specifier.contains(found, prereleases=True):
        return Finding(f"{name} {found} is not {bounds}", f"run `pip install '{name}{bounds}'`", broken=True)
    return Finding(f"{name} {found}")


def check_rooms() -> Iterator[Finding]:
    """Checks that `tasks` and `benchmarks` are ours and not packages of the same name."""
    home = Path(__file__).resolve().parents[1]
    for name in ROOMS:
        spec = importlib.util.find_spec(name)
        where = Path(spec.origin).resolve().parents[1] if spec and spec.origin else None
        if where == home:
            yield Finding(f"`{name}` lies beside `mvg`")
        elif where is None:
            yield Finding(f"`{name}` cannot be found", f"reinstall {DISTRIBUTION}", broken=True)
        else:
            yield Finding(
                f"`{name}` is another package, in {where}",
                f"remove that one, or run `python -m mvg` in {home}",
                broken=True,
            )


def check_commands() -> Iterator[Finding]:
    """Says which sub-commands exist and whose `mvg` and `lightning` are on the PATH."""
    names = sorted(entry.name for entry in entry_points(group="mvg.commands"))
    yield Finding(f"commands: fit, validate, test{''.join(f', {name}' for name in names)}")
    for name in ("mvg", "lightning"):
        path = shutil.which(name)
        if path is None:
            yield Finding(f"no `{name}` on the PATH", f"activate the environment, or run `{sys.executable} -m mvg`")
        elif is_ours(Path(path)):
            yield Finding(f"`{name}` on the PATH is ours: {path}")
        else:
            yield Finding(f"`{name}` on the PATH is another program: {path}", f"use `{sys.executable} -m mvg` instead")


def is_ours(script: Path) -> bool:
    """Says whether a console script calls `mvg.cli`."""
    return b"mvg.cli" in script.read_bytes()[-65536:]


def check_torch() -> Iterator[Finding]:
    """Checks that torch and torchvision fit together, and says what there is to compute on."""
    try:
        import torch
        import torchvision  # noqa: F401 - fails where it was built for another torch
    except (ImportError, RuntimeError, OSError) as error:
        remedy = "install both anew, in one command and from one index: pip install --force-reinstall torch torchvision"
        yield Finding(f"torch or torchvision cannot be imported ({error})", remedy, broken=True)
        return
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(number)
            half = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16: use 16-mixed"
            yield Finding(f"cuda:{number} {device.name}, {device.total_memory / 2**30:.0f} GiB, {half}")
    elif torch.backends.mps.is_available():
        yield Finding("Apple GPU (mps); not part of the tests")
    elif torch.version.cuda and shutil.which("nvidia-smi"):
        yield Finding(f"a driver is there but torch (for CUDA {torch.version.cuda}) sees no GPU", "update the driver")
    else:
        yield Finding("no GPU; the CPU is used")
    threads, cores = (
        torch.get_num_threads(),
        len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
    )
    remedy = f"set OMP_NUM_THREADS={cores}" if cores and threads > cores else ""
    native = ", which multiply bfloat16 natively (--precision bf16)" if multiplies_bf16() else ""
    yield Finding(f"{threads} threads on {cores} cores{native}", remedy)


def multiplies_bf16(facts: Path = Path("/proc/cpuinfo")) -> bool:
    """Says whether the processor multiplies bfloat16 natively, as far as Linux tells."""
    try:
        flags = facts.read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def check_data(folder: str | None) -> Finding:
    """Checks the folder that `MVG_DATA` names; it is needed only for real data."""
    if not folder:
        return Finding("MVG_DATA is not set", "set it to the folder of your data sets (synthetic data needs none)")
    if not Path(folder).is_dir():
        return Finding(f"MVG_DATA names {folder}, which is no folder", "correct it", broken=True)
    return Finding(f"MVG_DATA names a folder with {sum(path.is_dir() for path in Path(folder).iterdir())} data sets")
