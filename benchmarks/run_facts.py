"""`run.json`: what a folder of records is of, and how much of its suite was asked."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mvg
from benchmarks import leaks
from benchmarks.entrant import Entrant
from benchmarks.protocol import VERSION
from benchmarks.suite import Suite
from mvg.files import write_whole

RUN = "run.json"


def describe(output: Path, suite: Suite, entrant: Entrant) -> None:
    """Writes `run.json`, or checks that it speaks of the same suite and entrant.

    Raises:
        ValueError: If it does not.
    """
    facts = {
        "suite": suite.name,
        "suite_hash": suite.hash,
        "protocol": VERSION,
        "entrant": entrant.name,
        "entrant_hash": entrant.digest,
        "trained_on": list(leaks.trained_on(entrant, list(suite.sets.values()))),
    }
    path = output / RUN
    if path.is_file():
        before = read_facts(path)
        if other := [name for name, value in facts.items() if before.get(name) != value]:
            raise ValueError(
                f"{path}: the folder holds another run ({other[0]} is {before.get(other[0])!r} there, "
                f"{facts[other[0]]!r} here); name another output"
            )
        return
    output.mkdir(parents=True, exist_ok=True)
    environment = {
        "mvg": mvg.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "system": platform.system(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
    }
    questions = {"seed": suite.seed, "tasks": suite.content["tasks"]}
    _write(path, {**facts, "environment": environment, "questions": questions, "asked": []})


def note_pass(
    output: Path,
    datasets: Sequence[str] | None,
    shots: Sequence[int] | None,
    draws: int | None,
    cases: int | None,
    share: str,
) -> None:
    """Adds to `run.json` what was asked; null stands for all.

    Args:
        output: Folder of the records.
        datasets: Data sets.
        shots: Numbers of examples.
        draws: Number of draws.
        cases: Number of cases of each question.
        share: Which of the processes that share the work it was, such as "0 of 1".
    """
    path = output / RUN
    facts = read_facts(path)
    extent = {"datasets": datasets, "shots": shots, "draws": draws, "cases": cases}
    made = {**{name: list(v) if isinstance(v, Sequence) else v for name, v in extent.items()}, "process": share}
    if made not in facts.setdefault("asked", []):
        facts["asked"].append(made)
        _write(path, facts)


def is_quick(output: Path) -> bool:
    """Tells whether less than a whole suite was asked, as far as `run.json` says; False where there is none."""
    path = output / RUN
    asked = read_facts(path).get("asked", []) if path.is_file() else []
    return bool(asked) and not any(all(v is None for name, v in one.items() if name != "process") for one in asked)


def read_facts(path: Path) -> dict[str, Any]:
    """Reads a `run.json`.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        facts: Any = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: it is damaged ({error}); delete it, and repeat the command that wrote it") from error
    asked = facts.get("asked", []) if isinstance(facts, dict) else None
    if not isinstance(asked, list) or not all(isinstance(one, dict) for one in asked) or not facts.get("entrant"):
        raise ValueError(f"{path}: it does not say which entrant was asked what; delete it, and repeat the command")
    return dict(facts)


def _write(path: Path, facts: dict[str, Any]) -> None:
    write_whole({path: f"{json.dumps(facts, indent=2)}\n".encode()})
