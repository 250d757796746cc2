"""Trains while things go wrong, and compares what is left with a run in which nothing did.

A run is killed, told to end, robbed of a worker, of disk space or of a file at random moments, and continued each time.
Each stop must be one that was asked for or say what is wrong; the last state must be that of the clean run to the bit.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from omegaconf import OmegaConf

log = logging.getLogger(__name__)

CASES = 12
SMALL = 1 << 14
"""Bytes that a file may have where the disk is full."""
WAIT = 60.0
"""Seconds in which a run must have ended after a fault."""
START = 180.0
"""Seconds in which a run must have started."""
FAULTS = {"kill -9": -9, "SIGTERM": 143, "SIGUSR1": 138, "worker killed": 2, "disk full": 2, "files damaged": 2}
"""Fault to the status that a run must end with."""


@dataclass(frozen=True)
class Event:
    """One fault and what became of the run.

    Attributes:
        fault: What went wrong.
        step: The last step that was saved.
        status: How the run ended; 0 if it was done before the fault.
        said: The last line that it wrote.
    """

    fault: str
    step: int
    status: int
    said: str

    @property
    def clear(self) -> bool:
        """Whether the run ended as it should."""
        return self.status in (0, FAULTS[self.fault])


def write_scans(folder: Path) -> None:
    """Writes small scans with one class each."""
    rng = np.random.default_rng(0)
    for role in ("images", "labels"):
        (folder / role).mkdir(parents=True)
    for number in range(CASES):
        mask = np.zeros((16, 16, 4), np.float32)
        mask[4 : 6 + number % 6, 5:12] = 1
        for role, values in (("images", rng.normal(100, 20, mask.shape) + 80 * mask), ("labels", mask)):
            image = nibabel.Nifti1Image(values.astype(np.float32), np.eye(4))  # type: ignore[no-untyped-call]
            nibabel.save(image, folder / role / f"case{number:02}.nii.gz")


def configuration(steps: int) -> dict[str, Any]:
    """Returns the configuration of the runs."""
    scans = {"root": "scans", "class_names": {"labels": {1: "organ"}}, "cache": "cache"}
    network = {"image_size": [16, 16], "width": 32, "depth": 2, "heads": 2, "drop_path": 0.2}
    return {
        "trainer": {
            "max_steps": steps, "max_epochs": -1, "accelerator": "cpu", "enable_progress_bar": False,
            "enable_model_summary": False, "num_sanity_val_steps": 0, "gradient_clip_val": 1.0,
        },
        "model": {"network": {"class_path": "mvg.models.CanvasViT", "init_args": network}},
        "data": {
            "sources": {"scans": {"class_path": "mvg.data.FolderSource", "init_args": scans}},
            "tasks": {name: {"class_path": f"tasks.{name.title()}"} for name in ("segmentation", "denoising")},
            "batch_size": 4, "context_size": [1, 2], "epoch_length": 160, "val_length": 8, "workers": 2,
            "quarantine": 0.0, "remembered": 2,
        },
        "last": {"steps": 5},
    }  # fmt: skip


def start(folder: Path, name: str, full: bool = False) -> subprocess.Popen[str]:
    """Starts or continues a run.

    Args:
        folder: Where the runs are.
        name: Name of the run.
        full: Let no file grow beyond `SMALL`.
    """

    def limit() -> None:
        if full:
            resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, SMALL))

    words = ["fit", "--config", "soak.yaml", "--name", name, "--resume"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    said = (folder / f"{name}.log").open("w")
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "mvg", *words],
        cwd=folder, env=environment, stdout=said, stderr=said, text=True, preexec_fn=limit,
    )  # fmt: skip


def state(folder: Path, name: str) -> dict[str, Any]:
    """Reads the last checkpoint of a run; empty if there is none."""
    path = folder / "runs" / name / "checkpoints" / "last.ckpt"
    return dict(torch.load(path, weights_only=True)) if path.exists() else {}


def hurt(fault: str, run: subprocess.Popen[str], folder: Path, rng: random.Random) -> dict[Path, bytes]:
    """Makes something go wrong; returns the files that were damaged, with what they held."""
    if fault in ("SIGTERM", "SIGUSR1", "kill -9"):
        run.send_signal({"SIGTERM": signal.SIGTERM, "SIGUSR1": signal.SIGUSR1, "kill -9": signal.SIGKILL}[fault])
    elif fault == "worker killed":
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        if children:
            os.kill(int(rng.choice(children)), signal.SIGKILL)
    elif fault == "files damaged":
        kept = {path: path.read_bytes() for path in (folder / "cache").rglob("*.npy")}
        for path, content in kept.items():
            os.truncate(path, len(content) // 2)
        return kept
    return {}


def await_step(run: subprocess.Popen[str], folder: Path) -> None:
    """Waits until a run has saved a step or ended."""
    path, begun = folder / "runs/hurt/checkpoints/last.ckpt", time.time()
    while run.poll() is None and time.time() - begun < START:
        if path.exists() and path.stat().st_mtime > begun:
            return
        time.sleep(0.05)


def suffer(folder: Path, fault: str, rng: random.Random) -> Event:
    """Continues the run `hurt` until a fault ends it, and mends what was damaged.

    A process is killed at any moment, also while it starts; other faults wait for a step.
    """
    run = start(folder, "hurt", full=fault == "disk full")
    if fault == "kill -9" and rng.random() < 0.5:
        time.sleep(20 * rng.random())
    else:
        await_step(run, folder)
        time.sleep(5 * rng.random())
    damaged = hurt(fault, run, folder, rng) if run.poll() is None else {}
    try:
        status = run.wait(WAIT)
    except subprocess.TimeoutExpired:
        run.kill()
        run.wait()
        status = -1  # it hung
    for path, content in damaged.items():
        path.write_bytes(content)
    lines = (folder / "hurt.log").read_text().splitlines() or [""]
    return Event(fault, int(state(folder, "hurt").get("global_step", 0)), status, lines[-1][:160])


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Compares weights and optimizers of two checkpoints, bit by bit."""
    tensors = [_tensors((kept["state_dict"], kept["optimizer_states"])) for kept in (one, other)]
    return len(tensors[0]) == len(tensors[1]) and all(map(torch.equal, *tensors))


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for entry in inner for tensor in _tensors(entry)]


def soak(folder: Path, minutes: float, steps: int, seed: int) -> tuple[list[Event], bool]:
    """Runs the clean run and the other.

    Returns:
        What happened, and whether both ended in the same state.
    """
    rng = random.Random(seed)
    write_scans(folder / "scans")
    OmegaConf.save(OmegaConf.create(configuration(steps)), folder / "soak.yaml")
    begun = time.monotonic()
    if start(folder, "clean").wait() != 0:
        raise RuntimeError(f"the clean run failed: {(folder / 'clean.log').read_text()[-2000:]}")
    took = time.monotonic() - begun
    log.info("the clean run took %.0f s for %d steps", took, steps)
    events: list[Event] = []
    while time.monotonic() - begun < 60 * minutes and (not events or events[-1].status):
        fault = list(FAULTS)[len(events)] if len(events) < len(FAULTS) else rng.choice(list(FAULTS))
        events.append(suffer(folder, fault, rng))
        log.info("%-14s step %5d  status %4d  %s", fault, events[-1].step, events[-1].status, events[-1].said)
    start(folder, "hurt").wait()
    return events, same(state(folder, "clean"), state(folder, "hurt"))


def main() -> None:
    """Prints what went wrong, how each run ended, and whether the last state is that of the clean run."""
    parser = argparse.ArgumentParser("python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="How long things go wrong, the clean run included.")
    parser.add_argument("--steps", type=int, default=2000, help="Steps of the runs.")
    parser.add_argument("--folder", type=Path, required=True, help="An empty folder for everything.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the faults.")
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    options.folder.mkdir(parents=True, exist_ok=True)
    events, equal = soak(options.folder.resolve(), options.minutes, options.steps, options.seed)
    unclear = [event for event in events if not event.clear]
    counts = ", ".join(f"{fault} {count}" for fault, count in Counter(event.fault for event in events).items())
    log.info("faults: %s; stops that were not clear: %d", counts, len(unclear))
    log.info("the same state as the clean run: %s", "yes" if equal else "NO")
    if unclear or not equal:
        sys.exit(1)


if __name__ == "__main__":
    main()
