"""What can be asked of a source: its classes, kinds of noise and hole, and directions of synthesis, one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mvg.data.episodes import EpisodeDataset
from mvg.data.source import Index
from mvg.episode import Spec
from mvg.task import Task
from tasks import BiasCorrection, Denoising, Inpainting, Segmentation, SuperResolution, Synthesis
from tasks.labels import key, known_classes
from tasks.synthesis import image_roles

LEVEL = 0.75
"""Strength of a degradation that is asked for, as a share of the way from weakest to strongest, logarithmically."""


@dataclass(frozen=True)
class Question:
    """What is asked of the cases of a source.

    Attributes:
        source: Name of the source.
        task: Name of the task.
        variant: The class, the kind of noise or hole, or the direction.
        spec: What the task drew for it, the same for all cases.
    """

    source: str
    task: str
    variant: str
    spec: Spec

    @property
    def name(self) -> str:
        """Name that entrants are given."""
        return f"{self.source}/{self.task}/{self.variant}"


def questions(dataset: EpisodeDataset, source: str, task: str) -> list[Question]:
    """Lists what a task can ask of a source: its classes, kinds or directions."""
    index = Index([*dataset.sources[source].items("train"), *dataset.sources[source].items(dataset.split)])
    asked, rng = dataset.tasks[task], np.random.default_rng(0)
    names = dataset.sources[source].class_names.get(asked.labels, {}) if isinstance(asked, Segmentation) else {}
    return [
        Question(source, task, variant, only.draw(index, rng, training=False))
        for variant, only in variants(asked, index, names)
    ]


def variants(task: Task, index: Index, class_names: Mapping[int, str]) -> list[tuple[str, Task]]:
    """Splits a task into tasks that ask for one thing each, by name.

    Raises:
        ValueError: If the protocol does not know the task.
    """
    if isinstance(task, Segmentation):
        classes = [k for k in known_classes(index, task.labels) if task.classes is None or k in task.classes]
        shown = [k for k in classes if len(index.find((*task.roles, task.labels, key(task.labels, k))))]
        return [(class_names.get(k, f"class {k}"), narrow(task, classes=[k], negatives=0.0)) for k in shown]
    if isinstance(task, Denoising):
        return [(kind, narrow(task, kinds=[kind], **{kind: (strength(task.ranges[kind]),) * 2})) for kind in task.kinds]
    if isinstance(task, BiasCorrection):
        cells = (round(strength(task.ranges["cells"])),) * 2
        field = (strength(task.ranges["inhomogeneity"]),) * 2
        return [("field", narrow(task, inhomogeneity=field, cells=cells))]
    if isinstance(task, SuperResolution):
        factor = (strength(task.ranges["factor"]),) * 2
        return [(kind.replace("_", " "), narrow(task, kinds=[kind], factor=factor)) for kind in task.kinds]
    if isinstance(task, Inpainting):
        share = sum(task.share) / 2
        return [(kind, narrow(task, kinds=[kind], share=(share, share))) for kind in task.kinds]
    if isinstance(task, Synthesis):
        roles = image_roles(index)
        inputs = [list(task.sources)] if task.joint and task.sources else [[role] for role in task.sources or roles]
        pairs = [(given, target) for given in inputs for target in task.targets or roles if target not in given]
        made = [(f"{' + '.join(given)} to {to}", narrow(task, sources=given, targets=[to])) for given, to in pairs]
        return [(name, only) for name, only in made if only.accepts(index)]
    raise ValueError(
        "the protocol asks for segmentation, denoising, inpainting, bias-field correction, super-resolution and "
        f"synthesis, not {type(task).__name__}"
    )


def strength(bounds: tuple[float, float]) -> float:
    """The strength between two that is asked for."""
    return float(bounds[0] * (bounds[1] / bounds[0]) ** LEVEL)


def narrow(task: Task, **changes: Any) -> Task:
    """Makes a task again with other arguments."""
    made: Task = type(task)(**{**task.init_args, **changes})  # type: ignore[attr-defined]
    return made
