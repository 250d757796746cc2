"""What a training step costs, so that arms can be given equal compute on a machine that is not quiet.

A clock gives an arm fewer steps when other work runs beside it. Here the arms take turns with one arm, step by step on
one batch, so that whatever else runs slows both: the ratio of their times holds, and the least time of the one is near
that of a quiet machine. Minutes then become numbers of steps, and how busy the machine is no longer matters.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.optim import AdamW

from benchmarks.measurements import take_turns
from mvg.data.module import EpisodeDataModule
from mvg.files import write_whole
from mvg.models.base import InContextModel

Stepper = Callable[[], None]


def training_step(network: InContextModel, data: EpisodeDataModule, autocast: bool, batches: int = 1) -> Stepper:
    """Returns whole training steps of a network on the first batches of its data; weights do not change.

    Args:
        network: The network.
        data: The data.
        autocast: Run in bfloat16 where PyTorch deems it safe.
        batches: Number of batches; each call takes a step on every one of them.
    """
    data.workers = 0
    data.setup("fit")
    drawn = list(islice(data.train_dataloader(), batches))
    optimizer = AdamW(network.train().parameters(), lr=0.0, weight_decay=0.0)

    def step() -> None:
        for batch in drawn:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = network.loss(batch)["loss"]
            loss.backward()
            optimizer.step()

    return step


class Costs:
    """Costs of training steps, kept in a file: measured once for each name.

    Attributes:
        seconds: Seconds of a step of the reference.
        ratios: Name to seconds of its step, in steps of the reference.

    Args:
        path: The file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        known: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"seconds": 0.0, "ratios": {}}
        self.seconds: float = known["seconds"]
        self.ratios: dict[str, float] = known["ratios"]

    def measure(self, reference: Stepper, steppers: Mapping[str, Callable[[], Stepper]], turns: int = 6) -> None:
        """Measures what is not known yet.

        Args:
            reference: A step of the reference.
            steppers: Name to a function that prepares its step.
            turns: Turns of each with the reference.
        """
        least = []
        for name, prepare in steppers.items():
            if name in self.ratios:
                continue
            step = prepare()
            for warm in (reference, step):
                warm()
            seconds, _ = take_turns({"reference": reference, "arm": step}, turns)
            pairs = zip(seconds["arm"], seconds["reference"], strict=True)
            self.ratios[name] = statistics.median(arm / base for arm, base in pairs)
            least.append(min(seconds["reference"]))
        self.seconds = self.seconds or min(least, default=0.0)
        text = json.dumps({"seconds": self.seconds, "ratios": self.ratios}, indent=2) + "\n"
        write_whole({self.path: text.encode()})

    def steps(self, name: str, minutes: float) -> int:
        """Returns how many steps fit into minutes of a quiet machine, at least 1."""
        return max(1, round(60 * minutes / (self.seconds * self.ratios[name])))
