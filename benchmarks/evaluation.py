"""The protocol on patients: every slice of a volume is asked, and the volume is scored once.

A case is a volume of slices in order, or a picture as a volume of one. For every class (segmentation), kind (denoising,
inpainting) or direction (synthesis) of a source, each slice is a query whose context are slices of training patients:
drawn with a seed among those that show the class and lie at about the same height. No slice is chosen by its labels.
Masks and images are collected at the size of the network and scored over the whole volume: Dice and IoU of all its
pixels, PSNR and mean absolute error over the foreground of all its slices (over the holes, for inpainting), SSIM as the
mean over slices. Classes that a case does not show are counted, not scored; slices without foreground are left out of
image tasks.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from benchmarks.questions import Question, questions
from mvg import metrics
from mvg.configuration import from_config
from mvg.controls import CONTROLS, trivial_answers
from mvg.data import EpisodeDataModule
from mvg.data.episodes import EpisodeDataset, Plan
from mvg.data.source import Index
from mvg.data.subject import Item
from mvg.episode import Episode, Pair, Spec
from mvg.models.base import InContextModel
from mvg.report import NETWORK
from mvg.task import Task
from tasks import Inpainting
from tasks.painting import clamped, foreground, marked, truth

logger = logging.getLogger(__name__)

Entrant = Callable[[Tensor, Tensor, Tensor, str], Tensor]
"""`(image, context_images, context_targets, "source/task/variant")` to what is painted, `(B, C_out, *S)`."""

Record = dict[str, str | int | float]

ABSENT = "absent"
"""Metric of the records that count cases without the class."""


@dataclass(frozen=True)
class Protocol:
    """How cases are asked.

    Attributes:
        split: "val" or "test"; the context always comes from "train".
        context_size: Number of context pairs.
        seed: Seed of the context, of noise and of holes.
        slices: Most slices of a volume, evenly spaced; None for all.
        batch_size: Queries that are painted at once.
        trivial: Score the answers that need no network, too.
        swap: Ask the entrant named "network" with swapped targets, too.
    """

    split: str = "test"
    context_size: int = 1
    seed: int = 0
    slices: int | None = None
    batch_size: int = 32
    trivial: bool = True
    swap: bool = True

    def __post_init__(self) -> None:
        if self.split not in ("val", "test"):
            raise ValueError(f"`split` must be val or test, as training patients are the context, got {self.split!r}")
        if self.slices is not None and self.slices < 1:
            raise ValueError(f"`slices` must be at least 1, or None for all, got {self.slices}")


@dataclass(eq=False)
class Volume:
    """A case and what was painted of it so far.

    Attributes:
        case: Name of the case.
        patient: Its patient.
        plans: One for each slice, in order.
        painted: Entrant to its masks `(*S)` or images `(C, *S)`, slice by slice.
        true: Entrant to what it is compared with.
        masks: Entrant to the pixels that count, `(*S)` bool (image tasks).
    """

    case: str
    patient: str
    plans: list[Plan]
    painted: dict[str, list[Tensor]] = field(default_factory=dict)
    true: dict[str, list[Tensor]] = field(default_factory=dict)
    masks: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, entrant: str, painted: Tensor, true: Tensor, mask: Tensor) -> None:
        """Appends a slice."""
        for kept, value in ((self.painted, painted), (self.true, true), (self.masks, mask)):
            kept.setdefault(entrant, []).append(value)


def load_data(config: str | Path | Mapping[str, Any], network: InContextModel, **changes: Any) -> EpisodeDataModule:
    """Builds a data module for a network.

    Args:
        config: A YAML file such as `configs/data/real.yaml`, or its content.
        network: Gives size and channels of the images.
        **changes: Arguments of `EpisodeDataModule` that replace those of the file.
    """
    content: Any = (
        config if isinstance(config, Mapping) else OmegaConf.to_container(OmegaConf.load(config), resolve=True)
    )
    built = from_config({**content, **changes})
    return EpisodeDataModule(
        list(network.image_size), in_channels=network.in_channels, out_channels=network.out_channels, **built
    )


def network_entrant(network: InContextModel, autocast: bool = True) -> Entrant:
    """Makes an entrant of a network, in bfloat16 where `autocast` is set, on the device that it is on."""
    device = next(network.parameters()).device
    network.eval()

    def answer(image: Tensor, context_images: Tensor, context_targets: Tensor, name: str) -> Tensor:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            painted = network(image.to(device), context_images.to(device), context_targets.to(device))
        result: Tensor = painted.float().cpu()
        return result

    return answer


def evaluate(
    entrants: Mapping[str, Entrant], data: EpisodeDataModule, protocol: Protocol | None = None
) -> list[Record]:
    """Scores entrants on every case of a split.

    Args:
        entrants: Name to entrant; the one named "network" is asked with swapped targets, too.
        data: Sources and tasks.
        protocol: How cases are asked.

    Returns:
        One record a case, variant, entrant and metric, with the keys `source`, `task`, `variant`, `case`, `patient`,
        `split`, `entrant`, `metric`, `shot`, `seed`, `slices` and `value`; for each class that a case does not show,
        one with the metric "absent".

    Raises:
        ValueError: If a task is none that the protocol knows, or a source has cohorts.
    """
    protocol = protocol or Protocol()
    dataset = episodes(data, protocol)
    records: list[Record] = []
    for source, task in dataset.pairs:
        start = time.monotonic()
        for question in questions(dataset, source, task):
            records += ask(dataset, question, entrants, protocol)
        logger.info("%s/%s: evaluated in %.0f s", source, task, time.monotonic() - start)
    return records


def episodes(data: EpisodeDataModule, protocol: Protocol) -> EpisodeDataset:
    """Makes the data set that builds the queries of a split; nothing of it is drawn at random."""
    for name, source in data.sources.items():
        if source.cohorts("train") != 1:
            raise ValueError(f"source {name!r} has {source.cohorts('train')} cohorts; the protocol is for patients")
    return EpisodeDataset(
        data.sources,
        data.tasks,
        protocol.split,
        1,
        data.image_size,
        data.in_channels,
        data.out_channels,
        context_size=protocol.context_size,
        weights=data.weights,
        near=data.near,
        context_split="train",
        aspect=data.aspect,
        controls=protocol.swap,
        remembered=256,
    )


# ---------------------------------------------------------------------- what is asked


def volumes(dataset: EpisodeDataset, question: Question, protocol: Protocol) -> tuple[list[Volume], list[Volume]]:
    """Plans every case: the volumes to ask, and those that do not show the class (without plans)."""
    offered = tuple(name for name in question.spec["query"] if "=" not in name)
    classes = {name for name in question.spec["query"] if "=" in name}
    index = Index(dataset.sources[question.source].items(protocol.split))
    contexts = Index(dataset.sources[question.source].items("train"))
    cases: dict[str, list[Item]] = {}
    for number in index.find(offered):
        cases.setdefault(index.items[int(number)].case, []).append(index.items[int(number)])
    planned, absent = [], []
    for case, items in cases.items():
        if classes and not classes <= frozenset().union(*(item.keys for item in items)):
            absent.append(Volume(case, items[0].group, []))
            continue
        chosen = spread(sorted(items, key=lambda item: item.slice or 0), protocol.slices)
        plans = [plan(dataset, question, item, contexts, protocol) for item in chosen]
        if None in plans:
            logger.warning(
                "%s: too few training slices for %d examples, left out", question.name, protocol.context_size
            )
            return [], []
        planned.append(Volume(case, items[0].group, [made for made in plans if made is not None]))
    return planned, absent


def spread(items: Sequence[Item], most: int | None) -> list[Item]:
    """Takes at most so many items, evenly spaced, first and last among them (the middle one of all, for one)."""
    if most is None or len(items) <= most:
        return list(items)
    places = np.linspace(0, len(items) - 1, most) if most > 1 else np.array([(len(items) - 1) / 2])
    return [items[int(place)] for place in places.round()]


def plan(dataset: EpisodeDataset, question: Question, item: Item, contexts: Index, protocol: Protocol) -> Plan | None:
    """Chooses the context of one slice; None if training patients do not show enough."""
    rng = generator(protocol.seed, question, item, stream=0)
    keys = tuple(question.spec["context"])
    numbers = dataset.choose_context(item, contexts, keys, protocol.context_size, rng)
    if numbers is None:
        return None
    return Plan(question.source, question.task, question.spec, (item, *(contexts.items[n] for n in numbers)))


def generator(seed: int, question: Question, item: Item, stream: int) -> np.random.Generator:
    """Returns the generator of one slice; it depends on nothing but seed, question, slice and stream."""
    names = [zlib.crc32(text.encode()) for text in (question.name, item.case)]
    return np.random.default_rng([seed, *names, item.slice or 0, stream])


# ---------------------------------------------------------------------- painting and scoring


def ask(
    dataset: EpisodeDataset, question: Question, entrants: Mapping[str, Entrant], protocol: Protocol
) -> list[Record]:
    """Asks one question of all cases; returns its records."""
    planned, absent = volumes(dataset, question, protocol)
    facts: dict[str, str | int] = {"shot": protocol.context_size, "seed": protocol.seed, "split": protocol.split}
    task = dataset.tasks[question.task]
    records = [_record(question, volume, facts, "", ABSENT, 1.0, 0) for volume in absent]
    for volume in paint(dataset, question, planned, entrants, protocol):
        records += _records(task, question, volume, facts)
    return records


def paint(
    dataset: EpisodeDataset,
    question: Question,
    planned: Sequence[Volume],
    entrants: Mapping[str, Entrant],
    protocol: Protocol,
) -> Iterator[Volume]:
    """Lets every entrant paint all slices, in batches that may span volumes; yields volumes once they are complete."""
    queue = [(volume, slice_plan) for volume in planned for slice_plan in volume.plans]
    task = dataset.tasks[question.task]
    for start in range(0, len(queue), protocol.batch_size):
        chunk = queue[start : start + protocol.batch_size]
        built = [dataset.build(made, generator(protocol.seed, question, made.items[0], stream=1)) for _, made in chunk]
        episode = Episode.collate(built)
        for entrant, painted in _answers(entrants, episode, question.name, protocol):
            for number, (volume, _) in enumerate(chunk):
                _collect(volume, entrant, painted[number], episode, number, task, question)
        last = start + protocol.batch_size
        waiting = queue[last][0] if last < len(queue) else None
        for volume in dict.fromkeys(member for member, _ in chunk):
            if volume is not waiting:
                yield volume


def _answers(
    entrants: Mapping[str, Entrant], episode: Episode, name: str, protocol: Protocol
) -> Iterable[tuple[str, Tensor]]:
    """What every entrant, trivial answer and control paints, `(B, C_out, *S)`."""
    for entrant, answer in entrants.items():
        yield entrant, answer(episode.image, episode.context_images, episode.context_targets, name)
    if protocol.trivial:
        yield from trivial_answers(episode).items()
    if protocol.swap and NETWORK in entrants and episode.swappable is not None and bool(episode.swappable.any()):
        assert episode.swap_targets is not None
        swapped = entrants[NETWORK](episode.image, episode.context_images, episode.swap_targets, name)
        yield CONTROLS[1], swapped
        yield CONTROLS[2], swapped


def _collect(
    volume: Volume, entrant: str, painted: Tensor, episode: Episode, number: int, task: Task, question: Question
) -> None:
    """Adds one painted slice `(C_out, *S)` to its volume; controls only where there is another structure to swap to."""
    spec, target = episode.specs[number], episode.target[number]
    if entrant in CONTROLS:
        if episode.swappable is None or not bool(episode.swappable[number]):
            return
        if entrant == CONTROLS[2] and episode.swap_target is not None:
            spec, target = episode.swap_specs[number], episode.swap_target[number]
    if task.is_label:
        found, true = (task.decode(values, spec).labels for values in (painted, target))
        assert found is not None
        assert true is not None
        asked = _asked(spec, question)
        volume.add(entrant, found == asked, true == asked, torch.ones_like(true, dtype=torch.bool))
        return
    pair = Pair(episode.image[number], target, episode.weight[number])
    clean = truth(pair, spec["channels"])
    mask = body = foreground(clean)
    if isinstance(task, Inpainting):
        mask = marked(pair)
    if bool(body.any()) and bool(mask.any()):
        volume.add(entrant, clamped(painted, spec["channels"]), clean, mask)


def _asked(spec: Spec, question: Question) -> int:
    """The class that is scored: that of the question, or the one it was swapped for."""
    classes = [int(k) for group in spec["classes"] for k in group]
    asked = int(question.spec["classes"][0][0])
    return asked if asked in classes else classes[0]


def _records(task: Task, question: Question, volume: Volume, facts: Mapping[str, str | int]) -> list[Record]:
    """Scores what was painted of a volume; a class too small for the network's size counts as absent."""
    first = next(iter(volume.painted), None)
    if task.is_label and first is not None and not _shown(volume, first):
        return [_record(question, volume, facts, "", ABSENT, 1.0, len(volume.plans))]
    records = []
    for entrant, slices in volume.painted.items():
        if task.is_label and not _shown(volume, entrant):
            continue
        scores = score_labels(volume, entrant) if task.is_label else score_images(volume, entrant, _ending(task))
        records += [
            _record(question, volume, facts, entrant, name, value, len(slices)) for name, value in scores.items()
        ]
    return records


def _shown(volume: Volume, entrant: str) -> bool:
    return any(bool(mask.any()) for mask in volume.true[entrant])


def _ending(task: Task) -> str:
    return "_hole" if isinstance(task, Inpainting) else ""


def score_labels(volume: Volume, entrant: str) -> dict[str, float]:
    """Dice and IoU over all slices of a volume together."""
    found, true = torch.stack(volume.painted[entrant]), torch.stack(volume.true[entrant])
    return {"dice": metrics.dice(found, true), "iou": metrics.iou(found, true)}


def score_images(volume: Volume, entrant: str, ending: str) -> dict[str, float]:
    """PSNR and mean absolute error of all masked pixels of a volume, and the mean SSIM of its slices."""
    painted, true = (torch.stack(values[entrant], 1) for values in (volume.painted, volume.true))
    mask = torch.stack(volume.masks[entrant])
    similarity = [
        float(metrics.ssim_map(painted[:, n], true[:, n])[:, mask[n]].mean()) for n in range(painted.shape[1])
    ]
    return {
        f"psnr{ending}": metrics.psnr(painted, true, mask),
        f"ssim{ending}": float(np.mean(similarity)),
        f"mae{ending}": metrics.mae(painted, true, mask),
    }


def _record(
    question: Question,
    volume: Volume,
    facts: Mapping[str, str | int],
    entrant: str,
    metric: str,
    value: float,
    count: int,
) -> Record:
    return {
        "source": question.source,
        "task": question.task,
        "variant": question.variant,
        "case": volume.case,
        "patient": volume.patient,
        "entrant": entrant,
        "metric": metric,
        **facts,
        "slices": count,
        "value": value,
    }
