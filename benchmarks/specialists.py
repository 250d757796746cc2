"""U-Nets, one for each task of each data set, as an entrant: what specialists reach that see no examples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save

from benchmarks.entrant import Entrant, Shown, digest, first_of
from benchmarks.evaluation import Protocol
from benchmarks.scratch import read_slices
from benchmarks.suite import Question
from benchmarks.unet import Specialist, Specialty, specialties, train_unet
from mvg.data import EpisodeDataModule
from mvg.data.geometry import from_slices, resize
from mvg.files import write_whole
from mvg.weights import unshared
from tasks import Segmentation, Synthesis

INDEX = "specialists.json"


class UNetSpecialists(Entrant):
    """U-Nets that `train` left in a folder. They are asked once, whatever the examples, and only what one has learned.

    Args:
        folder: The folder.
        name: Its name in tables.
        batch_size: Slices that are answered together.
    """

    needs_context = False

    def __init__(self, folder: Path, name: str = "u-nets", batch_size: int = 64) -> None:
        if not (folder / INDEX).is_file():
            raise ValueError(f"{folder}: there are no U-Nets; `python -m benchmarks.contest --only u-nets` trains them")
        self.folder, self.name, self.batch_size = folder, name, batch_size
        self.facts: dict[str, Any] = json.loads((folder / INDEX).read_text("utf-8"))
        self.digest = digest("u-nets", *(path.read_bytes() for path in sorted(folder.glob("*.safetensors"))))
        self.trained_on = {entry["source"]: {} for entry in self.facts["learned"]}
        self.network: Specialist | None = None
        self.question: Question | None = None

    @staticmethod
    def train(folder: Path, data: EpisodeDataModule, minutes: float, workers: int = 1) -> None:
        """Trains those that are not there, each for an equal share of the minutes.

        Args:
            folder: Where they are kept.
            data: Sources, tasks and sizes.
            minutes: Minutes of all of them together.
            workers: Processes that prepare slices.
        """
        if (folder / INDEX).is_file():
            return
        wanted = specialties(data, Protocol())
        for number, specialty in enumerate(wanted):
            path = folder / f"{number}.safetensors"
            if not path.is_file():
                made = train_unet(data, specialty, minutes / len(wanted), workers=workers)
                folder.mkdir(parents=True, exist_ok=True)
                # MONAI holds each layer under two names, and a file no memory twice: the second is a copy
                write_whole({path: save(unshared(made.state_dict()))})
        learned = [{"source": each.source, "kind": kind_of(each.task), "classes": each.classes} for each in wanted]
        text = json.dumps({"image_size": list(data.image_size), "minutes": minutes, "learned": learned}, indent=2)
        write_whole({folder / INDEX: f"{text}\n".encode()})

    def answers_to(self, question: Question) -> bool:
        """Tells whether one of them has learned it."""
        return super().answers_to(question) and self._number(question) is not None

    def _number(self, question: Question) -> int | None:
        wanted = {"source": question.dataset, "kind": kind_of(question.asked)}
        learned = self.facts["learned"]
        return next((n for n, entry in enumerate(learned) if wanted.items() <= entry.items()), None)

    def ask(self, question: Question, dims: int, shot: int, draw: int) -> None:
        """Takes the U-Net that has learned it."""
        number = self._number(question)
        assert number is not None
        facts = self.facts["learned"][number]
        specialty = Specialty(question.dataset, question.name, question.asked, facts["classes"])
        self.question, self.network = question, Specialist(specialty).eval()
        self.network.load_state_dict(load_file(self.folder / f"{number}.safetensors"))

    def set_context(self, images: Sequence[Shown], targets: Sequence[Path]) -> None:
        """Looks at no examples."""

    def __call__(self, image: Shown) -> NDArray[Any]:
        """Answers one image, slice by slice."""
        assert self.network is not None
        assert self.question is not None
        slices, axis = read_slices(first_of(image), self.question.slices)
        small, found = resize(slices, self.facts["image_size"])[:, None], list[torch.Tensor]()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            for part in small.split(self.batch_size):
                painted = self.network(part).float()
                whole = resize(painted.flatten(0, 1), slices.shape[1:]).view(*painted.shape[:2], *slices.shape[1:])
                shown = torch.eq(whole.argmax(1), self.question.label or 0)
                found.append(shown if self.network.classes else whole[:, 0].clamp(0, 1))
        values = torch.cat(found)
        answer = (values[0] if axis is None else from_slices(values, axis)).numpy()
        return answer.astype(np.uint8 if self.network.classes else np.float32)


def kind_of(task: Any) -> str:
    """Names what a U-Net learns: the task with its role, or with the direction of synthesis."""
    name = type(task).__name__
    if isinstance(task, Segmentation):
        return f"{name} {task.labels} {' '.join(task.roles)}"
    if isinstance(task, Synthesis):
        return f"{name} {' '.join(task.sources or [])} to {' '.join(task.targets or [])}"
    return name
